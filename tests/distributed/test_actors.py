"""Replay memory in this process and in Ray actors: one contract for both."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import ray
import torch
from distributed.actors import gone, process_of, stop
from support import counts, finish, local_source, trial

from raycl.catalog import catalog
from raycl.distributed import replay
from raycl.distributed.replay import ShardedStorage
from raycl.distributed.trainable import TrialRunner
from raycl.errors import InfrastructureError
from raycl.memory.buffer import Table, everything
from raycl.memory.clusters import Clusters
from raycl.memory.local import LocalStorage, Storage
from raycl.memory.replay import ReplayMemory
from raycl.spec.memory import MemoryConfig
from raycl.trial.checkpoint import decode, encode
from raycl.trial.trainer import Trainer

WITH_MEMORY = [name for name in catalog().strategies.names() if catalog().strategies.get(name).uses_memory]
on_ray = pytest.mark.ray


def rows(start: int, count: int, **columns: torch.Tensor) -> Table:
    """Rows whose image, label and task all tell their number."""
    number = torch.arange(start, start + count)
    image = torch.stack([number % 256, number // 256], 1).to(torch.uint8).view(-1, 1, 1, 2)
    return {"image": image, "label": number % 10, "task": number // 100, **columns}


def numbers(table: Table) -> torch.Tensor:
    """Which rows these are, read from the images and checked against labels and tasks."""
    pixels = table["image"].flatten(1).long()
    number = pixels[:, 0] + 256 * pixels[:, 1]
    assert torch.equal(table["label"], number % 10)
    assert torch.equal(table["task"], number // 100)
    return number


def equal(one: Table, other: Table) -> bool:
    return set(one) == set(other) and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name].nan_to_num(-7), other[name].nan_to_num(-7))
        for name in one
    )


def buffer(storage: Storage, capacity: int = 60, selection: str = "reservoir") -> ReplayMemory:
    return ReplayMemory(MemoryConfig(capacity=capacity), selection, torch.Generator().manual_seed(5), storage)


def history(memory: ReplayMemory) -> list[Table]:
    """Everything a buffer answers over a stream of offers, requests, draws and writes."""
    answers = []
    random = torch.Generator().manual_seed(1)
    for step in range(40):
        score = torch.arange(9.0) + step
        extra = {} if step < 10 else {"logits": torch.full((9, 2 + step // 15), float(step))}
        memory.request(7)
        memory.add(rows(9 * step, 9, **extra))
        answers.append(memory.sample(7))
        memory.write(torch.randperm(len(memory), generator=random)[:9], {"score": score})
        answers.append(memory.sample(4 + step % 3))
        memory.request(5, without_task=step // 12)
        memory.request(6)
        answers += [memory.sample(5, without_task=step // 12), memory.sample(6)]
        answers.append(memory.sample(3, without_labels=torch.arange(step % 8)))
    return [*answers, everything(memory)]


@pytest.mark.parametrize("home", [pytest.param(0, id="local"), pytest.param(2, id="actors", marks=on_ray)])
class TestReplay:
    @pytest.fixture
    def new_storage(self, home: int, request: pytest.FixtureRequest) -> Iterator[Callable[[], Storage]]:
        if home:
            request.getfixturevalue("cluster")
        made: list[Storage] = []

        def new() -> Storage:
            made.append(ShardedStorage(home) if home else LocalStorage())
            return made[-1]

        yield new
        for storage in made:
            storage.close()

    @pytest.fixture
    def storage(self, new_storage: Callable[[], Storage]) -> Storage:
        return new_storage()

    def test_holds_what_was_added(self, storage: Storage) -> None:
        memory = buffer(storage, capacity=500)
        for start in range(0, 390, 13):
            memory.add(rows(start, 13))
        assert len(memory) == 390
        assert numbers(everything(memory)).tolist() == list(range(390))
        assert memory.labels.tolist() == [number % 10 for number in range(390)]
        assert numbers(memory.read(torch.tensor([300, 2, 2]))).tolist() == [300, 2, 2]
        assert memory.bytes == 390 * (2 + 8 + 8)

    def test_what_is_handed_over_may_change_afterwards(self, storage: Storage) -> None:
        memory = buffer(storage)
        given = rows(0, 10)
        memory.add(given)
        given["image"].zero_()
        memory.sample(10)["image"].zero_()
        assert sorted(numbers(everything(memory)).tolist()) == list(range(10))

    def test_draws_distinct_rows_and_all_of_a_small_memory(self, storage: Storage) -> None:
        memory = buffer(storage)
        assert len(memory.sample(8)["label"]) == 0
        memory.add(rows(0, 30))
        assert len(numbers(memory.sample(20)).unique()) == 20
        assert sorted(numbers(memory.sample(99)).tolist()) == list(range(30))
        memory.request(10)
        assert len(numbers(memory.sample(12))) == 12  # a request of another size is dropped

    def test_draw_shows_rows_as_requested(self, storage: Storage) -> None:
        memory = buffer(storage, selection="ring")
        memory.add(rows(0, 60))
        memory.request(60)
        memory.add(rows(100, 60))
        memory.write(torch.arange(60), {"image": torch.zeros(60, 1, 1, 2, dtype=torch.uint8)})
        assert sorted(numbers(memory.sample(60)).tolist()) == list(range(60))
        assert memory.sample(60)["image"].sum() == 0

    def test_absent_entries(self, storage: Storage) -> None:
        memory = buffer(storage)
        memory.add(rows(0, 2))
        memory.add(rows(2, 2, logits=torch.ones(2, 2), age=torch.full((2,), 3)))
        memory.add(rows(4, 2, logits=torch.ones(2, 3)))
        memory.add(rows(6, 1, logits=torch.ones(1, 1)))
        table = everything(memory)
        assert table["logits"].isnan().sum(1).tolist() == [3, 3, 1, 1, 0, 0, 2]
        assert table["age"].tolist() == [0, 0, 3, 3, 0, 0, 0]

    def test_state_goes_on_alike(self, new_storage: Callable[[], Storage]) -> None:
        memory = buffer(new_storage(), selection="class_balanced")
        for start in range(0, 300, 20):
            memory.add(rows(start, 20, logits=torch.rand(20, 3)))
        memory.request(16)
        memory.request(4, without_task=1)
        memory.add(rows(300, 20, logits=torch.rand(20, 4)))  # the requested rows are older than the contents
        state = encode(memory.state_dict())
        twins = [buffer(new_storage(), selection="class_balanced"), buffer(LocalStorage(), selection="class_balanced")]
        for twin in twins:
            twin.load_state_dict(decode(state))
        for start in (400, 430):
            for each in (memory, *twins):
                each.add(rows(start, 30))
            for count, task in ((16, None), (4, 1)):
                drawn = memory.sample(count, task)
                assert all(equal(drawn, twin.sample(count, task)) for twin in twins)
        assert all(equal(everything(memory), everything(twin)) for twin in twins)


@on_ray
@pytest.mark.usefixtures("cluster")
class TestReplayActors:
    @pytest.fixture(scope="class")
    def pair(self, cluster: None) -> Iterator[ShardedStorage]:
        """Two actors that are lent to one test after another, as a worker's are to its trials."""
        storage = ShardedStorage(2)
        yield storage
        storage.close()

    def test_take_no_slot_and_end_on_close(self) -> None:
        storage = ShardedStorage(3)
        processes = [process_of(shard) for shard in storage._shards]
        assert ray.available_resources()["CPU"] == 2
        storage.close()
        storage.close()
        assert all(gone(process) for process in processes)

    def test_are_handed_on_empty_from_trial_to_trial(self) -> None:
        """Each trial of a worker meets what a new storage would give it, in the same processes."""
        storage = ShardedStorage(2)
        processes = [process_of(shard) for shard in storage._shards]
        for number in range(3):
            lent, local = storage.lent(), LocalStorage()
            ours, theirs = history(buffer(lent)), history(buffer(local))
            assert all(equal(one, other) for one, other in zip(ours, theirs, strict=True))
            lent.declare({f"of trial {number}": (np.dtype(np.int64), (2,))})
            lent.close()
            assert [line.answer(line.ask(np.arange(3), slice(None))) for line in storage._lines] == [{}, {}]
        assert not any(gone(process) for process in processes)
        storage.close()
        assert all(gone(process) for process in processes)

    def test_a_worker_replaces_actors_that_were_lost_or_are_too_few(self) -> None:
        runner = object.__new__(TrialRunner)
        runner._replay = None
        assert runner._lent_replay(2) is not None
        first = runner._replay
        runner._lent_replay(2)
        assert runner._replay is first
        lost = process_of(first._shards[1])
        os.kill(lost, signal.SIGKILL)
        assert gone(lost)
        runner._lent_replay(2)
        second = runner._replay
        assert second is not first
        runner._lent_replay(3)
        assert runner._replay.shards == 3
        assert second.shards == 0
        runner._end_replay()

    @pytest.mark.parametrize("shards", [1, 3])
    def test_equal_the_local_storage(self, shards: int) -> None:
        storage = ShardedStorage(shards)
        ours, local = history(buffer(storage)), history(buffer(LocalStorage()))
        assert all(equal(one, other) for one, other in zip(ours, local, strict=True))
        storage.close()

    def test_merged_rows_equal_those_of_the_local_storage(self, pair: ShardedStorage) -> None:
        held = []
        for storage in (pair.lent(), LocalStorage()):
            memory = buffer(storage, 20, "ring")
            kept = Clusters(memory, 20, per_class=False)
            points = torch.randn(60, 3, 1, 1, generator=torch.Generator().manual_seed(2))
            for number, point in enumerate(points):
                label = torch.tensor([number % 7 % 3])
                kept.insert({"image": point[None], "label": label, "task": label})
            held.append({**everything(memory), **{str(k): v for k, v in kept.state_dict()["distances"].items()}})
            memory.close()
        assert equal(*held)
        assert held[0]["count"].max() > 1

    def test_ranked_and_trimmed_rows_equal_those_of_the_local_storage(self, pair: ShardedStorage) -> None:
        memories = [buffer(storage, 55, "ranked") for storage in (pair.lent(), LocalStorage())]
        for start in range(0, 300, 6):
            answers = []
            for memory in memories:
                memory.add(rows(start, 6))
                memory.request(20)
                memory.trim()
                answers += [memory.sample(20), everything(memory)]
            assert equal(answers[0], answers[2])
            assert equal(answers[1], answers[3])
        assert len(memories[0]) == 50
        for memory in memories:
            memory.close()

    @pytest.mark.parametrize(("name", "augment"), [*((name, "none") for name in WITH_MEMORY), ("icarl", "crop")])
    def test_every_method_gives_the_matrix_of_the_local_storage(
        self, name: str, augment: str, pair: ShardedStorage
    ) -> None:
        options = {"gdumb": {"passes": 2}, "exstream": {"rehearse_every": 16}}.get(name, {})
        spec = trial(name, options=options, stream={"augment": augment, "train_per_task": 40}, memory={"capacity": 47})
        source, found = local_source(spec.stream, spec.seed), []
        for storage in (pair.lent(), LocalStorage()):
            running = Trainer(spec, source, storage=storage)
            found.append((counts(finish(running)), everything(running.strategy.memory), running.strategy.state_dict()))
            running.close()
        (ours, ours_held, ours_state), (local, local_held, local_state) = found
        assert ours == local
        assert equal(ours_held, local_held)
        assert encode(ours_state) == encode(local_state)

    def test_lost_actor_is_an_infrastructure_error_at_once(self) -> None:
        storage = ShardedStorage(2)
        memory = buffer(storage)
        memory.add(rows(0, 60))
        os.kill(process_of(storage._shards[1]), signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(InfrastructureError, match="replay actor 1 of 2 was lost"):
            memory.sample(20)
        assert time.monotonic() - start < 10
        memory.close()

    def test_trial_that_only_writes_learns_of_a_loss(self) -> None:
        storage = ShardedStorage(1)
        memory = buffer(storage, capacity=10_000)
        memory.add(rows(0, 4))
        os.kill(process_of(storage._shards[0]), signal.SIGKILL)

        def write_only(seconds: float = 10) -> None:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                memory.add(rows(4, 4))

        with pytest.raises(InfrastructureError, match="replay actor 0 of 1 was lost"):
            write_only()
        memory.close()

    def test_actor_that_does_not_answer_is_lost_after_a_while(self) -> None:
        storage = ShardedStorage(1)
        memory = buffer(storage)
        memory.add(rows(0, 60))
        replay._limit(storage._lines[0]._connection, 0.3)
        stop(process_of(storage._shards[0]))
        with pytest.raises(InfrastructureError, match=r"replay actor 0 of 1 was lost \(no answer in time"):
            memory.sample(20)
        memory.close()

    def test_long_answers_that_nobody_has_fetched_stop_neither_end(self) -> None:
        check_long_answers()

    def test_the_check_finds_an_end_that_writes_without_reading(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def send(self: replay._Line, message: Any) -> None:
            with self._standing():
                self._connection.send_bytes(pickle.dumps(message))

        monkeypatch.setattr(replay._Line, "_send", send)
        with pytest.raises(InfrastructureError, match="no answer in time"):
            check_long_answers()


def check_long_answers() -> None:
    """Three reads of two megabytes are begun and dropped or fetched late, while as much is written."""
    storage = ShardedStorage(1)
    replay._limit(storage._lines[0]._connection, 5.0)
    slots = torch.arange(200)
    image = torch.zeros(200, 10_000, dtype=torch.uint8)
    try:
        storage.declare({"image": ("|u1", (10_000,))})
        fetches = []
        for step in range(3):
            storage.write(slots, {"image": image + step})
            fetches.append(storage.begin_read(slots))
        storage.write(slots, {"image": image + 9})
        assert fetches[2]()["image"].unique().tolist() == [2]
        assert fetches[0]()["image"].unique().tolist() == [0]
        assert storage.begin_read(slots)()["image"].unique().tolist() == [9]
    finally:
        storage.close()
