"""Partial hypernetworks: layers that all tasks share, below those that are generated."""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytest
import torch
from strategies.every_method import assert_equal_state, small, stopped_after_every_task
from support import NORMED, TINY, counts, evaluation_rows, finish, matrix, trainer
from torch import Tensor
from torch.func import functional_call

from raycl.catalog import catalog
from raycl.errors import MethodError, SpecError
from raycl.spec.sweep import SweepSpec
from raycl.strategies.hypernetwork.hypernetwork import Hypernetwork
from raycl.trial.trainer import Trainer

LAYERS = {"mlp": "2", "cnn": "3", "resnet32": "7"}
"""Where each model of NORMED is cut."""
MODELS = ["mlp", "cnn", pytest.param("resnet32", marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def _any_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TINY, "model", {"name": "mlp", "hidden": [32]})


def made(scenario: str = "task", kind: str = "", **blocks: Any) -> Trainer:
    """A trial of two layers, or of a model of NORMED, cut after the first of them."""
    return trainer(spec_of(scenario, kind, **blocks))


def spec_of(scenario: str = "task", kind: str = "", name: str = "hypernetwork", **blocks: Any) -> Any:
    options = {"beta": 1.0, "layer": LAYERS.get(kind, "2"), **blocks.pop("options", {})}
    if kind in ("cnn", "resnet32"):
        TINY["model"] = {}
    model = NORMED[kind] if kind else {"hidden": [32, 16]}
    stream = {"pad": 4, **blocks.pop("stream", {})} if kind == "resnet32" else blocks.pop("stream", {})
    return small(name, scenario, options=options, model=model, stream=stream, **blocks)


def method(running: Trainer) -> Hypernetwork:
    assert isinstance(running.strategy, Hypernetwork)
    return running.strategy


def shared(running: Trainer) -> dict[str, Tensor]:
    """Weights and statistics of the shared layers."""
    return {name: value.clone() for name, value in method(running).lower.state_dict().items()}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("augment", ["none", "crop"])
def test_shared_layers_learn_in_the_first_task_and_stay_to_the_bit(kind: str, augment: str) -> None:
    """Where the stream augments, they run in every update of later tasks."""
    training = {"weight_decay": 0.1, "reset_optimizer": False}
    running = made(kind=kind, training=training, stream={"augment": augment})
    start = shared(running)
    running.run_task()
    learned = shared(running)
    assert all(not torch.equal(learned[name], value) for name, value in start.items() if value.dim() > 1)
    assert any(name.endswith("running_mean") for name in learned)
    finish(running)
    assert_equal_state(shared(running), learned)
    assert not any(parameter.requires_grad for parameter in method(running).lower.parameters())


def test_from_the_start_they_never_move() -> None:
    running = made(kind="mlp", options={"freeze": "from_start"})
    start = shared(running)
    finish(running)
    assert_equal_state(shared(running), start)
    assert "shared" not in running.strategy.trainable(0)


@pytest.mark.parametrize("kind", MODELS)
def test_the_whole_network_is_what_was_built(kind: str) -> None:
    """Shared layers and generated ones, one after the other, are the model with both kinds of weights."""
    running = made(kind=kind)
    finish(running)
    own, x = method(running), evaluation_rows(running, 1).x
    own.train(False)
    weights = own.target.split(own.protected.weights([1])[0]) | own._states[1]
    whole = torch.nn.Sequential(own.lower, own.target.built(own.protected.weights([1])[0], own._states[1]))
    plain = {f"1.{name}": value for name, value in weights.items()}
    with torch.no_grad():
        expected = functional_call(whole.eval(), plain, (x,))
        found = own.predict(x, 1)[:, running.scenario.units(1).start : running.scenario.units(1).stop]
    torch.testing.assert_close(found, expected)


def test_the_first_tasks_update_has_the_gradients_of_its_loss() -> None:
    """Of shared layers, theta and embedding alike, by autograd through the two parts."""
    running, checked = made(), []
    own = method(running)
    real = own.step

    def step(batch: Any, at: Any) -> Any:
        parameters = [*own.lower.parameters(), *own.generator.theta.values(), own.embeddings[0]]
        weights = own.target.split(own.generator(own.embeddings[0][None])[0])
        hidden = (batch.x.flatten(1) @ own.lower[1].weight.T + own.lower[1].bias).relu()
        hidden = (hidden @ weights["backbone.0.weight"].T + weights["backbone.0.bias"]).relu()
        logits = hidden @ weights["head.weight"].T + weights["head.bias"]
        loss = torch.nn.functional.cross_entropy(logits, batch.y)
        expected = torch.autograd.grad(loss, parameters)
        losses = real(batch, at)
        for parameter, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
        checked.append(at.update)
        return losses

    own.step = step  # type: ignore[method-assign]
    running.run_task()
    assert len(checked) > 5


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("hypernetwork", "mlp"),
        ("hypernetwork_tir", "mlp"),
        ("hypernetwork", "cnn"),
        pytest.param("hypernetwork", "resnet32", marks=pytest.mark.slow),
    ],
)
def test_resuming_equals_never_having_stopped(name: str, kind: str) -> None:
    spec = spec_of("class", kind, name)
    whole = trainer(spec)
    rows = finish(whole)
    resumed, resumed_rows = stopped_after_every_task(spec)
    assert counts(resumed_rows) == counts(rows)
    assert_equal_state(resumed.state_dict(), whole.state_dict())


def test_it_learns_and_keeps() -> None:
    found = matrix(spec_of(training={"epochs": 6}))
    assert found.learning_accuracy() > 0.9
    assert found.forgetting() < 0.05


def test_hidden_tasks_are_told_apart_above_shared_layers() -> None:
    """Chance of six classes is a sixth."""
    assert matrix(spec_of("class", training={"epochs": 6})).average_accuracy() > 0.4


def test_what_the_stream_augments_goes_through_shared_layers_in_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, augmented = made(kind="mlp"), made(kind="mlp", stream={"augment": "crop"})
    full = made(kind="mlp")
    sources = []
    for running in (kept, augmented, full):
        running.run_task()
        monkeypatch.setattr(
            "raycl.strategies.hypernetwork.hypernetwork.LATENT_NUMBERS", 10 if running is full else 2**27
        )
        phases = method(running).phases
        running.strategy.phases = lambda task, own=phases: sources.append(type(own(task)[0].source)) or own(task)
        running.run_task()
    assert [source.__name__ for source in sources] == ["Rows", "Source", "Source"]
    ours, theirs = (method(running).protected.weights([0, 1]) for running in (kept, full))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


# -- size and cost -----------------------------------------------------------------------------------------------------


def test_only_what_is_generated_is_in_the_ratio() -> None:
    running = made()
    row = running.run_task()[-1]
    own, target = method(running), 32 * 16 + 16 + 16 * 2 + 2
    theta = sum(value.numel() for value in own.generator.theta.values())
    assert own.target.numel == row.measures["target_parameters"] == target
    assert row.measures["compression_ratio"] == (theta + 8) / target
    assert row.cost.parameters == theta + 8 + 64 * 32 + 32
    assert row.cost.state_bytes == 4 * row.cost.parameters


def test_the_more_layers_are_shared_the_less_is_generated() -> None:
    sizes = [method(made(options={"layer": layer})).target.numel for layer in (None, "2", "4")]
    assert sizes == [64 * 32 + 32 + 32 * 16 + 16 + 34, 32 * 16 + 16 + 34, 34]


def update_seconds(running: Trainer) -> float:
    """The median update's CPU seconds of a task."""
    seconds, real = [], running.strategy.step

    def step(*arguments: Any) -> Any:
        started = time.process_time()
        losses = real(*arguments)
        seconds.append(time.process_time() - started)
        return losses

    running.strategy.step = step  # type: ignore[method-assign]
    running.run_task()
    return statistics.median(seconds)


@pytest.mark.slow
def test_an_update_costs_less_the_more_layers_are_shared() -> None:
    found = []
    for layer in (None, "7", "12"):
        running = made(kind="resnet32", options={"layer": layer})
        running.run_task()
        found.append(update_seconds(running))
    assert found[0] > 1.2 * found[1] > 1.2 * 1.2 * found[2]


# -- what is refused ---------------------------------------------------------------------------------------------------

FILE = """
name: q
stream: {name: split, dataset: digits, tasks: 5, scenario: task}
model: {name: mlp, hidden: [32]%s}
training: {iterations: 5}
strategies: {hypernetwork: {%s}}
final: {seeds: [1]}
"""


def test_a_layer_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(
        MethodError, match=r"must name one of the backbone's modules.*known: 0 Flatten, 1 Linear, 2 ReLU"
    ):
        made(options={"layer": "conv7"})


def test_weights_are_refused_where_all_layers_are_generated() -> None:
    with pytest.raises(SpecError, match=r"model\.weights: all weights are generated.*name the last shared layer"):
        SweepSpec.parse(FILE % (", weights: x.safetensors", ""), catalog())
    assert SweepSpec.parse(FILE % (", weights: x.safetensors", "layer: '2', freeze: from_start"), catalog()).entries


def test_when_to_freeze_is_idle_where_nothing_is_shared() -> None:
    told = SweepSpec.parse(FILE % ("", "freeze: from_start"), catalog()).warnings
    assert any("freeze" in line and "without layer tasks share no layers" in line for line in told)
