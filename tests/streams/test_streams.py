"""Which classes, permutations and angles each stream gives its tasks, and what it refuses."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from support import outline_of, stream_of

from raycl.errors import DataError, UnknownName
from raycl.streams.registry import STREAMS
from raycl.streams.rotated import Rotated


def classes_of(run: int = 0, /, **options: Any) -> list[tuple[int, ...]]:
    stream = stream_of({"name": "split", **options}, run)
    return [task.classes for task in stream.tasks({"digits": 10})]


class TestSplit:
    def test_fixed_order_gives_the_published_pairs(self) -> None:
        assert classes_of(class_order="fixed") == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]

    def test_an_explicit_order_may_leave_classes_out(self) -> None:
        assert classes_of(class_order=[9, 3, 4, 0], tasks=2) == [(9, 3), (4, 0)]

    def test_a_shuffled_order_follows_the_seed_and_uses_every_class_once(self) -> None:
        orders = {tuple(sum(classes_of(seed), ())) for seed in range(20)}
        assert len(orders) == 20
        assert all(sorted(order) == list(range(10)) for order in orders)
        assert classes_of(3) == classes_of(3)

    def test_a_pinned_seed_wins_over_the_runs(self) -> None:
        assert classes_of(1, seed=7) == classes_of(2, seed=7) == classes_of(7)

    @pytest.mark.parametrize(
        ("options", "sizes"),
        [
            ({"tasks": 3, "first_task": 4}, [4, 3, 3]),
            ({"tasks": 3, "classes_per_task": 2}, [2, 2, 2]),
            ({"tasks": 4, "classes_per_task": 2, "first_task": 3}, [3, 2, 2, 2]),
            ({"tasks": 1}, [10]),
            ({"tasks": 10}, [1] * 10),
        ],
    )
    def test_sizes(self, options: dict[str, int], sizes: list[int]) -> None:
        assert [len(classes) for classes in classes_of(**options)] == sizes

    @pytest.mark.parametrize(
        ("options", "rule"),
        [
            ({"tasks": 3}, "10 classes of 'digits' do not divide evenly into 3 tasks"),
            ({"tasks": 3, "first_task": 3}, "do not divide evenly into 3 tasks after a first task of 3"),
            ({"tasks": 6, "classes_per_task": 2}, r"need 12 classes.*\(got 10"),
            ({"tasks": 20}, "do not divide"),
            ({"tasks": 2, "first_task": 10}, "at least one each"),
            ({"class_order": [0, 1, 2, 3, 10]}, r"does not have \(got \[10\]\); its classes are 0..9"),
        ],
    )
    def test_refused(self, options: dict[str, Any], rule: str) -> None:
        with pytest.raises(DataError, match=rule):
            classes_of(**options)

    def test_a_class_named_twice_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="names a class twice"):
            classes_of(class_order=[1, 1])


class TestPermuted:
    def permutations(self, seed: int = 0, **options: Any) -> list[np.ndarray | None]:
        stream = stream_of({"name": "permuted", "tasks": 4, **options}, seed)
        return [stream.recipe(task, 8, 8).permutation for task in range(4)]

    def test_permutations_differ_between_tasks_and_seeds_and_repeat_with_the_seed(self) -> None:
        found = [tuple(p) for seed in range(3) for p in self.permutations(seed) if p is not None]
        assert len(set(found)) == 12
        assert all(sorted(p) == list(range(64)) for p in found)
        assert found[:4] == [tuple(p) for p in self.permutations(0) if p is not None]

    def test_the_first_task_may_keep_its_pixels(self) -> None:
        plain, *others = self.permutations(first_task="identity")
        assert plain is None
        permuted = self.permutations()[1:]
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(others, permuted, strict=True))  # type: ignore[arg-type]

    def test_padding_pixels_take_part(self) -> None:
        assert all(p is not None and len(p) == 144 for p in self.permutations(pad=2))

    def test_a_longer_stream_begins_like_a_shorter_one(self) -> None:
        longer = stream_of({"name": "permuted", "tasks": 1000}, 0).recipe(3, 8, 8).permutation
        assert np.array_equal(longer, self.permutations()[3])  # type: ignore[arg-type]

    def test_every_task_holds_every_class(self) -> None:
        tasks = stream_of({"name": "permuted", "tasks": 3}, 0).tasks({"digits": 10})
        assert [task.classes for task in tasks] == [tuple(range(10))] * 3


class TestRotated:
    def angles(self, seed: int = 0, **options: Any) -> list[float]:
        stream = stream_of({"name": "rotated", **options}, seed)
        assert isinstance(stream, Rotated)
        return [stream.angle(task) for task in range(stream.config.tasks)]

    def test_even_angles_reach_both_ends(self) -> None:
        assert self.angles(tasks=5) == [0, 45, 90, 135, 180]
        assert self.angles(tasks=3, max_angle=90) == [0, 45, 90]
        assert self.angles(tasks=1) == [0]

    def test_listed_angles(self) -> None:
        assert self.angles(tasks=2, angles=[10, -20.5]) == [10, -20.5]
        with pytest.raises(ValidationError, match="lists 2 angles for 3 tasks"):
            self.angles(tasks=3, angles=[10, 20])

    def test_random_angles_fall_in_their_own_intervals_and_follow_the_seed(self) -> None:
        for seed in range(5):
            angles = self.angles(seed, tasks=20, angles="random")
            assert [int(angle // 9) for angle in angles] == list(range(20))
        assert self.angles(1, tasks=20, angles="random") != self.angles(2, tasks=20, angles="random")
        assert self.angles(1, tasks=20, angles="random") == self.angles(1, tasks=20, angles="random")


class TestSequence:
    def test_parts_become_tasks(self) -> None:
        stream = stream_of({"name": "sequence", "parts": ["cifar10", "cifar100[0:10]", "cifar100[10:20]"]}, 0)
        tasks = stream.tasks({"cifar10": 10, "cifar100": 100})
        assert stream.datasets() == ("cifar10", "cifar100")
        assert [(task.dataset, task.classes) for task in tasks] == [
            ("cifar10", tuple(range(10))),
            ("cifar100", tuple(range(10))),
            ("cifar100", tuple(range(10, 20))),
        ]

    def test_resolved_options_can_be_read_again(self) -> None:
        config = stream_of({"name": "sequence", "parts": ["parquet:a/b?label=fine[0:5]", "mnist"]}, 0).config
        assert (config.dataset, config.tasks) == ("parquet:a/b?label=fine", 2)
        assert type(config).model_validate_json(json.dumps(config.model_dump(mode="json"))) == config

    @pytest.mark.parametrize(
        ("parts", "rule"),
        [
            (["digits[0:3", "digits"], r"NAME or NAME\[start:stop\]"),
            (["digits[3]"], r"NAME or NAME\[start:stop\]"),
            (["digit"], "unknown data set 'digit'; did you mean 'digits'"),
            ([], "at least 1 item"),
        ],
    )
    def test_unreadable_parts(self, parts: list[str], rule: str) -> None:
        with pytest.raises(ValidationError, match=rule):
            stream_of({"name": "sequence", "parts": parts}, 0)

    @pytest.mark.parametrize("extra", [{"tasks": 3}, {"dataset": "mnist"}])
    def test_what_follows_from_parts_cannot_contradict_them(self, extra: dict[str, Any]) -> None:
        with pytest.raises(ValidationError, match="follow from parts"):
            stream_of({"name": "sequence", "parts": ["digits"], **extra}, 0)

    @pytest.mark.parametrize(
        ("parts", "rule"),
        [
            (["digits[0:5]", "digits[4:8]"], "one part only .got class 4 of 'digits' in"),
            (["digits", "digits"], "one part only"),
            (["digits[5:11]"], "'digits' has the classes 0..9"),
            (["digits[3:3]"], "'digits' has the classes 0..9"),
        ],
    )
    def test_impossible_slices(self, parts: list[str], rule: str) -> None:
        with pytest.raises(DataError, match=rule):
            stream_of({"name": "sequence", "parts": parts}, 0).tasks({"digits": 10})


class TestOutline:
    def test_a_stream_is_outlined_without_its_data(self) -> None:
        outline = outline_of({"name": "split", "dataset": "mnist", "pad": 2})
        assert outline is not None
        assert outline.sizes == (2, 2, 2, 2, 2)
        assert outline.image_shape == (1, 32, 32)
        assert outline.base_bytes == 70_000 * 784

    def test_mixed_shapes(self) -> None:
        outline = outline_of({"name": "sequence", "parts": ["mnist", "cifar100[0:10]"]})
        assert outline is not None
        assert outline.image_shape == (3, 32, 32)
        assert outline.sizes == (10, 10)

    def test_parquet_says_nothing_of_itself(self) -> None:
        assert outline_of({"name": "split", "dataset": "parquet:anything"}) is None

    def test_impossible_streams_are_refused(self) -> None:
        with pytest.raises(DataError, match="do not divide"):
            outline_of({"name": "split", "dataset": "mnist", "tasks": 3})
        with pytest.raises(UnknownName, match="did you mean 'mnist'"):
            outline_of({"name": "split", "dataset": "mnis"})


@pytest.mark.parametrize("name", STREAMS.names())
def test_options_are_strict(name: str) -> None:
    needed = {"parts": ["digits"]} if name == "sequence" else {}
    with pytest.raises(ValidationError, match="Extra inputs"):
        stream_of({"name": name, "task": 5, **needed}, 0)
    with pytest.raises(ValidationError, match="tasks"):
        stream_of({"name": name, "tasks": "5", **needed}, 0)


def test_first_classes_are_uniform_over_seeds() -> None:
    first = Counter(classes_of(seed)[0][0] for seed in range(500))
    assert len(first) == 10
    assert max(first.values()) < 85
