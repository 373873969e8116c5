"""A task source in this process and in Ray actors: one contract for both."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from distributed.actors import process_of
from pretraining import weights_file
from ray.exceptions import GetTimeoutError, OwnerDiedError
from support import local_source

from raycl.catalog import catalog
from raycl.distributed.streams import Read, RemoteSource, ShardNames, StreamKey, StreamShards
from raycl.errors import DataError, InfrastructureError
from raycl.streams.task import Part, TaskSource

SPLIT = {"name": "split", "dataset": "digits", "tasks": 5}
STREAMS: list[dict[str, Any]] = [
    SPLIT,
    {"name": "permuted", "dataset": "digits", "tasks": 4, "scenario": "domain", "pad": 1},
]
on_ray = pytest.mark.ray


@pytest.fixture(scope="module")
def shards(cluster: None) -> Iterator[StreamShards]:
    made = StreamShards(catalog(), 2)
    yield made
    made.close()


def read(stream: dict[str, Any]) -> Read:
    """All of a stream, as a search reads it."""
    return Read(StreamKey.of(stream, 0, "train"), ("train", "validation"))


def same_part(one: Part, other: Part) -> bool:
    """Equal rows, labels, recipe and images."""
    ours, theirs = one.recipe, other.recipe
    permutation, expected = (
        np.zeros(0) if recipe.permutation is None else recipe.permutation for recipe in (ours, theirs)
    )
    return (
        (ours.pad, ours.angle, one.base) == (theirs.pad, theirs.angle, other.base)
        and np.array_equal(permutation, expected)
        and np.array_equal(one.rows, other.rows)
        and np.array_equal(one.labels, other.labels)
        and np.array_equal(one.images, other.images)
    )


@pytest.mark.parametrize("home", ["local", pytest.param("actors", marks=on_ray)])
class TestSource:
    @pytest.fixture
    def source(self, home: str, request: pytest.FixtureRequest) -> Callable[..., TaskSource]:
        if home == "local":
            return local_source
        names = ShardNames.from_dict(request.getfixturevalue("shards").names.to_dict())
        return lambda stream, seed, **options: RemoteSource(names, stream, seed, **options)

    @pytest.mark.parametrize("stream", STREAMS, ids=["split", "permuted"])
    def test_serves_the_stream(self, source: Callable[..., TaskSource], stream: dict[str, Any]) -> None:
        served, expected = source(stream, 3), local_source(stream, 3)
        assert served.layout == expected.layout
        for task in (0, 3, 1):
            served.prefetch(task, "validation")
            for split in ("train", "validation", "test"):
                assert same_part(served.part(task, split), expected.part(task, split))

    def test_seed_and_merged_validation(self, source: Callable[..., TaskSource]) -> None:
        first, second = source(SPLIT, 1), source(SPLIT, 2)
        assert first.layout.split_hash != second.layout.split_hash
        merged = source(SPLIT, 1, train_on="train_and_validation")
        assert len(merged.part(0, "train")) == len(first.part(0, "train")) + len(first.part(0, "validation"))
        assert len(merged.part(0, "validation")) == 0

    def test_tasks_share_read_only_images(self, source: Callable[..., TaskSource]) -> None:
        served = source(STREAMS[1], 0)
        one, other = served.part(0, "train"), served.part(1, "validation")
        assert one.images is other.images
        assert not one.images.flags.writeable

    def test_errors_arrive_as_they_are(self, source: Callable[..., TaskSource]) -> None:
        served = source(SPLIT, 0)
        with pytest.raises(DataError, match="tasks of this stream are"):
            served.part(9, "train")
        served.prefetch(9, "train")
        with pytest.raises(DataError, match="tasks of this stream are"):
            served.part(9, "train")
        with pytest.raises(DataError, match="data root"):
            _ = source({**SPLIT, "dataset": "mnist"}, 0).layout


@on_ray
class TestStreamActors:
    def test_killed_actor_serves_the_same_data_again(self, shards: StreamShards) -> None:
        source, expected = RemoteSource(shards.names, SPLIT, 0), local_source(SPLIT, 0)
        before = source.part(0, "train")
        source.prefetch(2, "train")
        for shard in shards._shards:
            os.kill(process_of(shard), signal.SIGKILL)
        assert all(same_part(source.part(task, "train"), expected.part(task, "train")) for task in (2, 1, 3))
        assert same_part(source.part(2, "test"), expected.part(2, "test"))  # other images: a new reference
        assert same_part(before, expected.part(0, "train"))  # still readable
        assert same_part(RemoteSource(shards.names, SPLIT, 0).part(0, "train"), before)

    def test_lost_images_are_asked_for_again(self, shards: StreamShards, monkeypatch: pytest.MonkeyPatch) -> None:
        source, expected = RemoteSource(shards.names, SPLIT, 0), local_source(SPLIT, 0)
        fetch, lost = source._images, [OwnerDiedError("0" * 56, None, ""), GetTimeoutError()]

        def images(*question: Any) -> np.ndarray:
            if lost:
                raise lost.pop()
            return fetch(*question)

        monkeypatch.setattr(source, "_images", images)
        assert same_part(source.part(0, "train"), expected.part(0, "train"))
        assert not lost

    def test_images_are_one_copy_without_a_slot(self, shards: StreamShards) -> None:
        one = RemoteSource(shards.names, SPLIT, 0).part(0, "train").images
        other = RemoteSource(shards.names, STREAMS[1], 7).part(3, "train").images
        assert one.ctypes.data == other.ctypes.data
        assert not one.flags.owndata
        assert ray.available_resources()["CPU"] == 2

    @pytest.mark.parametrize("nodes", [1, 2])
    def test_check_names_what_a_node_cannot_read(
        self, shards: StreamShards, nodes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One node is asked through its shards; each of several, as which this one poses, in a process of its own."""
        there = ray.nodes()
        monkeypatch.setattr(ray, "nodes", lambda: nodes * there)
        shards.check([read(stream) for stream in STREAMS])
        with pytest.raises(DataError, match=r"node .*: MNIST needs a data root"):
            shards.check([read(SPLIT), read({**SPLIT, "dataset": "mnist"})])

    def test_features_are_computed_once_for_all_nodes_and_trials(self, cluster: None, tmp_path: Path) -> None:
        stream = {**SPLIT, "encode": {"weights": weights_file(tmp_path), "dtype": "float16"}}
        shards = StreamShards(catalog(), 2, tmp_path, name="encoding")
        try:
            shards.check([read(stream)])
            (file,) = (tmp_path / "features").iterdir()
            written = file.stat().st_mtime_ns
            served, expected = RemoteSource(shards.names, stream, 3), local_source(stream, 3, tmp_path)
            assert served.layout == expected.layout
            for task in (0, 3, 1):
                for split in ("train", "validation", "test"):
                    assert same_part(served.part(task, split), expected.part(task, split))
            assert served.part(0, "train").images.dtype == np.float16
            assert file.stat().st_mtime_ns == written
            pixels = RemoteSource(shards.names, SPLIT, 3).part(0, "train").images
            assert pixels.dtype == np.uint8, "the same shard serves the images too"
        finally:
            shards.close()

    def test_shards_that_do_not_exist(self, cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("raycl.distributed.streams.BACKOFF", (0.0, 0.1))
        source = RemoteSource(ShardNames(("nobody",), "raycl-test-actors"), SPLIT, 0)
        source.prefetch(0, "train")
        with pytest.raises(InfrastructureError, match="'nobody' did not answer in 2 attempts"):
            source.part(0, "train")
