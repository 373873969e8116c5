"""What is left of a stream for a fresh model once its first tasks have chosen hyperparameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support import local_source
from sweeping import HEAD, parsed

from raycl.spec.sweep import SweepSpec
from raycl.streams import later
from raycl.streams.later import LaterTasks, later_tasks
from raycl.streams.source import LocalSource
from raycl.trial.check import build_all, capacities
from raycl.trial.trainer import Trainer

OWN: dict[str, dict[str, Any]] = {
    "split": {"class_order": "fixed", "tasks": 5},
    "permuted": {"tasks": 3, "first_task": "identity"},
    "rotated": {"angles": [30, 0, 60], "tasks": 3},
}


def source(name: str, normalize: str = "mean_std_first_task") -> LocalSource:
    return local_source({"name": name, "normalize": normalize, "pad": 2, **OWN[name]}, 0)


def check_moments(whole: LocalSource, skipped: int) -> None:
    """Mean and deviation are those of the training rows that a fresh model begins with."""
    part = whole.part(skipped, "train")
    shown = part.recipe.apply(torch.from_numpy(part.images[part.rows])).double() / 255
    layout = later_tasks(whole, skipped, "mean_std_first_task").layout
    assert layout.mean[0] == pytest.approx(shown.mean().item(), rel=1e-9)
    assert layout.std[0] == pytest.approx(shown.std(correction=0).item(), rel=1e-9)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("skipped", [1, 2])
def test_moments_are_those_of_the_first_task_that_is_left(name: str, skipped: int) -> None:
    check_moments(source(name), skipped)


def test_the_mutant_with_the_moments_of_a_task_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later, "LaterTasks", lambda source, skipped, of_first_task: LaterTasks(source, skipped))
    with pytest.raises(AssertionError):
        check_moments(source("split"), 1)


@pytest.mark.parametrize("normalize", ["unit", "mean_std", "none"])
def test_other_moments_are_of_all_images_as_before(normalize: str) -> None:
    whole = source("split", normalize)
    assert later_tasks(whole, 2, normalize).layout.mean == whole.layout.mean
    assert later_tasks(whole, 0, normalize) is whole


@pytest.mark.parametrize("name", OWN)
def test_the_tasks_that_are_left_are_those_of_the_stream(name: str) -> None:
    """Classes, rows and recipes: the task whose pixels are not permuted is the stream's first, and it is left out."""
    whole = source(name)
    left = later_tasks(whole, 1, "unit")
    assert left.layout.classes == whole.layout.classes[1:]
    for split in ("train", "validation", "test"):
        own, theirs = left.part(0, split), whole.part(1, split)
        assert np.array_equal(own.rows, theirs.rows)
        assert own.recipe.angle == theirs.recipe.angle
        assert np.array_equal(own.recipe.permutation, theirs.recipe.permutation)
    assert (left.part(0, "train").recipe.permutation is not None) == (name == "permuted")


DISJOINT = """
strategies: {replay: {training.learning_rate: {choice: [1e-3, 1e-2]}, memory.capacity: CAPACITY}}
search: {protocol: PROTOCOL, trials: 2, seeds: [0]}
final: {seeds: [10]}
limits: {max_state_bytes: 20000}
"""


def sweep(protocol: str, normalize: str = "mean_std_first_task", capacity: object = 50) -> SweepSpec:
    text = HEAD.replace("validation_fraction", f"normalize: {normalize}, validation_fraction")
    return parsed(text + DISJOINT.replace("PROTOCOL", protocol).replace("CAPACITY", str(capacity)))


def test_final_trials_see_pixels_by_the_moments_of_their_own_first_task() -> None:
    disjoint = sweep("{first_tasks: {tasks: 2, disjoint: true}}")
    (entry,) = disjoint.entries
    final, search = (disjoint.trial(entry, entry.middle, 10, phase) for phase in ("final", "search"))
    for spec, first in ((final, 2), (search, 0)):
        stream = local_source(spec.stream, 10)
        part, running = stream.part(first, "train"), Trainer(spec, stream)
        x = running.strategy.context.normalize(torch.from_numpy(part.images[part.rows]))
        assert x.mean().item() == pytest.approx(0, abs=1e-5)
        assert x.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert final.revisions["first task"] == 2, "such trials had the moments of a task that they do not learn"
    assert "first task" not in search.revisions
    assert "first task" not in sweep("{first_tasks: 2}").trial(entry, entry.middle, 10, "final").revisions
    plain = sweep("{first_tasks: {tasks: 2, disjoint: true}}", "unit")
    assert "first task" not in plain.trial(plain.entries[0], entry.middle, 10, "final").revisions


def test_such_a_sweep_is_checked_without_its_data() -> None:
    """A network is built, and room is found, for the tasks that are left: no image tells their moments here."""
    disjoint, whole = (
        sweep(protocol, capacity="auto")
        for protocol in ("{first_tasks: {tasks: 2, disjoint: true}}", "{first_tasks: 2}")
    )
    assert build_all(disjoint) == ()
    assert capacities(disjoint)["replay"] > capacities(whole)["replay"], "four classes less have output units"
