"""Continual backprop: which units begin anew, how many, and what that leaves of the network and its optimiser."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from mistakes import HEAD
from support import finish, trainer, trial
from torch import Tensor

from raycl.catalog import catalog
from raycl.errors import MethodError, SpecError
from raycl.models.network import Network
from raycl.spec.sweep import SweepSpec
from raycl.strategies.base import Position
from raycl.strategies.continual_backprop import ContinualBackprop, ContinualBackpropConfig, HiddenUnits
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

NEVER = 1_000_000


def begun(scenario: str = "domain", **blocks: Any) -> tuple[Trainer, ContinualBackprop]:
    """A trial about to learn its first task."""
    blocks = {"model": {"hidden": [12, 8], "init": "kaiming"}, **blocks}
    learning = trainer(trial("continual_backprop", scenario, **blocks))
    learning._grow(0)
    learning._build_optimizers(0)
    assert isinstance(learning.strategy, ContinualBackprop)
    return learning, learning.strategy


def batch(rows: int = 16, seed: int = 0) -> Batch:
    drawn = torch.Generator().manual_seed(seed)
    x, y = torch.randn(rows, 1, 8, 8, generator=drawn), torch.randint(0, 2, (rows,), generator=drawn)
    nothing = torch.zeros(rows, dtype=torch.int64)
    return Batch(torch.zeros(rows, 1, 8, 8, dtype=torch.uint8), x, y, nothing, nothing.bool())


def updated(strategy: ContinualBackprop, times: int) -> None:
    for update in range(times):
        strategy.step(batch(seed=update), Position(0, "train", 0, update, 0.0, True))


# -- which units, and how many ---------------------------------------------------------------------------------------


def units(count: int = 4, **options: Any) -> HiddenUnits:
    return HiddenUnits(count, ContinualBackpropConfig(**options), torch.device("cpu"))


def test_utilities_by_hand() -> None:
    """Two updates of two units: running means, corrected for the 0 they began with."""
    adaptable, plain = units(2, decay=0.5), units(2, decay=0.5, utility="contribution")
    incoming, outgoing = torch.tensor([[2.0, -2.0], [1.0, 0.0]]), torch.tensor([[1.0, -4.0], [3.0, 4.0]])
    for each in (adaptable, plain):
        each.update(torch.tensor([[1.0, 0.0], [3.0, 2.0]]), incoming, outgoing)
        assert each.mean.tolist() == [1.0, 0.5]
        assert each.corrected(each.mean).tolist() == [2.0, 1.0]
    # mean |out| is 2 and 4, mean |in| 2 and 1/2; |h - mean| is 1 and 1, |h| 2 and 1
    assert adaptable.corrected(adaptable.utility).tolist() == [1.0, 8.0]
    assert plain.corrected(plain.utility).tolist() == [4.0, 4.0]
    for each in (adaptable, plain):
        each.update(torch.tensor([[4.0, 1.0]]), incoming, outgoing)
    # the mean is now (1/2 1 + 1/2 4) / (3/4) = 10/3 and (1/2 1/2 + 1/2 1) / (3/4) = 1
    assert adaptable.corrected(adaptable.mean).tolist() == pytest.approx([10 / 3, 1.0])
    assert adaptable.corrected(adaptable.utility).tolist() == pytest.approx([(0.25 + (4 - 10 / 3) / 2) / 0.75, 8 / 3])
    assert plain.corrected(plain.utility).tolist() == pytest.approx([(1 + 4) / 0.75, (1 + 2) / 0.75])


def test_as_many_are_replaced_as_the_sum_has_whole_units() -> None:
    """Mature units only: rate times their number, added up; a mutant that cuts every share to 0 replaces none."""
    each = units(100, replacement_rate=1 / 1024, maturity=10)
    replaced, expected = 0, 0.0
    for _ in range(200):
        each.update(torch.rand(4, 100), torch.ones(100, 3), torch.ones(2, 100))
        expected += int((each.age > 10).sum()) / 1024
        due = each.fallen_due()
        each.begin_anew(due)
        replaced += len(due)
    assert replaced == math.floor(expected) > 10
    assert each.due == pytest.approx(expected - replaced)


@pytest.mark.parametrize("utility", ["adaptable_contribution", "contribution"])
def test_a_unit_without_outgoing_weights_is_the_first_to_go_once_it_is_mature(utility: str) -> None:
    random = torch.Generator().manual_seed(0)
    outgoing = torch.rand(2, 4, generator=random) + 0.1
    outgoing[:, 2] = 0.0
    for head_start, expected in ((0, 2), (-9, None)):
        each = units(4, replacement_rate=0.34, maturity=3, utility=utility)
        each.age[2] = head_start
        for _ in range(4):
            each.update(torch.rand(8, 4, generator=random), torch.ones(4, 3), outgoing)
            due = each.fallen_due().tolist()
        utility_of = each.corrected(each.utility).tolist()
        assert due == [expected if expected is not None else min((0, 1, 3), key=utility_of.__getitem__)]


def test_no_unit_is_replaced_before_its_time() -> None:
    _, strategy = begun(options={"replacement_rate": 1.0, "maturity": 7})
    updated(strategy, 7)
    assert all((each.age == 7).all() for each in strategy.hidden)
    updated(strategy, 1)
    assert all((each.age == 0).all() for each in strategy.hidden), "and then all of them are, at a rate of 1"


# -- what a replacement leaves ----------------------------------------------------------------------------------------


def replaced(strategy: ContinualBackprop, place: int, chosen: list[int]) -> None:
    layers = [*strategy._linear(), strategy.network.head]
    with torch.no_grad():
        strategy._replace(place, torch.tensor(chosen), layers[place], layers[place + 1])


@pytest.mark.parametrize("transfer", [True, False])
@pytest.mark.parametrize("place", [0, 1])
def test_outputs_go_on_where_a_constant_unit_is_replaced(place: int, transfer: bool) -> None:
    """Its mean activation is what it gives on every row; without the transfer, the mutant, outputs jump."""
    _, strategy = begun(options={"maturity": NEVER, "bias_transfer": transfer})
    layer = list(strategy._linear())[place]
    layer.weight.data[2], layer.bias.data[2] = 0.0, 0.75
    strategy.context.optimizers["network"].param_groups[0]["lr"] = 0.0
    updated(strategy, 3)
    before = strategy.network(batch().x)
    replaced(strategy, place, [2])
    after = strategy.network(batch().x)
    if transfer:
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    else:
        assert (after - before).abs().max() > 1e-2


def test_what_a_replaced_unit_is_made_of() -> None:
    _, strategy = begun(options={"maturity": NEVER}, training={"optimizer": "adam"})
    updated(strategy, 3)
    first, second = strategy._linear()
    kept = {name: value.clone() for name, value in strategy.network.state_dict().items()}
    replaced(strategy, 0, [1, 4])
    bound = math.sqrt(6 / 64)
    assert 0.9 * bound < first.weight[[1, 4]].abs().max() <= bound
    assert not torch.equal(first.weight[1], kept["backbone.1.weight"][1])
    assert first.bias[[1, 4]].tolist() == [0.0, 0.0]
    assert not second.weight[:, [1, 4]].any()
    others = [unit for unit in range(12) if unit not in (1, 4)]
    assert torch.equal(first.weight[others], kept["backbone.1.weight"][others])
    assert torch.equal(second.weight[:, others], kept["backbone.3.weight"][:, others])
    assert torch.equal(second.bias, kept["backbone.3.bias"]), "as the authors' code runs"
    for value in (strategy.hidden[0].age, strategy.hidden[0].mean, strategy.hidden[0].utility):
        assert value[[1, 4]].tolist() == [0.0, 0.0]
        assert value[others].any()
    states = strategy.context.optimizers["network"].state
    for name in ("exp_avg", "exp_avg_sq"):
        assert not states[first.weight][name][[1, 4]].any()
        assert not states[first.bias][name][[1, 4]].any()
        assert not states[second.weight][name][:, [1, 4]].any()
        assert states[first.weight][name][others].any()
        assert states[second.weight][name][:, others].any()
        assert states[second.bias][name].any()


@pytest.mark.parametrize(("start", "bound"), [("default", 1 / 8), ("xavier", math.sqrt(6 / (64 + 12)))])
def test_incoming_weights_are_drawn_as_the_layer_started(start: str, bound: float) -> None:
    _, strategy = begun(model={"hidden": [12, 8], "init": start})
    (first, _) = strategy._linear()
    first.weight.data.zero_()
    replaced(strategy, 0, list(range(12)))
    assert 0.9 * bound < first.weight.abs().max() <= bound


def test_all_layers_are_judged_by_the_weights_that_the_step_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by those which a replacement further down has drawn in the same update."""
    seen: list[Tensor] = []
    update = HiddenUnits.update
    monkeypatch.setattr(HiddenUnits, "update", lambda self, *rest: (seen.append(rest[1].clone()), update(self, *rest)))
    _, strategy = begun(options={"replacement_rate": 1.0, "maturity": 0})
    updated(strategy, 1)
    assert seen[1].any(0).all(), "the second layer's weights before the first layer's units were taken out of them"


def test_it_replaces_within_a_trial_and_keeps_its_books() -> None:
    learning = trainer(trial("continual_backprop", "class", options={"replacement_rate": 0.02, "maturity": 10}))
    rows = finish(learning)
    assert isinstance(learning.strategy, ContinualBackprop)
    (hidden,) = learning.strategy.hidden
    assert hidden.age.min() < hidden.age.max(), "some began anew"
    naive = finish(trainer(trial("naive", "class")))
    assert rows[-1].cost.state_bytes == naive[-1].cost.state_bytes + 3 * 4 * 32, "age, mean and utility of 32 units"
    assert rows[-1].cost.forward_examples == naive[-1].cost.forward_examples


# -- refusals ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "a convolutional network": "{name: cnn, channels: [4, 8], hidden: 16}",
    "batch norm": "{name: mlp, hidden: [10], norm: batch}",
    "no hidden layer": "{name: mlp, hidden: []}",
    "a cosine head": "{name: mlp, hidden: [10], classifier: cosine}",
}


@pytest.mark.parametrize("model", REFUSED.values(), ids=REFUSED)
def test_other_networks_are_refused_with_the_remedy(model: str) -> None:
    text = HEAD.replace("{name: mlp, hidden: [10]}", model)
    with pytest.raises(SpecError, match=r"replaces units of linear layers.*take model mlp"):
        SweepSpec.parse(text + "strategies: {continual_backprop: {}}\nfinal: {seeds: [10]}\n", catalog())


def test_a_network_that_turns_out_otherwise_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trial("continual_backprop")
    forward = Network.__init__

    def with_dropout(self: Network, backbone: torch.nn.Module, *rest: Any) -> None:
        forward(self, torch.nn.Sequential(*backbone.children(), torch.nn.Dropout(0.5)), *rest)

    monkeypatch.setattr(Network, "__init__", with_dropout)
    with pytest.raises(MethodError, match="continual_backprop: replaces units of linear layers"):
        trainer(spec)
