"""Each source of a run's randomness decides its own, in every method: starts of networks, and order of batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from strategies.every_method import ONE_EACH, assert_equal_state, same_bits, small, stopped_after_every_task, tensors
from support import counts, finish, trainer
from torch import Tensor, nn

from raycl.spec.seeds import SEED_SOURCES, RunSeeds
from raycl.streams.task import Batch
from raycl.trial.batching import BatchPlan
from raycl.trial.randomness import Randomness
from raycl.trial.trainer import Trainer

RUN = {"class_order": 1, "split": 2, "model": 3, "batches": 5}
RESUMED = ("generative_replay", "generative_negative_replay", "hypernetwork_replay", "hypernetwork_tir", "hat", "mir")
"""Methods with a network that draws while it learns, one whose network grows by draws, and one that draws replays."""


def made(name: str, scenario: str, seeds: dict[str, int], **blocks: Any) -> Trainer:
    runs = RunSeeds(**seeds)
    spec = small(name, scenario, seed=runs.class_order, **blocks)
    return trainer(spec if runs.plain is not None else spec.model_copy(update={"seeds": runs}))


def start_of(running: Trainer) -> dict[str, Tensor]:
    """Every number of the method before it learns its first task."""
    running._grow(0)
    held = {name: part.state_dict() for name, part in vars(running.strategy).items() if isinstance(part, nn.Module)}
    found = tensors(running.strategy.state_dict()) | tensors(held) | tensors(vars(running.strategy))
    return {name: value for name, value in found.items() if not value.is_meta}  # of generated weights only shapes


def differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return any(not same_bits(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize(("name", "scenario"), ONE_EACH)
def test_the_models_seed_alone_decides_where_a_method_starts(name: str, scenario: str) -> None:
    start = start_of(made(name, scenario, RUN))
    for source in SEED_SOURCES:
        changed = start_of(made(name, scenario, {**RUN, source: 9}))
        assert differ(start, changed) == (source == "model"), source
    assert not differ(start, start_of(made(name, scenario, dict.fromkeys(SEED_SOURCES, RUN["model"])))), (
        "a run of one seed"
    )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A fingerprint of every batch that a trainer composes."""
    found: list[str] = []
    composed = BatchPlan.batches

    def watched(plan: BatchPlan, task: int) -> Iterator[tuple[Batch, Any]]:
        for batch, at in composed(plan, task):
            found.append(hashlib.sha256(batch.image.numpy().tobytes()).hexdigest())
            yield batch, at

    monkeypatch.setattr(BatchPlan, "batches", watched)
    return found


def batches_of(seen: list[str], running: Trainer) -> list[str]:
    """The batches of the first task that is learned: joint training learns all of them after the last."""
    seen.clear()
    while not seen:
        running.run_task()
    return list(seen)


@pytest.mark.parametrize(("name", "scenario"), ONE_EACH)
def test_the_batches_seed_alone_decides_their_order(name: str, scenario: str, seen: list[str]) -> None:
    first = batches_of(seen, made(name, scenario, RUN))
    assert batches_of(seen, made(name, scenario, {**RUN, "model": 9})) == first
    assert batches_of(seen, made(name, scenario, {**RUN, "batches": 9})) != first


@pytest.mark.parametrize(("name", "scenario"), [case for case in ONE_EACH if case.values[0] in RESUMED])
def test_runs_of_several_seeds_resume_to_the_same_bits(name: str, scenario: str) -> None:
    whole = made(name, scenario, RUN)
    rows = finish(whole)
    resumed, resumed_rows = stopped_after_every_task(whole.trial)
    assert counts(resumed_rows) == counts(rows)
    assert_equal_state(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize("name", ["hypernetwork_replay", "hypernetwork_tir"])
def test_what_grows_later_does_not_follow_what_was_drawn_before(name: str) -> None:
    """The embedding of the second task's images, after noise of the first one's was drawn."""
    scenario = "class"

    def second(seeds: dict[str, int]) -> Tensor:
        running = made(name, scenario, seeds)
        running.run_task()
        running._grow(1)
        strategy: Any = running.strategy
        return strategy.vae.protected.embeddings[1].detach().clone()  # type: ignore[no-any-return]

    own = second(RUN)
    assert torch.equal(own, second({**RUN, "batches": 9}))
    assert not torch.equal(own, second({**RUN, "model": 9}))


def test_a_purpose_of_starts_and_draws_has_two_generators_where_the_run_has_several_seeds() -> None:
    def drawn(seeds: int | RunSeeds) -> tuple[list[float], list[float]]:
        start, draws = Randomness(seeds).start_and_draws("noise")
        return torch.rand(3, generator=start).tolist(), torch.rand(3, generator=draws).tolist()

    equal = RunSeeds(class_order=0, split=0, model=4, batches=4)
    start, draws = drawn(equal)
    assert start == drawn(4)[0]
    assert start != draws, "equal numbers of two sources share nothing"
    assert draws == drawn(equal.model_copy(update={"model": 5}))[1]
    one = torch.Generator()
    one.set_state(Randomness(4).start("noise").get_state())
    assert drawn(4) == (torch.rand(3, generator=one).tolist(), torch.rand(3, generator=one).tolist())


def test_the_splits_seed_alone_decides_which_tasks_a_sample_measures() -> None:
    def measured(**seeds: int) -> tuple[int, ...]:
        more: dict[str, Any] = {"stream": {"tasks": 5}, "evaluation": {"tasks": {"sample": 1}}}
        return tuple(made("naive", "class", {**RUN, **seeds}, **more)._evaluator.followed(3))

    assert len({measured(split=seed) for seed in range(6)}) > 1
    assert len({measured(batches=seed, model=seed, class_order=seed) for seed in range(6)}) == 1


def test_dropout_follows_the_batches_seed() -> None:
    def mask(**seeds: int) -> Tensor:
        Randomness(RunSeeds(**{**RUN, **seeds}))
        return torch.nn.functional.dropout(torch.ones(64))

    assert torch.equal(mask(), mask(model=9, split=9, class_order=9))
    assert not torch.equal(mask(), mask(batches=9))
