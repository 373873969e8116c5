"""Pixels to inputs, rows to batches, batches to phases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from raycl.strategies.base import Epochs, Phase, Rows, Updates
from raycl.streams.task import Layout, Part, Recipe
from raycl.trial.batching import BatchPlan
from raycl.trial.loading import MadeSegment, Pixels, RowPool, part_segment, table_segment

CPU = torch.device("cpu")


def pixels(normalize: str = "none", augment: str = "none", seed: int = 0) -> Pixels:
    layout = Layout(((0, 1),), (1, 4, 4), "hash", (0.25,), (0.5,))
    return Pixels(normalize, augment, layout, torch.Generator().manual_seed(seed), CPU)


def numbered(rows: int, size: int = 4, first: int = 0) -> np.ndarray:
    """Images whose every pixel is the image's number."""
    images = np.arange(first, first + rows, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(images, (rows, 1, size, size)).copy()


def part(images: np.ndarray, rows: list[int], recipe: Recipe | None = None) -> Part:
    images.setflags(write=False)
    index = np.array(rows)
    return Part(images, index, index % 2, recipe or Recipe(), "base")


def segment(images: np.ndarray, rows: list[int], task: int = 0, recipe: Recipe | None = None):  # type: ignore[no-untyped-def]
    made = part(images, rows, recipe)
    return part_segment(made, torch.from_numpy(made.labels), task, CPU)


def test_a_part_cut_short_keeps_nothing_of_the_rest() -> None:
    """A view would: a thousand tasks of ten thousand labels, of which fifty are looked at, are 80 MB."""
    made = part(numbered(8), list(range(8)))
    cut = part_segment(made, torch.from_numpy(made.labels), 0, CPU, limit=3)
    assert cut.y.tolist() == made.labels[:3].tolist()
    assert {tensor.untyped_storage().nbytes() for tensor in (cut.y, cut.task, cut.rows)} == {3 * 8}


def test_what_a_part_holds_of_its_own_includes_its_permutation() -> None:
    """Of a thousand permutations of 784 pixels that is 12 MB."""
    plain = segment(numbered(8), [0, 1, 2])
    permuted = segment(numbered(8), [0, 1, 2], recipe=Recipe(permutation=np.arange(16)))
    assert plain.own_bytes == 3 * 3 * 8
    assert permuted.own_bytes == plain.own_bytes + 2 * 16 * 8


def test_normalisation_is_the_textbook_one() -> None:
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    assert pixels("none").normalize(image).flatten().tolist() == [0, 51, 255]
    assert pixels("unit").normalize(image).flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert pixels("mean_std").normalize(image).flatten().tolist() == pytest.approx([-0.5, -0.1, 1.5])


def test_flips_mirror_about_half_of_the_rows_on_their_own() -> None:
    x = torch.arange(4.0).expand(1000, 1, 4, 4)
    flipped = pixels(augment="flip").augment(x)[:, 0, 0, 0] == 3
    assert 420 < int(flipped.sum()) < 580


def test_crops_move_each_row_by_up_to_four_pixels_over_the_background() -> None:
    x = torch.full((200, 1, 4, 4), -0.5)
    x[:, :, 1, 2] = 7.0
    cropped = pixels("mean_std", "crop").augment(x)
    positions = {tuple(row.nonzero()[0].tolist()) for row in (cropped[:, 0] == 7.0) if row.any()}
    assert len(positions) == 16
    rest = cropped[cropped != 7.0]
    assert torch.equal(rest, torch.full_like(rest, -0.5)), "black stays black after normalisation"


def test_a_pool_finds_the_rows_of_its_segments_and_keeps_their_tasks() -> None:
    pool = RowPool([segment(numbered(6), [5, 1], 0), segment(numbered(3, first=100), [0, 2], 1)], pixels())
    batch = pool.gather(torch.tensor([3, 0, 2, 1]))
    found = sorted(zip(batch.image[:, 0, 0, 0].tolist(), batch.task.tolist(), batch.y.tolist(), strict=True))
    assert found == [(1, 0, 1), (5, 0, 1), (100, 1, 0), (102, 1, 0)]
    assert batch.x[:, 0, 0, 0].tolist() == batch.image[:, 0, 0, 0].tolist()


def test_neighbours_over_one_base_array_become_one_segment() -> None:
    images = numbered(6)
    assert len(RowPool([segment(images, [0, 1]), segment(images, [3])], pixels()).segments) == 1
    permuted = Recipe(permutation=np.arange(16)[::-1].copy())
    assert len(RowPool([segment(images, [0]), segment(images, [3], 1, permuted)], pixels()).segments) == 2


def test_a_costly_recipe_is_applied_once_and_gives_what_applying_it_each_time_gives() -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 1, 8, 8), dtype=np.uint8)
    recipe = Recipe(angle=30.0)
    turned = segment(images, [4, 2], 0, recipe)
    assert turned.recipe is None
    want = recipe.apply(torch.from_numpy(images[[4, 2]]))
    assert torch.equal(turned.gather(torch.tensor([0, 1]), pixels(), False).image, want)


def test_memory_rows_are_marked_and_keep_their_columns() -> None:
    rows = {
        "image": torch.from_numpy(numbered(2)),
        "label": torch.tensor([3, 4]),
        "task": torch.tensor([0, 1]),
        "logits": torch.tensor([[1.0], [2.0]]),
    }
    pool = RowPool([segment(numbered(2), [0, 1], 2), table_segment(rows, CPU)], pixels())
    batch = pool.gather(torch.arange(4))
    assert batch.replayed.tolist() == [False, False, True, True]
    assert batch.columns["logits"][2:].flatten().tolist() == [1, 2]
    assert batch.columns["logits"][:2].isnan().all()


def test_a_batch_says_which_task_it_is_of_where_all_rows_come_from_one() -> None:
    images, turned = numbered(4), Recipe(angle=30.0)
    memory = {"image": torch.from_numpy(numbered(1)), "label": torch.zeros(1).long(), "task": torch.ones(1).long()}
    one, same, other = segment(images, [0, 1], 1), segment(images, [2], 1), segment(images, [3], 2)
    for segments, only in (
        ([one], 1),
        ([one, same], 1),
        ([one, other], None),
        ([segment(images, [0], 1, turned)], 1),
        ([one, segment(images, [0], 2, turned)], None),
        ([one, table_segment(memory, CPU)], None),
    ):
        pool = RowPool(segments, pixels())
        batch = pool.gather(torch.arange(len(pool)))
        assert batch.only == only
        assert batch[:1].only == only


def test_rows_that_a_strategy_made_are_used_as_they_stand() -> None:
    x = torch.arange(6.0).view(3, 2)
    made = MadeSegment(Rows(x, torch.tensor([0, 1, 2]), torch.zeros(3).long(), torch.ones(3).bool()))
    batch = RowPool([made], pixels("unit", "crop")).gather(torch.tensor([2, 0]))
    assert torch.equal(batch.x, x[[2, 0]])
    assert batch.replayed.all()


# -- phases ----------------------------------------------------------------------------------------------------


def plan(rows: int, phase: Phase, batch_size: int = 4, remembered: int = 0, mix: str = "size") -> BatchPlan:
    segments = [segment(numbered(rows), list(range(rows)))] if rows else []
    if remembered:
        image = torch.from_numpy(numbered(remembered, first=100))
        zeros = torch.zeros(remembered, dtype=torch.int64)
        segments.append(table_segment({"image": image, "label": zeros, "task": zeros}, CPU))
    generator = torch.Generator().manual_seed(0)
    return BatchPlan(RowPool(segments, pixels()), rows, phase, batch_size, 3, mix, generator)  # type: ignore[arg-type]


def numbers(image: Tensor) -> list[int]:
    return image[:, 0, 0, 0].tolist()


def test_an_epoch_sees_every_row_once_in_a_new_order() -> None:
    seen = [(numbers(batch.image), at) for batch, at in plan(10, Phase("train", Epochs(2))).batches(5)]
    first = [number for rows, at in seen if at.epoch == 0 for number in rows]
    second = [number for rows, at in seen if at.epoch == 1 for number in rows]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert [at.update for _, at in seen] == [0, 1, 2, 3, 4, 5]
    assert [at.last for _, at in seen] == [False] * 5 + [True]
    assert [at.fraction for _, at in seen] == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert seen[0][1].task == 5


def test_a_single_left_over_row_joins_the_batch_before_it() -> None:
    sizes = [len(batch) for batch, _ in plan(9, Phase("train", Epochs(1))).batches(0)]
    assert sizes == [4, 5]


def test_updates_take_full_batches_from_one_pass_after_another() -> None:
    seen = [numbers(batch.image) for batch, _ in plan(10, Phase("train", Updates(5))).batches(0)]
    assert [len(rows) for rows in seen] == [4] * 5
    assert len(set(seen[0] + seen[1])) == 8, "no row twice in a pass"


def test_fewer_rows_than_a_batch_are_one_batch() -> None:
    assert [len(batch) for batch, _ in plan(3, Phase("train", Updates(2)), 8).batches(0)] == [3, 3]


def test_stream_order_is_the_order_of_the_rows() -> None:
    seen = [numbers(batch.image) for batch, _ in plan(6, Phase("see", Epochs(1), order="stream")).batches(0)]
    assert seen == [[0, 1, 2, 3], [4, 5]]


def test_no_rows_no_updates() -> None:
    assert list(plan(0, Phase("fit", Epochs(3))).batches(0)) == []


@pytest.mark.parametrize(("mix", "want"), [("size", 4), ("equal", 4 * 3), ("paired", 0)])
def test_a_union_is_composed_as_asked(mix: str, want: int) -> None:
    seen = [
        number
        for batch, _ in plan(12, Phase("train", Epochs(1)), 4, 4, mix).batches(0)
        for number in numbers(batch.image)
    ]
    assert sorted(number for number in seen if number < 100) == list(range(12))
    from_memory = [number for number in seen if number >= 100]
    assert len(from_memory) == (want or 3 * 3), "paired adds three rows to each of three updates"


def test_a_union_without_new_rows_is_the_memory() -> None:
    seen = [
        number
        for batch, _ in plan(0, Phase("fit", Epochs(1)), 4, 6, "paired").batches(0)
        for number in numbers(batch.image)
    ]
    assert sorted(seen) == [100, 101, 102, 103, 104, 105]
