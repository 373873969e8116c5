"""Methods that find a hidden task by certainty: refused, where it cannot work, before anything runs."""

from __future__ import annotations

import pytest
from support import trainer, trial

from raycl.catalog import catalog
from raycl.errors import MethodError, SpecError
from raycl.learning.task_inference import CERTAIN
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
    assert sorted(name for name in methods.names() if CERTAIN in methods.get(name).needs) == BY_CERTAINTY


@pytest.mark.parametrize("method", BY_CERTAINTY)
def test_tasks_of_one_class_are_refused_in_the_sweep_file(method: str) -> None:
    text = ONE_CLASS.replace("METHOD", method)
    with pytest.raises(SpecError) as refused:
        SweepSpec.parse(text, catalog(), "one.yaml")
    (problem,) = refused.value.problems
    assert (problem.file, problem.line, problem.value) == ("one.yaml", 2, "'class'")
    assert "a network of one class is always certain" in problem.rule
    assert "give each task two classes or more" in problem.rule
    SweepSpec.parse(text.replace("scenario: class", "scenario: task"), catalog(), "one.yaml")
    SweepSpec.parse(text.replace("first_task: 1", "first_task: 5"), catalog(), "one.yaml")


@pytest.mark.parametrize("method", BY_CERTAINTY)
def test_a_trial_that_no_file_stands_behind_is_refused_too(method: str) -> None:
    with pytest.raises(MethodError, match=r"a network of one class is always certain.*give each task two or more"):
        trainer(trial(method, stream={"first_task": 1}))


def test_a_classifier_of_tasks_tells_one_class_from_others() -> None:
    SweepSpec.parse(ONE_CLASS.replace("METHOD", "hypernetwork_tir"), catalog(), "one.yaml")
