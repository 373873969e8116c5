"""AR1: between CWR and a free trunk; what its pull holds and what it leaves alone; wrong variants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import TINY, counts, finish, matrix, trainer, trial
from torch import Tensor

from raycl.spec.options import Options
from raycl.strategies.base import Context, Position, Strategy, TaskData
from raycl.strategies.consolidated import ar1
from raycl.strategies.consolidated.base import Consolidated
from raycl.strategies.consolidated.cwr import CWR, CWRConfig
from raycl.trial.trainer import Trainer

SGD = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
CNN = {"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "batch"}
AT = Position(1, "train", 0, 0, 0.0, False)


def running(**blocks: Any) -> Trainer:
    return trainer(trial("ar1", blocks.pop("scenario", "class"), **blocks))


def state(learning: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learning.strategy.network.state_dict().items()}


def check_equal(one: Trainer, other: Trainer) -> None:
    assert counts(finish(one)) == counts(finish(other))
    theirs = state(other)
    assert all(torch.equal(value, theirs[name]) for name, value in state(one).items())


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("variant", ["cwr_plus", "cwr_star"])
def test_with_a_frozen_trunk_it_is_cwr(variant: str, scenario: str) -> None:
    blocks: dict[str, Any] = {"model": {"norm": "batch"}, "training": SGD}
    options = {"variant": variant, "trunk_learning_rate": 0.0}
    ours = running(options=options, scenario=scenario, **blocks)
    check_equal(ours, trainer(trial("cwr", scenario, options={"variant": variant}, **blocks)))
    assert not ours.strategy.pull.past.importance


class FreeTrunk(CWR):
    """CWR* with a trunk that goes on learning, at a tenth of the rate."""

    def __init__(self, config: CWRConfig, context: Context) -> None:
        Consolidated.__init__(self, config, context, learning_rate=0.1)


def test_without_a_pull_it_is_cwr_with_a_free_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: dict[str, Any] = {"model": {"norm": "batch"}, "training": SGD}
    options = {"variant": "cwr_star", "trunk_learning_rate": 0.1, "penalty": 0.0}
    ours = running(options=options, **blocks)
    monkeypatch.setattr("raycl.strategies.consolidated.cwr.CWR", FreeTrunk)
    check_equal(ours, trainer(trial("cwr", **blocks)))


def test_a_settled_trunk_moves_and_its_statistics_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TINY, "model", {})
    learning = running(model=CNN)
    learning.run_task()
    before = state(learning)
    learning.run_task()
    for name, value in state(learning).items():
        if name.startswith("backbone"):
            assert torch.equal(value, before[name]) == ("running" in name or "num_batches" in name), name
    scales = [group.get("scale", 1) for group in learning.strategy.trainable(1)["network"].groups]
    assert scales == [0.05, 1.0]


# -- what is pulled --------------------------------------------------------------------------------------------------


def check_pull(learning: Trainer) -> None:
    """From a place off the anchor, the pull adds 2 penalty F distance to trunk weights, and nothing elsewhere."""
    learning.run_task()
    strategy, penalty = learning.strategy, learning.strategy.config.penalty
    learning.strategy.grow(1)
    strategy.begin_task(1, Data())
    network = strategy.network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.01
            parameter.grad = torch.zeros_like(parameter)
    strategy.edit_gradients(None, AT)
    norms = {
        f"{name}.{own}"
        for name, layer in network.named_modules()
        if hasattr(layer, "running_mean")
        for own in ("weight", "bias")
    }
    pulled = 0
    for name, parameter in network.named_parameters():
        assert parameter.grad.max() <= 2 * penalty * 1e-3 * 0.0101, "importances are limited"
        if name.startswith("head") or name in norms:
            assert not parameter.grad.any(), f"{name} is pulled"
        else:
            pulled += int(parameter.grad.count_nonzero())
    assert pulled > 500


class Data:
    """As much of a task as its beginning asks for."""

    def counts(self) -> dict[int, int]:
        return {2: 10, 3: 10}


def test_trunk_weights_are_pulled_and_neither_head_nor_norms() -> None:
    check_pull(running(model={"norm": "batch"}))


def covers_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: norm layers are pulled."""
    monkeypatch.setattr(ar1, "without_norms", lambda module: dict(module.named_parameters()))


def covers_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the head is pulled as well as consolidated."""

    class Covers(ar1.AR1):
        def begin_task(self, task: int, data: TaskData) -> None:
            super().begin_task(task, data)
            self.pull.begin({**ar1.without_norms(self.network.backbone), "head": self.network.head.weight})

    monkeypatch.setattr(ar1, "AR1", Covers)


def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: importances grow without limit."""
    pull = ar1.PathPenalty

    def free(options: Options, optimizers: Any) -> Any:
        return pull(options.model_copy(update={"max_importance": 1e9}), optimizers)

    monkeypatch.setattr(ar1, "PathPenalty", free)


@pytest.mark.parametrize("mistake", [covers_everything, covers_the_head, unlimited])
def test_wrong_pulls_are_caught(mistake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    with pytest.raises(AssertionError, match=r"is pulled|are limited"):
        check_pull(running(model={"norm": "batch"}))


def test_a_strong_pull_holds_what_mattered() -> None:
    """The weighted distance from the end of the first task, of a trunk at full learning rate."""
    moved = {}
    for penalty in (1e-3, 1e4):
        learning = running(options={"penalty": penalty, "trunk_learning_rate": 1.0}, training={**SGD, "momentum": 0.0})
        learning.run_task()
        past = learning.strategy.pull.past
        importance = {name: value.clone() for name, value in past.importance.items()}
        anchor = {name: value.clone() for name, value in past.anchor.items()}
        learning.run_task()
        now = dict(learning.strategy.network.backbone.named_parameters())
        moved[penalty] = sum(
            float((value * (now[name].detach() - anchor[name]) ** 2).sum()) for name, value in importance.items()
        )
    assert moved[1e4] < 0.05 * moved[1e-3]


def test_the_first_task_does_not_see_the_pull() -> None:
    weak, strong = (running(options={"penalty": penalty}) for penalty in (1e-3, 1e6))
    for learning in (weak, strong):
        learning.run_task()
    theirs = state(strong)
    assert all(torch.equal(value, theirs[name]) for name, value in state(weak).items())


def test_it_keeps_what_naive_forgets() -> None:
    training = {"epochs": 6}
    naive = matrix(trial("naive", training=training)).average_accuracy()
    spec = trial("ar1", training=training, options={"trunk_learning_rate": 0.1, "head_learning_rate": 10.0})
    assert matrix(spec).average_accuracy() > naive + 0.15


def test_a_trunk_that_never_settles_is_another_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the whole network learns on at full rate, and only the head is consolidated."""
    training = {"epochs": 6}
    held = matrix(trial("ar1", training=training, options={"head_learning_rate": 10.0})).average_accuracy()
    monkeypatch.setattr(ar1.AR1, "trainable", Strategy.trainable)
    options = {"head_learning_rate": 10.0, "penalty": 0.0}
    assert matrix(trial("ar1", training=training, options=options)).average_accuracy() < held


def test_a_network_that_is_all_head_has_nothing_to_pull() -> None:
    learning = trainer(trial("ar1", "class", model={"hidden": []}))
    finish(learning)
