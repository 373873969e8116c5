"""Methods that find a hidden task by certainty: refused, where it cannot work, before anything runs."""

from __future__ import annotations

import pytest
from support import trainer, trial

from raycl.catalog import catalog
from raycl.errors import MethodError, SpecError
from raycl.learning.task_inference import CERTAINTY
from raycl.spec.sweep import SweepSpec

BY_CERTAINTY = ["ensemble", "hypernetwork", "supsup"]
ONE_CLASS = """\
name: one_class
stream: {name: split, dataset: digits, tasks: 3, first_task: 1, classes_per_task: 2, scenario: class}
model: {name: mlp, hidden: [10]}
strategies:
  METHOD: {}
final: {seeds: [10]}
"""


def test_these_are_all_of_them() -> None:
    methods = catalog().strategies
    assert sorted(name for name in methods.names() if CERTAINTY in methods.get(name).needs) == BY_CERTAINTY


@pytest.mark.parametrize("method", BY_CERTAINTY)
def test_tasks_of_one_class_are_refused_in_the_sweep_file(method: str) -> None:
    text = ONE_CLASS.replace("METHOD", method)
    with pytest.raises(SpecError) as refused:
        SweepSpec.parse(text, catalog(), "one.yaml")
    (problem,) = refused.value.problems
    assert (problem.file, problem.line, problem.value) == ("one.yaml", 2, "3")
    assert "a network of one class is always certain" in problem.rule
    assert problem.rule.startswith("must have two classes each, or more")
    SweepSpec.parse(text.replace("scenario: class", "scenario: task"), catalog(), "one.yaml")
    SweepSpec.parse(text.replace("first_task: 1", "first_task: 5"), catalog(), "one.yaml")


@pytest.mark.parametrize("method", BY_CERTAINTY)
def test_a_trial_that_no_file_stands_behind_is_refused_too(method: str) -> None:
    with pytest.raises(MethodError, match=r"a network of one class is always certain.*give each task two or more"):
        trainer(trial(method, stream={"first_task": 1}))


def test_a_classifier_of_tasks_tells_one_class_from_others() -> None:
    SweepSpec.parse(ONE_CLASS.replace("METHOD", "hypernetwork_tir"), catalog(), "one.yaml")


HIDDEN = ONE_CLASS.replace("first_task: 1", "first_task: 5")
EVEN = HIDDEN.replace("first_task: 5, ", "")


@pytest.mark.parametrize(
    ("method", "text", "renamed"),
    [
        ("ensemble: {}", HIDDEN, True),
        ("ensemble: {selector: max_softmax}", HIDDEN, True),
        ("ensemble: {selector: average}", HIDDEN, False),
        ("ensemble: {}", EVEN, False),
        ("ensemble: {}", HIDDEN.replace("scenario: class", "scenario: task"), False),
        ("supsup: {inference: linear}", HIDDEN, True),
        ("supsup: {inference: linear}", EVEN, False),
        ("supsup: {}", HIDDEN, False),
        ("hypernetwork: {}", HIDDEN, False),
    ],
)
def test_exactly_the_trials_whose_numbers_changed_have_another_name(method: str, text: str, renamed: bool) -> None:
    """Tasks of one size are chosen as before, to the bit of ``tests/stored/numbers.json``."""
    sweep = SweepSpec.parse(text.replace("METHOD: {}", method), catalog(), "renamed.yaml")
    (entry,) = sweep.entries
    assert ("task selection" in sweep.trial(entry, entry.middle, 10, "final").revisions) == renamed
