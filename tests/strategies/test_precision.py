"""Every method learns in bfloat16 what it learns in float32, within some points, and keeps nothing but float32."""

from __future__ import annotations

import operator
from functools import cache
from typing import Any

import pytest
import torch
from strategies.every_method import ONE_EACH, assert_equal_state, small, stopped_after_every_task, tensors
from support import NORMED, counts, finish, trainer
from torch import Tensor, nn

from raycl.catalog import catalog
from raycl.learning.precision import Bfloat16, exactly
from raycl.matrix import AccuracyMatrix, TaskRow
from raycl.spec.training import TrainingConfig
from raycl.spec.trial import TrialSpec
from raycl.strategies.base import Strategy
from raycl.trial.trainer import Trainer

POINTS = 0.08
"""Of mean accuracy over two tasks of digits, 118 test images: ten of them."""


def spec(name: str, scenario: str, precision: str = "bf16", **blocks: Any) -> TrialSpec:
    training = {"precision": precision, "epochs": 2}
    return small(name, scenario, training=training, stream={"tasks": 2, **blocks.pop("stream", {})}, **blocks)


@cache
def learned(name: str, scenario: str, precision: str) -> tuple[Trainer, list[TaskRow]]:
    running = trainer(spec(name, scenario, precision))
    return running, finish(running)


def accuracy(rows: list[TaskRow]) -> float:
    return float(AccuracyMatrix.of(rows, 2).accuracy[1].mean())


def check_kept(running: Trainer) -> None:
    """Weights, whatever else the method keeps, its memory and its optimisers."""
    running._build_optimizers(1, keep_state=True)
    kept = tensors([running.state_dict(), running._optimizers.state_dict(), running.remembered()])
    assert not [path for path, tensor in kept.items() if tensor.dtype in (torch.bfloat16, torch.float16)]


@pytest.mark.parametrize(("name", "scenario"), ONE_EACH)
class TestEveryMethod:
    def test_learns_as_in_float32(self, name: str, scenario: str) -> None:
        half, whole = learned(name, scenario, "bf16"), learned(name, scenario, "float32")
        assert abs(accuracy(half[1]) - accuracy(whole[1])) <= POINTS
        ours, theirs = (tensors(each[0].strategy.state_dict()) for each in (half, whole))
        assert any(not torch.equal(ours[key], theirs[key]) for key in ours), "it has computed something in bfloat16"

    def test_keeps_float32(self, name: str, scenario: str) -> None:
        check_kept(learned(name, scenario, "bf16")[0])

    def test_goes_on_to_the_bit(self, name: str, scenario: str) -> None:
        running, rows = learned(name, scenario, "bf16")
        resumed, again = stopped_after_every_task(spec(name, scenario))
        assert counts(again) == counts(rows)
        assert_equal_state(resumed.strategy.state_dict(), running.strategy.state_dict())


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_convolutions_and_batch_norm_learn_too(model: str) -> None:
    running = trainer(spec("replay", "class", model=NORMED[model], stream={"train_per_task": 60}))
    found: set[torch.dtype] = set()
    for layer in running.strategy.network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(lambda module, given, output: found.add(output.dtype))
    finish(running)
    assert found == {torch.bfloat16}
    check_kept(running)


def gradients(running: Trainer) -> set[torch.dtype]:
    return {parameter.grad.dtype for parameter in running.strategy.network.parameters() if parameter.grad is not None}


def test_logits_gradients_and_losses_are_float32_and_products_are_not() -> None:
    seen: dict[str, set[torch.dtype]] = {"layer": set(), "logits": set()}
    running = trainer(spec("naive", "class"))
    network = running.strategy.network
    first = next(layer for layer in network.backbone.modules() if isinstance(layer, nn.Linear))
    first.register_forward_hook(lambda module, given, output: seen["layer"].add(output.dtype))
    network.register_forward_hook(lambda module, given, output: seen["logits"].add(output.dtype))
    running.run_task()
    assert seen == {"layer": {torch.bfloat16}, "logits": {torch.float32}}, "of updates and of predictions alike"
    assert gradients(running) == {torch.float32}


@pytest.mark.parametrize(
    ("name", "scenario", "part"),
    [
        ("hypernetwork_tir", "class", "inference"),
        ("hypernetwork_tir", "class", "vae.encoder"),
        ("generative_negative_replay", "class", "generator"),
        ("progress_compress", "domain", "knowledge"),
    ],
)
def test_phases_with_a_step_of_their_own_compute_in_bfloat16_too(name: str, scenario: str, part: str) -> None:
    found: set[torch.dtype] = set()
    running = trainer(spec(name, scenario))
    running.run_task()
    module: nn.Module = operator.attrgetter(part)(running.strategy)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(
                lambda layer, given, output: found.add(output.dtype) if torch.is_grad_enabled() else None
            )
    running.run_task()
    assert torch.bfloat16 in found


def test_a_matrix_product_by_hand() -> None:
    """bfloat16 keeps 8 bits: 1 + 1/256 is 1 in it, and 1 + 1/128 is itself."""
    given = torch.tensor([[1 + 1 / 256, 1 + 1 / 128]])
    product = Bfloat16(torch.device("cpu"))(lambda x: {"sum": x @ torch.eye(2)})(given)["sum"]
    assert product.dtype == torch.float32
    assert product.tolist() == [[1.0, 1 + 1 / 128]]

    def inside(x: Tensor) -> Tensor:
        with exactly(torch.device("cpu")):
            return x @ torch.eye(2)

    assert torch.equal(Bfloat16(torch.device("cpu"))(inside)(given), given), "but for what has to be exact"


def test_a_pass_without_gradients_hides_no_weights_from_the_next() -> None:
    """As where a teacher and a student share layers: torch's cache of cast weights would give none to the second."""
    layer = nn.Linear(2, 2)

    def loss(x: Tensor) -> Tensor:
        with torch.no_grad():
            target = layer(x)
        return (layer(x) - target + 1).square().sum()

    Bfloat16(torch.device("cpu"))(loss)(torch.ones(1, 2)).backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


def test_float32_costs_nothing_and_changes_no_name() -> None:
    plain, told = small("naive", "class"), small("naive", "class", training={"precision": "float32"})
    assert plain.hash == told.hash != small("naive", "class", training={"precision": "bf16"}).hash
    assert "precision" not in TrainingConfig().decisive()
    running = trainer(plain)
    assert running.strategy.context.precision is None
    assert not {"loss", "predict"} & vars(running.strategy).keys(), "its functions are the class's own"
    assert spec("naive", "class").hyperparameters()["training.precision"] == "bf16", "and rows tell it"


def test_every_method_names_its_own_passes() -> None:
    for name in catalog().strategies.names():
        strategy: type[Strategy] = catalog().strategies.get(name)
        assert all(callable(getattr(strategy, each)) for each in strategy.passes)
        assert "predict" in strategy.passes


def check_naive_differs() -> None:
    ours, theirs = (trainer(spec("naive", "class", precision)) for precision in ("bf16", "float32"))
    for running in (ours, theirs):
        finish(running)
    pairs = zip(ours.strategy.network.parameters(), theirs.strategy.network.parameters(), strict=True)
    assert any(not torch.equal(own, other) for own, other in pairs)


def test_the_mutant_that_casts_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    check_naive_differs()
    monkeypatch.setattr(Bfloat16, "__call__", lambda self, function: function)
    with pytest.raises(AssertionError):
        check_naive_differs()


def test_the_mutant_that_keeps_what_it_computed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of DER cannot even hold such logits: numpy has no type for them."""
    monkeypatch.setattr("raycl.learning.precision._float32", lambda found: found)
    with pytest.raises(TypeError, match="BFloat16"):
        finish(trainer(spec("der", "class")))
