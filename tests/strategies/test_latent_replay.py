"""Latent replay: stored activations stay those of the frozen part, which nothing moves; how updates are mixed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import counts, finish, trainer, trial
from torch import Tensor

from raycl.errors import MethodError
from raycl.memory.buffer import everything
from raycl.strategies import lower_part
from raycl.strategies.base import Position, Source, Strategy, TaskData, Trainable
from raycl.strategies.latent_replay import LatentReplay
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

MODEL = {"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "batch"}
NUMEL = 4 * 4 * 4
"""Of an activation of layer 3, the first pooling."""


def made(memory: Mapping[str, Any] | None = None, **blocks: Any) -> Trainer:
    options = {"layer": "3", **blocks.pop("options", {})}
    training = {"epochs": 1, "weight_decay": 0.01, **blocks.pop("training", {})}
    memory = {"capacity": 40, **(memory or {})}
    return trainer(trial("latent_replay", model=MODEL, training=training, memory=memory, options=options, **blocks))


def computed(running: Trainer, task: int) -> Tensor:
    """Activations of a task's training rows as the lower part gives them now."""
    pool = running._rows.pool(Source.CURRENT, task)[0]
    lower = running.strategy.lower.eval()
    with torch.no_grad():
        return lower(pool.gather(torch.arange(len(pool)), augment=False).x)


# -- what is frozen: row 26 of CONTRIBUTING's table ----------------------------------------------------------------


def check_frozen(freeze: str = "after_first_task") -> None:
    """Stored activations are those that the lower part computes, to the bit, and nothing of it has moved."""
    running = made(options={"freeze": freeze})
    strategy: Any = running.strategy
    if freeze == "after_first_task":
        running.run_task()
    before = {name: value.clone() for name, value in strategy.lower.state_dict().items()}
    finish(running)
    after = strategy.lower.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in strategy.lower.parameters())
    held = everything(strategy.memory)
    assert set(held["task"].tolist()) == {0, 1, 2}
    for task in range(3):
        known = computed(running, task).flatten(1)
        stored = held["image"][held["task"] == task].flatten(1)
        assert all((row == known).all(1).any() for row in stored)


@pytest.mark.parametrize("freeze", ["after_first_task", "from_start"])
def test_stored_activations_stay_true(freeze: str) -> None:
    check_frozen(freeze)


def all_with_zero_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lower part in the optimiser, its gradients zeroed: weight decay and moments move it."""

    def everything_trains(self: LatentReplay, task: int) -> dict[str, Trainable]:
        return {"network": Trainable.of(self.network.parameters())}

    def zero(self: LatentReplay, batch: Batch, at: Position) -> None:
        for parameter in self.lower.parameters() if at.task else ():
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(LatentReplay, "trainable", everything_trains)
    monkeypatch.setattr(LatentReplay, "edit_gradients", zero)


def moving_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LatentReplay, "train", Strategy.train)
    monkeypatch.setattr(LatentReplay, "begin_task", sizes_only)  # so that updates run the lower part


def sizes_only(self: LatentReplay, task: int, data: TaskData) -> None:
    self._new_size, self._replay_size = self._sizes(len(data))


def stored_in_training_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower_part, "frozen_statistics", lambda module: nullcontext())


@pytest.mark.parametrize("mistake", [all_with_zero_gradients, moving_statistics, stored_in_training_mode])
def test_the_check_finds_what_moves(mistake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        check_frozen()


def test_activations_kept_for_a_task_equal_those_of_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, anew = made(training={"epochs": 2}), made(training={"epochs": 2})
    rows = finish(kept)
    monkeypatch.setattr(LatentReplay, "begin_task", sizes_only)
    assert counts(finish(anew)) == counts(rows)
    pairs = zip(kept.strategy.network.parameters(), anew.strategy.network.parameters(), strict=True)
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in pairs)


def test_it_equals_raw_replay_under_the_same_frozen_part(monkeypatch: pytest.MonkeyPatch) -> None:
    latent, raw = made(), made()
    rows = finish(latent)
    replayed = LatentReplay._replayed

    def images(self: LatentReplay, task: int, data: TaskData) -> None:
        self.memory.add(data.table())
        self._latents = None

    def through_lower(self: LatentReplay, at: Position) -> Batch | None:
        batch = replayed(self, at)
        if batch is None:
            return None
        with torch.no_grad():
            return replace(batch, x=self.lower(self.context.normalize(batch.x)))

    monkeypatch.setattr(LatentReplay, "end_task", images)
    monkeypatch.setattr(LatentReplay, "_replayed", through_lower)
    assert counts(finish(raw)) == counts(rows)
    assert raw.strategy.memory.bytes == 40 * (64 + 16)
    assert latent.strategy.memory.bytes == 40 * (4 * NUMEL + 16), "activations, label and task"
    pairs = zip(latent.strategy.network.parameters(), raw.strategy.network.parameters(), strict=True)
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in pairs)


# -- a lower part that goes on learning slowly ---------------------------------------------------------------------


def test_a_slowed_part_moves_a_little_and_its_statistics_stay() -> None:
    running = made(options={"lower_learning_rate": 0.01})
    running.run_task()
    strategy: Any = running.strategy
    below, above = strategy.trainable(1)["network"].groups
    assert (below["scale"], above.get("scale", 1)) == (0.01, 1)
    assert len(below["params"]) + len(above["params"]) == len(list(strategy.network.parameters()))
    before = {name: value.clone() for name, value in strategy.lower.state_dict().items()}
    running.run_task()
    for name, value in strategy.lower.state_dict().items():
        assert torch.equal(value, before[name]) == ("running" in name or "num_batches" in name), name


# -- how an update is mixed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", ["size", "equal", "paired"])
def test_new_and_replayed_rows_of_an_update(mix: str) -> None:
    running = made({"mix": mix, "batch_size": 5})
    running.run_task()
    strategy: Any = running.strategy
    mixes: list[tuple[int, int]] = []
    draw = strategy.draw

    def watched(batch: Batch, at: Position) -> Batch:
        both = draw(batch, at)
        mixes.append((int((~both.replayed).sum()), int(both.replayed.sum())))
        assert (both.task[both.replayed] < at.task).all()
        return both

    strategy.draw = watched
    rows = len(running._source.part(1, "train"))
    running.run_task()
    new = {"size": round(16 * rows / (rows + 40)), "equal": 8, "paired": 16}[mix]
    assert mixes[0] == (new, 5 if mix == "paired" else 16 - new)
    assert len(set(mixes[:-1])) == 1
    assert len(mixes) == -(-rows // new), "one pass over the new rows"


def test_the_first_task_is_learned_as_by_naive() -> None:
    naive = trainer(trial("naive", model=MODEL, training={"epochs": 1, "weight_decay": 0.01}))
    ours = made()
    naive.run_task()
    ours.run_task()
    theirs = naive.strategy.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.strategy.network.state_dict().items())


def test_replayed_activations_keep_what_naive_forgets() -> None:
    training = {"epochs": 5, "learning_rate": 3e-3}
    spec = trial("naive", model=MODEL, training=training)
    last, naive = finish(made(training={**training, "weight_decay": 0.0}))[-1], finish(trainer(spec))[-1]
    assert last.correct[:2].sum() > naive.correct[:2].sum() + 0.3 * naive.total[:2].sum()


def test_a_wrong_layer_is_refused_with_the_right_ones() -> None:
    with pytest.raises(MethodError, match=r"layer must name .* 3 MaxPool2d.* got 'conv5'"):
        made(options={"layer": "conv5"})
