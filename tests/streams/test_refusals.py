"""Streams that cannot tell methods apart are refused: equal tasks, and classes without images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from streams.image_sets import pixels_of, png, write_set
from support import local_source, stream_of

from raycl.errors import DataError
from raycl.spec.options import StreamConfig
from raycl.streams.permuted import Permuted
from raycl.streams.refusals import check_distinct, check_split
from raycl.streams.rotated import Rotated
from raycl.streams.source import LocalSource, load_images
from raycl.streams.stream import Stream, TaskClasses, every_class
from raycl.streams.task import Recipe

SHAPE = (1, 8, 8)


class Listed(Permuted):
    """A stream of another package: its tasks have the recipes that the test names."""

    recipes: ClassVar[list[Recipe]] = []

    def recipe(self, task: int, height: int, width: int) -> Recipe:
        return self.recipes[task]


class Recurring(Listed):
    repeats = True


def listed(kind: type[Listed], recipes: list[Recipe], monkeypatch: pytest.MonkeyPatch) -> Stream:
    monkeypatch.setattr(Listed, "recipes", recipes)
    config = kind.Config.model_validate_json(f'{{"name": "permuted", "tasks": {len(recipes)}}}')
    return kind(config, 0)


def check(stream: Stream, shape: tuple[int, int, int] = SHAPE) -> None:
    tasks = stream.tasks({"digits": 10})
    check_distinct(stream, tasks, {"digits": "digits"}, shape)


ORDER = np.random.RandomState(0).permutation(64)
EQUAL: dict[str, list[Recipe]] = {
    "no recipe twice": [Recipe(), Recipe()],
    "a full turn": [Recipe(angle=0.0), Recipe(angle=90.0), Recipe(angle=360.0)],
    "a turn back": [Recipe(angle=-90.0), Recipe(angle=270.0)],
    "one permutation twice": [Recipe(permutation=ORDER), Recipe(angle=5.0), Recipe(permutation=ORDER.copy())],
    "a permutation that moves nothing": [Recipe(), Recipe(permutation=np.arange(64))],
}
DIFFERENT: dict[str, list[Recipe]] = {
    "turns": [Recipe(), *(Recipe(angle=float(angle)) for angle in range(18, 360, 18))],
    "permutations": [Recipe(permutation=np.random.RandomState(seed).permutation(64)) for seed in range(20)],
    "two pixels": [Recipe(), Recipe(permutation=np.array([1, 0, *range(2, 64)]))],
}


@pytest.mark.parametrize("name", EQUAL)
def test_tasks_of_equal_recipes_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    last = len(EQUAL[name]) - 1
    with pytest.raises(DataError, match=rf"tasks 0 and {last} of stream 'permuted' are equal"):
        check(listed(Listed, EQUAL[name], monkeypatch))


@pytest.mark.parametrize("name", DIFFERENT)
def test_tasks_that_differ_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(listed(Listed, DIFFERENT[name], monkeypatch))


def test_a_stream_that_says_so_may_repeat_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    check(listed(Recurring, EQUAL["no recipe twice"], monkeypatch))


def test_a_comparison_of_the_recipes_numbers_would_miss_the_full_turn() -> None:
    """The mutant, and what it missed: the images of 0 and of 360 degrees are equal byte by byte."""
    one, other = Recipe(angle=0.0), Recipe(angle=360.0)
    images = torch.from_numpy(load_images("digits", None).train_images[:50].copy())
    assert one.angle != other.angle
    assert torch.equal(one.apply(images), other.apply(images))


def test_images_of_two_pixels_have_two_permutations() -> None:
    stream = stream_of({"name": "permuted", "tasks": 3}, 0)
    with pytest.raises(DataError, match="are equal"):
        check(stream, (1, 1, 2))
    check(stream_of({"name": "permuted", "tasks": 3}, 0), (1, 4, 4))


class TestRotated:
    @pytest.mark.parametrize(
        ("options", "rule"),
        [
            ({"max_angle": 360, "tasks": 10}, "max_angle 360 turns the last task back to the first; take at most 324"),
            ({"angles": [0, 90, 360], "tasks": 3}, "angles must differ, 360 degrees being 0"),
            ({"angles": [10, -350], "tasks": 2}, "angles must differ"),
            ({"angles": [45, 45], "tasks": 2}, "angles must differ"),
        ],
    )
    def test_refused_where_it_is_written(self, options: dict[str, Any], rule: str) -> None:
        with pytest.raises(ValidationError, match=rule):
            stream_of({"name": "rotated", **options}, 0)

    def test_a_whole_turn_in_equal_steps(self) -> None:
        for block in ({"max_angle": 324, "tasks": 10}, {"max_angle": 360, "tasks": 5, "angles": "random"}):
            local_source({"name": "rotated", **block}, 0)
        one = stream_of({"name": "rotated", "max_angle": 360, "tasks": 1}, 0)
        assert isinstance(one, Rotated)
        assert one.angle(0) == 0


def test_one_set_under_two_names(tmp_path: Path) -> None:
    """A sequence refuses a class that stands in two parts by name; a copy has another name and the same content."""
    write_set(tmp_path / "a")
    write_set(tmp_path / "b")
    block = {"name": "sequence", "parts": ["parquet:a", "parquet:b"], "scenario": "task"}
    with pytest.raises(DataError, match=r"tasks 0 and 1 of stream 'sequence' are equal"):
        local_source(block, 0, tmp_path)
    local_source({**block, "parts": ["parquet:a[0:2]", "parquet:b[1:3]"]}, 0, tmp_path)


def test_one_set_is_not_tested_on_what_another_is_trained_on(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    other_way_round = "parquet:set?train=test.parquet&test=train.parquet"
    block = {"name": "sequence", "parts": ["parquet:set", other_way_round], "scenario": "task"}
    with pytest.raises(DataError, match="every test image of 'parquet:set' is a training image of"):
        local_source(block, 0, tmp_path)
    images = [[png(image) for image in pixels_of(12, seed=seed)] for seed in (7, 8)]
    write_set(tmp_path / "other", train={"image": images[0]}, test={"image": images[1]})
    local_source({**block, "parts": ["parquet:set", "parquet:other"]}, 0, tmp_path)


class Chunks(Stream):
    """Every class in every task, and nothing that tells tasks apart."""

    Config = StreamConfig

    def tasks(self, num_classes: Any) -> tuple[TaskClasses, ...]:
        return every_class(self.config, num_classes)


def test_a_plug_in_whose_tasks_are_all_the_same() -> None:
    with pytest.raises(DataError, match="tasks 0 and 1 of stream 'chunks' are equal"):
        check(Chunks(StreamConfig(name="chunks", tasks=3), 0))
    check(Chunks(StreamConfig(name="chunks", tasks=1), 0))


class TestClassesWithoutImages:
    def source(self, tmp_path: Path, **options: Any) -> LocalSource:
        write_set(tmp_path)
        table = pq.read_table(tmp_path / "test.parquet")
        rows = [row for row, label in enumerate(table["label"].to_pylist()) if label != 1]
        pq.write_table(table.take(rows), tmp_path / "test.parquet")
        block = {"name": "split", "dataset": "parquet", "tasks": 3, "class_order": "fixed", **options}
        return local_source(block, 0, tmp_path)

    def test_one_without_test_images(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        check_split(source, "train")
        check_split(source, "validation")
        with pytest.raises(DataError, match="task 1 of the stream has no test images of class 1 of its data set"):
            check_split(source, "test")
        check_split(self.source(tmp_path, class_order=[2, 0], tasks=2), "test")

    def test_one_that_train_per_task_leaves_out(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, tasks=1, train_per_task=2)
        with pytest.raises(DataError, match=r"no train images of class \d .*cannot be learned; raise stream.train_per"):
            check_split(source, "train")
        check_split(self.source(tmp_path, tasks=1, train_per_task=3), "train")
