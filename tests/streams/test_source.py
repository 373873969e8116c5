"""The local source: one contract over every stream, and row 34 of CONTRIBUTING's table with its mutants."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support import local_source

from raycl.errors import DataError
from raycl.spec.seeds import RunSeeds, SeedSource
from raycl.streams.registry import STREAMS
from raycl.streams.scenario import Scenario
from raycl.streams.source import LocalSource, load_images
from raycl.streams.task import Layout, Part, Recipe, SplitName, TaskSource

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
STREAM_BLOCKS: dict[str, dict[str, Any]] = {
    "split": {},
    "permuted": {"tasks": 3, "pad": 1},
    "rotated": {"tasks": 3},
    "sequence": {"parts": ["digits[0:5]", "digits[5:8]", "digits[8:10]"]},
}


ONE_RUN = RunSeeds(class_order=1, split=2, model=3, batches=4)


def changed(seed: SeedSource) -> RunSeeds:
    """The same run with another seed of one source."""
    return ONE_RUN.model_copy(update={seed: 9})


def source(name: str = "split", run: int | RunSeeds = 0, /, train_on: str = "train", **options: Any) -> LocalSource:
    return local_source({"name": name, **STREAM_BLOCKS[name], **options}, run, train_on=train_on)  # type: ignore[arg-type]


def global_labels(served: TaskSource, task: int, split: SplitName) -> np.ndarray:
    classes: np.ndarray = np.array(served.layout.classes[task])
    return classes[served.part(task, split).labels]  # type: ignore[no-any-return]


def leaks(served: TaskSource) -> list[str]:
    """Where a training row of any task is a validation row of any task, or a part repeats a row."""
    found = []
    held: dict[tuple[str, SplitName], set[int]] = {}
    for task in range(served.layout.num_tasks):
        for split in SPLITS:
            part = served.part(task, split)
            rows = set(part.rows.tolist())
            if len(rows) < len(part):
                found.append(f"task {task} {split} repeats a row")
            held.setdefault((part.base, split), set()).update(rows)
    for (base, first), rows in held.items():
        for (other_base, second), others in held.items():
            if base == other_base and first < second and rows & others:
                found.append(f"{first} and {second} share rows of {base}")
    return found


def rows_of(served: TaskSource, split: SplitName) -> list[set[int]]:
    """The base rows of every task, without their order."""
    return [set(served.part(task, split).rows.tolist()) for task in range(served.layout.num_tasks)]


def told(recipe: Recipe) -> tuple[Any, ...]:
    return recipe.pad, recipe.angle, None if recipe.permutation is None else tuple(recipe.permutation)


def test_every_stream_has_a_block() -> None:
    assert set(STREAM_BLOCKS) == set(STREAMS.names())


@pytest.mark.parametrize("name", STREAM_BLOCKS)
class TestEveryStream:
    def test_no_row_leaks(self, name: str) -> None:
        assert leaks(source(name)) == []
        assert leaks(source(name, train_per_task=50)) == []
        assert leaks(source(name, train_on="train_and_validation")) == []

    def test_labels_are_places_in_the_task_and_images_belong_to_them(self, name: str) -> None:
        served, base = source(name), load_images("digits", None)
        known = {"train": base.train_labels, "validation": base.train_labels, "test": base.test_labels}
        for task in range(served.layout.num_tasks):
            for split in SPLITS:
                part = served.part(task, split)
                assert part.labels.dtype == part.rows.dtype == np.int64
                assert np.array_equal(global_labels(served, task, split), known[split][part.rows])
                assert set(part.labels.tolist()) == set(range(len(served.layout.classes[task])))

    def test_all_images_of_the_classes_are_used(self, name: str) -> None:
        served, base = source(name), load_images("digits", None)
        for task, classes in enumerate(served.layout.classes):
            parts = [served.part(task, split) for split in SPLITS]
            assert len(parts[0]) + len(parts[1]) == np.isin(base.train_labels, classes).sum()
            assert len(parts[2]) == np.isin(base.test_labels, classes).sum()

    def test_validation_is_stratified(self, name: str) -> None:
        served, base = source(name, validation_fraction=0.2), load_images("digits", None)
        for task in range(served.layout.num_tasks):
            labels = global_labels(served, task, "validation")
            for label in served.layout.classes[task]:
                assert (labels == label).sum() == round(0.2 * (base.train_labels == label).sum())

    def test_same_seed_same_parts_another_seed_others(self, name: str) -> None:
        one, same, other = source(name, 1), source(name, 1), source(name, 2)
        assert one.layout == same.layout
        assert one.layout.split_hash != other.layout.split_hash
        for split in SPLITS:
            assert np.array_equal(one.part(1, split).rows, same.part(1, split).rows)
        assert not np.array_equal(one.part(1, "train").rows, other.part(1, "train").rows)

    def test_the_splits_seed_decides_rows_and_nothing_of_the_tasks(self, name: str) -> None:
        one, other = source(name, ONE_RUN), source(name, changed("split"))
        assert one.layout.classes == other.layout.classes
        for task in range(one.layout.num_tasks):
            assert told(one.part(task, "train").recipe) == told(other.part(task, "train").recipe)
        for split in SPLITS:
            assert (rows_of(one, split) == rows_of(other, split)) == (split == "test")
        few = [source(name, run, train_per_task=20) for run in (ONE_RUN, changed("split"), changed("class_order"))]
        assert rows_of(few[0], "train") != rows_of(few[1], "train")
        if name in ("permuted", "rotated"):  # tasks of the same classes
            assert rows_of(few[0], "train") == rows_of(few[2], "train")

    def test_the_seed_of_the_class_order_moves_no_row_between_training_and_validation(self, name: str) -> None:
        one, other = source(name, ONE_RUN), source(name, changed("class_order"))
        for split in SPLITS:
            assert set.union(*rows_of(one, split)) == set.union(*rows_of(other, split))
        assert (one.layout.split_hash != other.layout.split_hash) == (name in ("split", "permuted"))

    def test_model_and_batches_decide_nothing_of_a_stream(self, name: str) -> None:
        served = source(name, ONE_RUN)
        assert served.layout == source(name, changed("model")).layout == source(name, changed("batches")).layout
        assert source(name, RunSeeds.of(4)).layout == source(name, 4).layout

    def test_the_streams_own_seed_wins(self, name: str) -> None:
        assert source(name, 1, seed=9).layout == source(name, 2, seed=9).layout == source(name, 9).layout

    def test_parts_fit_the_layout_and_share_read_only_bases(self, name: str) -> None:
        served, again = source(name), source(name, 5)
        bases: dict[str, np.ndarray] = {}
        for task in range(served.layout.num_tasks):
            for split in SPLITS:
                part = served.part(task, split)
                images = part.recipe.apply(torch.from_numpy(part.images[part.rows[:2]]))
                assert tuple(images.shape[1:]) == served.layout.image_shape
                assert not part.images.flags.writeable
                assert bases.setdefault(part.base, part.images) is part.images
                assert again.part(task, split).images is part.images
        assert len(bases) == 2

    def test_training_and_test_go_through_one_recipe(self, name: str) -> None:
        served = source(name)
        recipes = [served.part(1, split).recipe for split in SPLITS]
        assert len({told(recipe) for recipe in recipes}) == 1

    def test_merged_training_holds_the_validation_rows(self, name: str) -> None:
        apart, merged = source(name), source(name, train_on="train_and_validation")
        rows = np.concatenate([apart.part(0, "train").rows, apart.part(0, "validation").rows])
        assert np.array_equal(np.sort(rows), np.sort(merged.part(0, "train").rows))
        assert len(merged.part(0, "validation")) == 0
        assert np.array_equal(apart.part(0, "test").rows, merged.part(0, "test").rows)
        assert apart.layout.split_hash != merged.layout.split_hash

    def test_the_hash_changes_with_every_option_that_moves_data(self, name: str) -> None:
        changes: list[dict[str, Any]] = [
            {},
            {"validation_fraction": 0.2},
            {"train_per_task": 40},
            {"train_per_task": 41},
            {"pad": 2},
        ]
        own: dict[str, list[dict[str, Any]]] = {
            "split": [{"class_order": "fixed"}, {"class_order": list(range(9, -1, -1))}, {"tasks": 2}],
            "permuted": [{"tasks": 4}, {"first_task": "identity"}],
            "rotated": [{"tasks": 4}, {"angles": "random"}, {"angles": [0, 90, 181]}, {"max_angle": 90}],
            "sequence": [{"parts": ["digits[0:5]", "digits[5:9]"]}, {"parts": ["digits"]}],
        }
        changes += own[name]
        hashes = {source(name, **change).layout.split_hash for change in changes}
        assert len(hashes) == len(changes)

    def test_the_hash_ignores_what_moves_no_data(self, name: str) -> None:
        plain = source(name).layout
        assert source(name, normalize="none", augment="flip", scenario="task").layout == plain

    @pytest.mark.parametrize("task", [-1, 99])
    def test_a_task_that_does_not_exist(self, name: str, task: int) -> None:
        with pytest.raises(DataError, match=rf"tasks of this stream are 0..\d \(got {task}\)"):
            source(name).part(task, "train")

    def test_prefix_of_scored_rows_is_stratified(self, name: str) -> None:
        served = source(name)
        for split in ("validation", "test"):
            labels = served.part(0, split).labels
            share = np.bincount(labels) / len(labels)
            for size in (len(labels) // 3, len(labels) // 2):
                counts = np.bincount(labels[:size], minlength=len(share))
                assert np.abs(counts - size * share).max() <= 1


def leaking(served: LocalSource) -> TaskSource:
    """A mutant whose validation rows are training rows, as in a set that 'validates' on a copy of train."""

    class Leaking:
        layout: Layout = served.layout
        prefetch = served.prefetch

        def part(self, task: int, split: SplitName) -> Part:
            return served.part(task, "train" if split == "validation" else split)

    return Leaking()


def redrawn(name: str) -> TaskSource:
    """A mutant that draws the validation split anew for every task, though tasks share their images."""
    drawn = [source(name, seed) for seed in range(3)]

    class Redrawn:
        layout: Layout = drawn[0].layout
        prefetch = drawn[0].prefetch

        def part(self, task: int, split: SplitName) -> Part:
            return drawn[task].part(task, split)

    return Redrawn()


def test_the_leak_check_fails_on_its_mutants() -> None:
    assert leaks(leaking(source("split"))) == ["train and validation share rows of digits/1x8x8/train"]
    assert leaks(redrawn("permuted")) == ["train and validation share rows of digits/1x8x8/train"]


def domain_label_is_place_in_task(label: Callable[[int, int, tuple[int, ...]], int], order: list[int]) -> bool:
    """Whether the domain label of every class is its place within its task, in the shuffled order."""
    served = source("split", class_order=order)
    scenario = Scenario("domain", "auto", tuple(len(classes) for classes in served.layout.classes))
    for task in range(served.layout.num_tasks):
        part = served.part(task, "test")
        units = scenario.labels(torch.from_numpy(part.labels), task).tolist()
        for unit, known in zip(units, global_labels(served, task, "test").tolist(), strict=True):
            if unit != label(known, task, tuple(order)):
                return False
    return True


def test_domain_labels_are_places_in_the_shuffled_pairs_not_odd_and_even() -> None:
    def place(known: int, task: int, order: tuple[int, ...]) -> int:
        return order.index(known) - 2 * task

    def odd(known: int, task: int, order: tuple[int, ...]) -> int:
        return known % 2

    shuffled = [4, 2, 5, 9, 0, 1, 8, 3, 7, 6]
    assert domain_label_is_place_in_task(place, shuffled)
    assert not domain_label_is_place_in_task(odd, shuffled)
    assert domain_label_is_place_in_task(odd, list(range(10)))


def test_class_labels_are_global_in_order_of_appearance() -> None:
    order = [4, 2, 5, 9, 0, 1, 8, 3, 7, 6]
    served = source("split", class_order=order)
    scenario = Scenario("class", "auto", (2,) * 5)
    for task in range(5):
        units = scenario.labels(torch.from_numpy(served.part(task, "test").labels), task)
        assert [order.index(label) for label in global_labels(served, task, "test")] == units.tolist()


def test_padding_comes_before_normalisation() -> None:
    """Padded pixels are black pixels of the image: after mean_std they are -mean/std, not 0."""
    served = source("split", pad=1, normalize="mean_std")
    part, layout = served.part(0, "train"), served.layout
    pixels = part.recipe.apply(torch.from_numpy(part.images[part.rows[:3]])).float() / 255
    right = (pixels - layout.mean[0]) / layout.std[0]
    mutant = torch.nn.functional.pad(right[:, :, 1:-1, 1:-1], (1, 1, 1, 1))
    black = torch.tensor(-layout.mean[0] / layout.std[0])
    assert torch.allclose(right[:, :, 0], black.float())
    assert not torch.allclose(mutant[:, :, 0], black.float())


@pytest.mark.parametrize("pad", [0, 2])
def test_mean_and_deviation_are_those_of_what_the_network_sees(pad: int) -> None:
    served = source("split", pad=pad, normalize="mean_std")
    part, layout = served.part(0, "train"), served.layout
    seen = part.recipe.apply(torch.from_numpy(part.images.copy())).double() / 255
    assert layout.mean[0] == pytest.approx(seen.mean().item(), abs=0.01)
    assert layout.std[0] == pytest.approx(seen.std().item(), abs=0.01)


def test_purposes_have_seeds_of_their_own() -> None:
    """Permutations do not move when the split does, nor the split when the classes are ordered otherwise."""
    one, other = source("permuted", validation_fraction=0.1), source("permuted", validation_fraction=0.3)
    assert np.array_equal(one.part(1, "train").recipe.permutation, other.part(1, "train").recipe.permutation)  # type: ignore[arg-type]
    fixed, turned = source("split", class_order="fixed"), source("split", class_order=list(range(9, -1, -1)))
    mine = np.concatenate([fixed.part(task, "validation").rows for task in range(5)])
    theirs = np.concatenate([turned.part(task, "validation").rows for task in range(5)])
    assert np.array_equal(np.sort(mine), np.sort(theirs))


def test_train_per_task_is_stratified_and_drawn_anew_for_every_task() -> None:
    served, full = source("permuted", train_per_task=100), source("permuted")
    everything = np.bincount(full.part(0, "train").labels) / len(full.part(0, "train"))
    drawn = [served.part(task, "train") for task in range(3)]
    for part in drawn:
        assert len(part) == 100
        assert np.abs(np.bincount(part.labels) - 100 * everything).max() <= 1
        assert set(part.rows) <= set(full.part(0, "train").rows)
    assert not np.array_equal(np.sort(drawn[0].rows), np.sort(drawn[1].rows))
    assert np.array_equal(drawn[2].rows, served.part(2, "train").rows)
    generous = source("permuted", train_per_task=10**6)
    assert np.array_equal(generous.part(0, "train").rows, full.part(0, "train").rows)


def test_training_rows_do_not_come_sorted_by_class() -> None:
    labels = source("split").part(0, "train").labels
    assert 0.3 < np.mean(labels[:-1] != labels[1:]) < 0.7


def test_a_class_too_small_to_validate_is_refused() -> None:
    with pytest.raises(DataError, match=r"class 0 has \d+ training images, which leaves none"):
        source("split", class_order="fixed", validation_fraction=0.999).part(0, "train")


def test_mean_and_std_are_those_of_the_training_images() -> None:
    pixels = load_images("digits", None).train_images / 255
    layout = source("split").layout
    assert layout.mean == pytest.approx((pixels.mean(),))
    assert layout.std == pytest.approx((pixels.std(),))


def test_a_thousand_permuted_tasks_cost_kilobytes() -> None:
    served = source("permuted", pad=2, tasks=1000)
    assert served.layout.num_tasks == 1000
    tracemalloc.start()
    parts = [served.part(task, "train") for task in range(0, 1000, 100)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len({tuple(part.recipe.permutation) for part in parts}) == 10  # type: ignore[arg-type]
    assert len({id(part.rows) for part in parts}) == 1
    assert held < 200_000
