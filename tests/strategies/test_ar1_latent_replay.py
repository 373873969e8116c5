"""AR1* with latent replay: how replayed classes count, which parts learn, and replays as negatives; wrong variants."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from support import counts, finish, matrix, trainer, trial
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.learning.consolidated_head import ConsolidatedHead
from raycl.memory.buffer import everything
from raycl.strategies.base import Position, Source, TaskData
from raycl.strategies.consolidated import ar1_latent_replay
from raycl.strategies.consolidated.ar1_latent_replay import AR1LatentReplay
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

MODEL = {"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "batch"}


def made(scenario: str = "class", **blocks: Any) -> Trainer:
    options = {"layer": "3", **blocks.pop("options", {})}
    training = {"epochs": 1, **blocks.pop("training", {})}
    return trainer(trial("ar1_latent_replay", scenario, model=MODEL, training=training, options=options, **blocks))


def weight(learning: Trainer) -> Tensor:
    return learning.strategy.network.head.weight.detach().clone()


@pytest.mark.parametrize("variant", ["cwr", "cwr_plus", "cwr_star"])
def test_negatives_meet_old_rows_as_they_are_consolidated(variant: str) -> None:
    """From the first update to the last, whatever the optimiser would do to them."""
    training = {"optimizer": "adam", "weight_decay": 0.1, "reset_optimizer": False, "active_logits": "all"}
    learning = made(options={"mode": "negative", "variant": variant}, training=training, memory={"capacity": 40})
    learning.run_task()
    strategy, old = learning.strategy, weight(learning)
    update, seen = strategy.after_update, []

    def watched(batch: Batch, at: Position) -> None:
        update(batch, at)
        seen.append(torch.equal(weight(learning)[:2], old[:2]))

    strategy.after_update = watched
    learning.run_task()
    assert seen
    assert all(seen)


def test_a_penalty_with_nothing_to_hold_is_refused() -> None:
    with pytest.raises(MethodError, match="set an earlier layer, a lower_learning_rate, or penalty: 0"):
        made(options={"layer": None, "penalty": 1.0})
    made(options={"layer": None, "penalty": 1.0, "lower_learning_rate": 0.1}).run_task()


# -- how replayed classes count ------------------------------------------------------------------------------------


def check_counts(learning: Trainer) -> None:
    """Classes of the memory begin at what is known, are consolidated, and count with their rows there."""
    head: ConsolidatedHead = learning.strategy.head
    learning.run_task()
    for task in (1, 2):
        past, known = head.past.tolist(), weight(learning)
        held = Counter(learning.strategy.memory.labels.tolist())
        assert set(held) == set(range(2 * task))
        began: list[Tensor] = []
        ended: list[Tensor] = []
        consolidate, begin = head.consolidate, head.begin

        def watched_begin(*arguments: Any, begin: Any = begin, began: list[Tensor] = began, **options: Any) -> None:
            begin(*arguments, **options)
            began.append(weight(learning))

        def watched(consolidate: Any = consolidate, ended: list[Tensor] = ended) -> None:
            ended.append(weight(learning))
            consolidate()

        head.begin, head.consolidate = watched_begin, watched  # type: ignore[method-assign]
        learning.run_task()
        head.begin, head.consolidate = begin, consolidate  # type: ignore[method-assign]
        labels = learning._rows.pool(Source.CURRENT, task)[0].labels().tolist()
        now = Counter(labels) + held
        grown = [*past, 0, 0]
        assert torch.equal(began[0][: 2 * task], known), "known rows begin at what is known"
        assert head.past.tolist() == [before + now[unit] for unit, before in enumerate(grown)]
        share = torch.tensor([(before / now[unit]) ** 0.5 for unit, before in enumerate(grown)])[:, None]
        before = torch.cat([known, torch.zeros(2, known.shape[1])])
        torch.testing.assert_close(weight(learning), (share * before + ended[0] - ended[0].mean()) / (share + 1))


def test_rows_in_the_memory_count() -> None:
    check_counts(made())


class CountsNewRowsOnly(AR1LatentReplay):
    """A mutant: replayed classes are not among those of the task."""

    def begin_task(self, task: int, data: TaskData) -> None:
        super().begin_task(task, data)
        with torch.no_grad():
            assert self.head._kept is not None
            self.network.head.weight.copy_(self.head._kept)
        self.head.begin(data.counts())


class CountsTheMemoryTwice(AR1LatentReplay):
    """A mutant: rows are counted after the task's own have entered the memory."""

    def end_task(self, task: int, data: TaskData) -> None:
        super().end_task(task, data)
        self.head.past[self.memory.labels.unique()] += 1


@pytest.mark.parametrize("mutant", [CountsNewRowsOnly, CountsTheMemoryTwice])
def test_wrong_counts_are_caught(mutant: type[AR1LatentReplay], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ar1_latent_replay, "AR1LatentReplay", mutant)
    with pytest.raises(AssertionError):
        check_counts(made())


# -- which parts learn ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze", ["after_first_task", "from_start"])
def test_stored_activations_stay_those_of_the_frozen_part(freeze: str) -> None:
    learning = made(options={"freeze": freeze, "penalty": 100.0}, training={"weight_decay": 0.01})
    finish(learning)
    held = everything(learning.strategy.memory)
    for task in range(3):
        pool = learning._rows.pool(Source.CURRENT, task)[0]
        with torch.no_grad():
            known = learning.strategy.lower.eval()(pool.gather(torch.arange(len(pool)), augment=False).x).flatten(1)
        stored = held["image"][held["task"] == task].flatten(1)
        assert len(stored)
        assert all((row == known).all(1).any() for row in stored)


def test_parts_learn_at_their_own_rates() -> None:
    rates = {"upper_learning_rate": 0.3, "head_learning_rate": 10.0}
    learning = made(options={"lower_learning_rate": 0.01, **rates})
    learning.run_task()
    learning.strategy.grow(1)
    groups = learning.strategy.trainable(1)["network"].groups
    assert [group["scale"] for group in groups] == [0.01, 0.3, 10.0]
    assert groups[2]["params"] == [learning.strategy.network.head.weight]
    frozen = made(options=rates)
    frozen.run_task()
    frozen.strategy.grow(1)
    assert [group["scale"] for group in frozen.strategy.trainable(1)["upper"].groups] == [0.3, 10.0]


@pytest.mark.parametrize(("lower", "pulled"), [(0.0, 2), (0.1, 3)])
def test_what_learns_is_pulled_and_norms_are_not(lower: float, pulled: int) -> None:
    """The second convolution, the linear layer, and the first convolution where it goes on learning."""
    learning = made(options={"penalty": 10.0, "lower_learning_rate": lower})
    finish(learning)
    strategy = learning.strategy
    whole = strategy.network.backbone if lower else strategy.upper
    names = {name for name, layer in whole.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    assert len(names) == pulled
    assert {name.split(".")[0] for name in strategy.pull.past.importance} == names


def test_without_memory_to_draw_from_the_first_task_is_that_of_cwr() -> None:
    ours = made()
    theirs = trainer(trial("cwr", model=MODEL, training={"epochs": 1}))
    assert counts(ours.run_task()) == counts(theirs.run_task())
    assert torch.equal(weight(ours), weight(theirs))


# -- replays as negatives ------------------------------------------------------------------------------------------


def check_old_rows_stay(learning: Trainer) -> None:
    """Old rows of the consolidated head are never written again, though they compete while others learn."""
    learning.run_task()
    while not learning.done:
        before = weight(learning)
        learning.run_task()
        assert torch.equal(weight(learning)[: len(before)], before), "old rows"


def test_negatives_leave_old_rows_alone() -> None:
    check_old_rows_stay(made(options={"mode": "negative"}))


def test_positive_replay_is_told_apart() -> None:
    with pytest.raises(AssertionError, match="old rows"):
        check_old_rows_stay(made())


@pytest.mark.parametrize("scenario", ["task", "domain"])
def test_negatives_are_refused_where_no_other_class_competes(scenario: str) -> None:
    with pytest.raises(MethodError, match="use scenario class"):
        made(scenario, options={"mode": "negative"})


def test_replay_keeps_what_the_head_alone_forgets() -> None:
    blocks: dict[str, Any] = {"model": MODEL, "training": {"epochs": 6}}
    plain = matrix(trial("cwr", options={"head_learning_rate": 3.0}, **blocks)).average_accuracy()
    options = {"head_learning_rate": 3.0, "layer": "3"}
    assert matrix(trial("ar1_latent_replay", options=options, **blocks)).average_accuracy() > plain + 0.1
