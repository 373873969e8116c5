"""Training rows that are not learned."""

from __future__ import annotations

import numpy as np
import pytest
from support import TINY, local_source

from raycl.streams.held_out import HeldOut

SPLIT = {**TINY["stream"], "scenario": "class"}


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_learned_and_held_out_rows_are_the_training_rows(share: float) -> None:
    source = local_source(SPLIT, 0)
    cut = HeldOut(source, share, 0)
    for task in range(3):
        whole, learned, held = source.part(task, "train"), cut.part(task, "train"), cut.held(task)
        assert sorted([*learned.rows, *held.rows]) == sorted(whole.rows)
        labels = dict(zip(whole.rows.tolist(), whole.labels.tolist(), strict=True))
        for part in (learned, held):
            assert [labels[row] for row in part.rows.tolist()] == part.labels.tolist()
        for label in (0, 1):
            count = int((whole.labels == label).sum())
            assert int((held.labels == label).sum()) == max(1, round(share * count))


def test_what_is_left_keeps_its_order() -> None:
    source = local_source(SPLIT, 0)
    whole, learned = source.part(1, "train"), HeldOut(source, 0.2, 0).part(1, "train")
    assert np.array_equal(learned.rows, whole.rows[np.isin(whole.rows, learned.rows)])


def test_other_splits_and_the_layout_stay() -> None:
    source = local_source(SPLIT, 0)
    cut = HeldOut(source, 0.2, 0)
    for split in ("validation", "test"):
        assert np.array_equal(cut.part(0, split).rows, source.part(0, split).rows)  # type: ignore[arg-type]
    assert cut.layout == source.layout


def test_the_same_rows_are_cut_alike_in_every_task_and_otherwise_with_another_seed() -> None:
    source = local_source({"name": "permuted", "dataset": "digits", "tasks": 2, "scenario": "domain"}, 0)
    first, second = (set(HeldOut(source, 0.2, 0).held(task).rows.tolist()) for task in range(2))
    assert first == second
    assert first != set(HeldOut(source, 0.2, 1).held(0).rows.tolist())


def test_a_class_keeps_a_row_to_learn() -> None:
    source = local_source({**SPLIT, "train_per_task": 4}, 0)
    learned = HeldOut(source, 0.9, 0).part(0, "train")
    assert set(learned.labels.tolist()) == {0, 1}


def test_judges_are_the_rows_held_out() -> None:
    cut = HeldOut(local_source(SPLIT, 0), 0.2, 0)
    assert np.array_equal(cut.judges.part(2, "train").rows, cut.held(2).rows)
