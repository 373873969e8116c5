"""What pretrained weights have learned from, told from where they come from, and first-task moments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streams.image_sets import write_set
from support import held_by, local_source

from raycl.streams.contents import CONTENTS, Content, seen, told
from raycl.streams.source import LocalSource, load_images
from raycl.trial.loading import Pixels

FIVE = (Content("digits", "d1", (0, 1, 2, 3, 4)),)


def origin(*contents: Content, **more: Any) -> dict[str, Any]:
    """As a file of weights holds it."""
    return dict(json.loads(json.dumps({CONTENTS: told(contents), **more})))


SEEN: list[tuple[dict[str, Any], str]] = [
    (origin(*FIVE), "5 of 5 classes of data set 'digits'"),
    (origin(Content("digits", "d1", (3, 4, 5, 6))), "2 of 5 classes of data set 'digits'"),
    (origin(Content("digits", "d1", (5, 6, 7, 8, 9))), ""),
    (origin(Content("renamed", "d1", (0,))), "1 of 5 classes of data set 'digits'"),
    (origin(Content("digits", "other pixels", (0,))), "1 of 5 classes of data set 'digits'"),
    (origin(Content("mnist", "m1", tuple(range(10)))), ""),
    (origin(Content("digits?label=coarse", "c1", (9,))), "5 of 5 classes of data set 'digits'"),
    (origin(Content("mnist", "m1", (0,)), start=origin(*FIVE)), "5 of 5 classes of data set 'digits'"),
    ({"stream": {"name": "split", "dataset": "digits"}}, "5 of 5 classes of data set 'digits'"),
    ({"stream": {"name": "sequence", "parts": ["mnist", "digits[0:3]"]}}, "5 of 5 classes of data set 'digits'"),
    ({"stream": {"name": "split", "dataset": "mnist"}}, ""),
    ({"data": "ImageNet-1k"}, ""),
    ({}, ""),
]


@pytest.mark.parametrize(("known", "expected"), SEEN)
def test_what_was_seen(known: dict[str, Any], expected: str) -> None:
    assert seen(known, FIVE) == expected


def test_names_alone_would_miss_a_renamed_set_and_accuse_other_classes() -> None:
    """The mutant: whether the names are equal."""
    by_name = [any(one["dataset"] == "digits" for one in known.get(CONTENTS, ())) for known, _ in SEEN]
    assert by_name != [bool(expected) for _, expected in SEEN]


def test_a_layout_tells_what_the_tasks_hold(tmp_path: Path) -> None:
    write_set(tmp_path / "colour")
    block = {"name": "sequence", "parts": ["digits[0:3]", "parquet:colour", "digits[5:7]"], "scenario": "task"}
    layout = local_source(block, 0, tmp_path).layout
    digits, colour = layout.contents
    assert (digits.dataset, digits.classes) == ("digits", (0, 1, 2, 5, 6))
    assert digits.digest == load_images("digits", tmp_path).fingerprint, "as it was read, not as it was fitted"
    assert (colour.dataset, colour.classes) == ("parquet:colour", (0, 1, 2))
    assert held_by(block, 0, tmp_path) == layout.contents
    assert layout.seen == ""


def test_the_digest_names_the_content_and_not_the_seed(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    block = {"name": "split", "dataset": "parquet:set", "tasks": 3}
    digests = {local_source(block, seed, tmp_path).layout.data_digest for seed in range(3)}
    assert len(digests) == 1
    assert len({local_source(block, seed, tmp_path).layout.split_hash for seed in range(3)}) == 3
    other = tmp_path / "other"
    write_set(other / "set", train={"label": [1, 0, 2] * 4})
    assert local_source(block, 0, other).layout.data_digest not in digests


class TestFirstTask:
    """``normalize: mean_std_first_task`` knows what a learner knows when it begins."""

    def source(self, name: str = "split", **options: Any) -> LocalSource:
        own = {"split": {"class_order": "fixed"}, "permuted": {"tasks": 3}, "rotated": {"angles": [30, 0], "tasks": 2}}
        return local_source({"name": name, "normalize": "mean_std_first_task", **own[name], **options}, 0)

    def check(self, source: LocalSource) -> None:
        """Mean and deviation are those of the first task's training rows."""
        part = source.part(0, "train")
        shown = part.recipe.apply(torch.from_numpy(part.images[part.rows])).double() / 255
        layout = source.layout
        assert layout.mean[0] == pytest.approx(shown.mean().item(), rel=1e-9)
        assert layout.std[0] == pytest.approx(shown.std(correction=0).item(), rel=1e-9)

    @pytest.mark.parametrize("name", ["split", "permuted", "rotated"])
    @pytest.mark.parametrize("pad", [0, 2])
    def test_of_the_first_tasks_training_rows(self, name: str, pad: int) -> None:
        self.check(self.source(name, pad=pad))
        self.check(self.source(name, train_per_task=30))

    def test_all_images_and_all_rows_of_the_task_are_told_apart(self) -> None:
        """Mutants: what ``mean_std`` takes, and the validation rows besides."""
        with pytest.raises(AssertionError):
            self.check(self.source(normalize="mean_std"))
        source = self.source()
        base = load_images("digits", None)
        pixels = base.train_images[np.isin(base.train_labels, (0, 1))] / 255
        assert abs(source.layout.mean[0] - pixels.mean()) > 1e-5

    def test_nothing_but_the_numbers_changes(self) -> None:
        first, every = self.source().layout, self.source(normalize="mean_std").layout
        assert first.split_hash == every.split_hash
        assert first.data_digest == every.data_digest
        assert first.mean != every.mean

    def test_a_network_sees_standardised_pixels(self) -> None:
        source = self.source()
        pixels = Pixels("mean_std_first_task", "none", source.layout, torch.Generator(), torch.device("cpu"))
        part = source.part(0, "train")
        x = pixels.normalize(torch.from_numpy(part.images[part.rows]))
        assert x.mean().item() == pytest.approx(0, abs=1e-5)
        assert x.std(correction=0).item() == pytest.approx(1, abs=1e-5)
