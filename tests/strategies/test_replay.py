"""Experience replay, and what its relatives share: what is replayed, how losses add up, learning online."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import finish, matrix, trainer, trial
from torch import Tensor

from raycl.memory.replay import ReplayMemory as Buffer
from raycl.strategies.base import Losses, Position, Source
from raycl.strategies.replay import Replay
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

ONLINE = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 10, "epochs": 1}
RELATIVES = ["replay", "mir", "der", "derpp", "er_ace"]


def made(name: str = "replay", scenario: str = "class", **blocks: Any) -> Trainer:
    return trainer(trial(name, scenario, **{"training": ONLINE, **blocks}))


def updates(running: Trainer) -> list[tuple[Position, Batch]]:
    """Every update's position and rows, new ones first."""
    strategy, seen = running.strategy, []
    draw = strategy.draw

    def watched(batch: Batch, at: Position) -> Batch:
        both = draw(batch, at)
        assert not both.replayed[: len(batch)].any()
        assert both.replayed[len(batch) :].all()
        seen.append((at, both))
        return both

    strategy.draw = watched  # type: ignore[method-assign]
    finish(running)
    return seen


# -- what is replayed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["replay", "er_ace", "mir"])
def test_as_many_rows_are_replayed_as_asked_for(name: str) -> None:
    for _, batch in updates(made(name, memory={"capacity": 40, "batch_size": 7}))[60:]:
        assert int(batch.replayed.sum()) == 7


def check_exclusion(name: str, scenario: str, **stream: Any) -> None:
    """No row of the current task is replayed, and old rows are."""
    seen = updates(made(name, scenario, options={"exclude_current": True}, stream=stream))
    old = 0
    for at, batch in seen:
        tasks = batch.task[batch.replayed]
        assert (tasks < at.task).all()
        old += int((tasks < at.task).sum())
        assert at.task == 0 or len(tasks) == 10
    assert old > 500


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("name", ["replay", "mir"])
def test_rows_of_the_current_task_are_left_out(name: str, scenario: str) -> None:
    check_exclusion(name, scenario)


def test_the_check_finds_rows_of_the_current_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replay, "begin_task", lambda *_: None)
    monkeypatch.setattr(Replay, "_without_labels", False)
    with pytest.raises(AssertionError):
        check_exclusion("replay", "class")


@pytest.mark.parametrize("name", ["replay", "mir"])
def test_without_boundaries_the_classes_of_the_batch_are_left_out(name: str) -> None:
    options = {"exclude_current": True}
    seen = updates(made(name, options=options, stream={"boundaries": "hidden"}))
    assert any(batch.replayed.any() for _, batch in seen)
    for _, batch in seen:
        assert not torch.isin(batch.y[batch.replayed], batch.y[~batch.replayed]).any()


def test_without_boundaries_and_classes_nothing_is_left_out() -> None:
    seen = updates(made("replay", "domain", options={"exclude_current": True}, stream={"boundaries": "hidden"}))
    assert all(batch.replayed.any() for _, batch in seen[1:])


def test_rows_are_drawn_before_the_new_ones_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sample, add, request = Buffer.sample, Buffer.add, Buffer.request
    monkeypatch.setattr(Buffer, "sample", lambda *a, **k: order.append("sample") or sample(*a, **k))
    monkeypatch.setattr(Buffer, "add", lambda *a, **k: order.append("add") or add(*a, **k))
    monkeypatch.setattr(Buffer, "request", lambda *a, **k: order.append("request") or request(*a, **k))
    made().run_task()
    assert order[:5] == ["add", "request", "sample", "add", "request"]
    assert order[-2:] == ["sample", "add"], "nothing is requested that nobody will fetch"


# -- losses --------------------------------------------------------------------------------------------------------


WEIGHTS = {
    "sum": (1, 1),
    "mean": (0.5, 0.5),
    "union": (10 / 17, 7 / 17),
    "task_share": (1 / 3, 2 / 3),
}
"""Of the mean losses of ten new and seven replayed rows, in the third task."""


def check_weights(combine: str, new: float, old: float) -> None:
    running = made(memory={"capacity": 40, "batch_size": 7, "combine": combine})
    batch = next(batch for at, batch in updates(running) if at.task == 2)
    strategy = running.strategy
    strategy._new = 10  # as in that update
    assert len(batch) == 17
    losses = strategy.loss(batch)
    rows = torch.nn.functional.cross_entropy(strategy.network(batch.x), batch.y, reduction="none")
    assert losses["task"].item() == pytest.approx(new * rows[~batch.replayed].mean().item(), rel=1e-5)
    assert losses["replay"].item() == pytest.approx(old * rows[batch.replayed].mean().item(), rel=1e-5)
    if combine == "union":
        assert sum(losses.values()).item() == pytest.approx(rows.mean().item(), rel=1e-5)


@pytest.mark.parametrize(("combine", "weights"), WEIGHTS.items())
def test_losses_are_weighted_means_over_new_and_replayed_rows(combine: str, weights: tuple[float, float]) -> None:
    check_weights(combine, *weights)


def test_the_check_finds_the_mean_of_two_means_for_a_union() -> None:
    with pytest.raises(AssertionError):
        check_weights("union", *WEIGHTS["mean"])


def test_one_mean_over_both_is_what_auto_means() -> None:
    """As the authors of experience replay have it; its relatives add the two means."""
    combined = {name: trial(name).memory.combine for name in ("replay", "er_ace", "mir")}
    assert combined == {"replay": "union", "er_ace": "auto", "mir": "auto"}
    check_weights("auto", *WEIGHTS["union"])


def check_alone(combine: str) -> None:
    """Where no row is replayed, the first task is learned as fine-tuning learns it."""
    naive = made("naive")
    running = made(options={"exclude_current": True}, memory={"capacity": 40, "combine": combine})
    naive.run_task()
    running.run_task()
    ours, theirs = running.strategy.network.state_dict(), naive.strategy.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("combine", WEIGHTS)
def test_new_rows_alone_count_whole(combine: str) -> None:
    check_alone(combine)


def test_the_check_finds_half_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the weight of new rows is taken where there are no others, and the first task is learned by half."""
    loss = Replay.loss

    def weighted(self: Replay, batch: Batch) -> Losses:
        losses = loss(self, batch)
        return losses if len(losses) > 1 else {"task": 0.5 * losses["task"]}

    monkeypatch.setattr(Replay, "loss", weighted)
    with pytest.raises(AssertionError):
        check_alone("mean")


# -- rows that a pass leaves over ------------------------------------------------------------------------------------


def check_offered(batch_size: int = 10) -> None:
    """Every row of a task is offered once, in the update that sees it first."""
    running = made(training={"optimizer": "sgd", "batch_size": batch_size, "iterations": 150})
    offered: list[bytes] = []
    add = running.strategy.memory.add

    def watched(rows: dict[str, Tensor]) -> None:
        offered.extend(image.numpy().tobytes() for image in rows["image"])
        add(rows)

    running.strategy.memory.add = watched  # type: ignore[method-assign]
    running.run_task()
    pool, _ = running._rows.pool(Source.CURRENT, 0)
    rows = [image.numpy().tobytes() for image in pool.gather(torch.arange(len(pool)), augment=False).image]
    assert len(rows) % batch_size, "a pass leaves some rows over"
    assert sorted(offered) == sorted(rows)


@pytest.mark.parametrize("batch_size", [10, 7, 64])
def test_rows_that_the_first_pass_leaves_over_are_offered_when_they_come(batch_size: int) -> None:
    check_offered(batch_size)


def test_the_check_finds_rows_that_never_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: what comes after the first pass is not offered."""
    monkeypatch.setattr(Replay, "offered", lambda self, at: slice(None) if at.epoch == 0 else None)
    with pytest.raises(AssertionError):
        check_offered()


# -- what it buys --------------------------------------------------------------------------------------------------


def test_replay_keeps_twenty_points_more_than_naive() -> None:
    blocks: dict[str, Any] = {"stream": {"tasks": 5, "class_order": "shuffled"}, "training": {"epochs": 3}}
    gains = [
        matrix(trial("replay", seed=seed, memory={"capacity": 100}, **blocks)).average_accuracy()
        - matrix(trial("naive", seed=seed, **blocks)).average_accuracy()
        for seed in range(3)
    ]
    assert min(gains) > 0.2


@pytest.mark.parametrize("boundaries", ["given", "hidden"])
@pytest.mark.parametrize("name", RELATIVES)
def test_it_learns_online(name: str, boundaries: str) -> None:
    """One pass in batches of ten, whether or not it is told where a task ends; naive keeps a third."""
    training = {**ONLINE, "active_logits": "all"}  # stored logits speak of later classes where their units exist
    result = matrix(trial(name, stream={"boundaries": boundaries}, training=training, memory={"capacity": 60}))
    assert result.average_accuracy() > (0.4 if name == "der" else 0.6)


@pytest.mark.parametrize(("name", "columns"), [("replay", 0), ("mir", 0), ("der", 24), ("derpp", 24), ("er_ace", 0)])
def test_the_memory_is_charged_with_every_column(name: str, columns: int) -> None:
    rows = finish(made(name, memory={"capacity": 40}))
    assert rows[-1].cost.buffer_examples == 40
    assert rows[-1].cost.buffer_bytes == 40 * (64 + 8 + 8 + columns)
