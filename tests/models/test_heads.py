"""The two heads: rows and biases, and scaled cosines; every method learns with either, or says that it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import counts, finish, trainer, trial
from torch import Tensor, nn

from raycl.catalog import catalog
from raycl.errors import SpecError
from raycl.learning.per_example import mean_power_of_gradients
from raycl.models.network import CosineHead, GrowingHead, Network
from raycl.streams.task import Batch
from raycl.trial import checkpoint

COSINE = {"classifier": "cosine"}
REFUSED = {"cwr", "ar1", "ar1_latent_replay", "generative_negative_replay", "continual_backprop"}
"""Methods that put rows of heads together, or replace what leads to them."""


def head(kind: type[GrowingHead] = CosineHead, scale: float = 10.0, units: int = 3) -> GrowingHead:
    random = torch.Generator().manual_seed(0)
    made = CosineHead(4, random, scale) if kind is CosineHead else GrowingHead(4, random)
    made.grow(units)
    return made


def features() -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def check_cosines(made: GrowingHead, scale: float) -> None:
    """By hand, row by row; no bias; the length of features and rows does not count."""
    x = features()
    logits = made(x)
    for row in range(6):
        for unit in range(3):
            one, other = x[row].double(), made.weight[unit].double()
            cosine = (one @ other) / (one.norm() * other.norm())
            assert logits[row, unit].item() == pytest.approx(scale * cosine.item(), abs=1e-5)
    assert torch.allclose(made(7 * x), logits, atol=1e-5)
    with torch.no_grad():
        made.weight *= torch.tensor([[3.0], [0.2], [1.0]])
    assert torch.allclose(made(x), logits, atol=1e-5)
    assert made.bias is None
    assert set(made.state_dict()) == {"weight"}


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_logits_are_scaled_cosines(scale: float) -> None:
    check_cosines(head(scale=scale), scale)


class RowsAsTheyAre(CosineHead):
    """The mutant: features alone are brought to unit length."""

    def logits(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._scale * nn.functional.linear(nn.functional.normalize(features, dim=1), weight)


@pytest.mark.parametrize("kind", [GrowingHead, RowsAsTheyAre])
def test_the_check_finds_other_heads(kind: type[GrowingHead]) -> None:
    random = torch.Generator().manual_seed(0)
    made = kind(4, random) if kind is GrowingHead else RowsAsTheyAre(4, random, 10.0)
    made.grow(3)
    with pytest.raises(AssertionError):
        check_cosines(made, 10.0)


@pytest.mark.parametrize("kind", [GrowingHead, CosineHead])
def test_it_grows_and_answers_for_some_units_alone(kind: type[GrowingHead]) -> None:
    made, x = head(kind), features()
    before = made(x)
    made.grow(5)
    assert torch.equal(made.own(x, range(3)), before)
    alone = made.alone(x, range(3, 5))
    assert torch.equal(alone[:, 3:], made.own(x, range(3, 5)))
    assert (alone[:, :3] == float("-inf")).all()
    assert sum(p.numel() for p in made.parameters()) == 5 * made.numbers_per_unit


def test_rows_and_features_without_a_direction_do_no_harm() -> None:
    made, x = head(), features()
    with torch.no_grad():
        made.weight[0] = 0
        x[0] = 0
    logits = made(x)
    logits.square().sum().backward()
    assert (logits[0] == 0).all()
    assert (logits[:, 0] == 0).all()
    assert made.weight.grad is not None
    assert made.weight.grad.isfinite().all()


def test_a_head_is_chosen_before_it_has_rows() -> None:
    network = Network(nn.Identity(), 4, torch.Generator().manual_seed(0))
    network.measure_cosines(5.0)
    network.grow_head(2)
    assert 0 < network(features()).abs().max() <= 5.00001
    with pytest.raises(AssertionError, match="would be lost"):
        network.measure_cosines(5.0)


def test_gradients_of_single_examples_are_those_of_autograd() -> None:
    """Importances of EWC and MAS: the mean over rows of squares, by hand for each row."""
    network = Network(nn.Identity(), 4, torch.Generator().manual_seed(0))
    network.measure_cosines(10.0)
    network.grow_head(3)
    x = features()
    empty = torch.zeros(6, dtype=torch.int64)
    batch = Batch(x, x, empty, empty, empty.bool())
    found = mean_power_of_gradients(network, [batch], lambda logits, _: iter([torch.ones_like(logits)]), "square")
    weight = network.head.weight
    squares = [torch.autograd.grad(network(row[None]).sum(), weight)[0].square() for row in x]
    assert torch.allclose(found["head.weight"], torch.stack(squares).mean(0), rtol=1e-4)


@pytest.mark.parametrize("name", catalog().strategies.names())
def test_every_method_learns_with_cosines_or_refuses_them(name: str) -> None:
    """Also from a checkpoint between two tasks, to the bit."""
    method = catalog().strategies.get(name)
    scenario = "class" if "class" in method.scenarios else "task"
    options = {"passes": 2} if name == "gdumb" else {}
    blocks: dict[str, Any] = {
        "options": options,
        "stream": {"tasks": 2, "train_per_task": 40},
        "training": {"epochs": 1},
    }
    spec = trial(name, scenario, model=COSINE, **blocks)
    if name in REFUSED:
        with pytest.raises(SpecError, match=r"model\.classifier: .* use linear"):
            trainer(spec)
        return
    whole, first, second = trainer(spec), trainer(spec), trainer(spec)
    rows = finish(whole)
    begun = first.run_task()
    second.load_state_dict(checkpoint.decode(checkpoint.encode(first.state_dict())))
    assert counts(begun + finish(second)) == counts(rows)
    own = [value for value in vars(whole.strategy).values() if isinstance(value, nn.Module)]
    heads = [module for value in own for module in value.modules() if isinstance(module, GrowingHead)]
    assert all(isinstance(module, CosineHead) for module in heads)


@pytest.mark.parametrize("classifier", ["ncm", "slda"])
def test_a_linear_head_in_closed_form_needs_a_linear_head(classifier: str) -> None:
    with pytest.raises(SpecError, match=r"model\.classifier: .* linear head in closed form"):
        trainer(trial("feature_extraction", model=COSINE, options={"classifier": classifier}))


def test_both_options_came_later_and_change_no_older_name() -> None:
    assert trial("naive", model={"classifier": "auto"}).hash == trial("naive").hash
    assert trial("naive", model={"classifier_scale": 5.0}).hash != trial("naive").hash
    assert trial("naive", model=COSINE).hash != trial("naive").hash
