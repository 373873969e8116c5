"""Variants: the same question on several streams or budgets."""

from __future__ import annotations

import pytest

from raycl.errors import SpecError

from .fakes import BASE, sweep

VARIANTS = BASE + "variants:\n  small: {memory.capacity: 20}\n  tasked: {stream.scenario: task, stream.tasks: 2}\n"


def test_each_variant_has_every_method() -> None:
    spec = sweep(VARIANTS)
    assert [entry.key for entry in spec.entries] == [
        f"{variant}/{alias}" for variant in ("small", "tasked") for alias in ("naive", "ewc", "replay")
    ]
    assert spec.variants == ("small", "tasked")
    trial = spec.trial(spec.entry("tasked/naive"), {"training.learning_rate": 1e-3}, 0, "search")
    assert (trial.variant, trial.stream["scenario"], trial.stream["tasks"]) == ("tasked", "task", 2)


def test_a_variant_replaces_what_a_method_says_and_warns() -> None:
    spec = sweep(VARIANTS)
    assert "memory.capacity" not in spec.entry("small/replay").space
    assert "memory.capacity" in spec.entry("tasked/replay").space
    assert spec.trial(spec.entry("small/replay"), {"training.learning_rate": 1e-3}, 0, "search").memory.capacity == 20
    (warning,) = spec.warnings
    assert warning.startswith(
        "sweep.yaml:14:28: variants.small.memory.capacity: replaces the value of strategies.replay"
    )


def test_a_method_barred_in_a_variant_is_not_applicable_there() -> None:
    spec = sweep(VARIANTS.replace("naive: {}", "packnet: {}"))
    assert spec.entry("small/packnet").barred == "cannot do scenario 'class', only task"
    assert spec.entry("tasked/packnet").barred is None
    assert spec.runs(spec.entry("small/packnet")).total == 0
    hidden = sweep(BASE + "variants:\n  hidden: {stream.boundaries: hidden}\n")
    assert [bool(entry.barred) for entry in hidden.entries] == [False, True, False]


def test_hidden_boundaries_are_an_error_without_variants() -> None:
    with pytest.raises(SpecError, match=r"8:3: strategies.ewc: this method must be told where a task ends"):
        sweep(BASE.replace("tasks: 5", "tasks: 5, boundaries: hidden"))


def test_the_base_may_be_completed_by_every_variant() -> None:
    text = BASE.replace("name: split, ", "") + "variants:\n  a: {stream.name: split}\n  b: {stream.name: permuted}\n"
    spec = sweep(text)
    assert spec.stream.name == "split"
    assert spec.trial(spec.entry("b/naive"), {"training.learning_rate": 1e-3}, 0, "search").stream["permute"] == "all"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("small: {stream.tasks: 0}", "14:25: variants.small.stream.tasks: must be at least 1 (got 0)"),
        ("small: {tasks: 2}", "14:11: variants.small.tasks: must be a dotted path below stream, training"),
        ("small: {strategies.ewc: 2}", "14:11: variants.small.strategies.ewc: must be a dotted path below"),
        ("small: {stream.tsks: 2}", "14:11: variants.small.stream.tsks: unknown key; did you mean 'tasks'?"),
        ("small: 3", "14:10: variants.small: must be a mapping of dotted paths"),
        ("a b: {}", "14:3: variants.a b: must consist of letters"),
        ("small: {stream.name: cifar}", "14:24: variants.small.stream.name: unknown stream (known: split, permuted)"),
        ("small: {stream.tasks: {choice: [1, 2]}}", "14:25: variants.small.stream.tasks: a distribution may stand in"),
    ],
)
def test_problems_are_placed_in_the_variant(line: str, expected: str) -> None:
    with pytest.raises(SpecError) as error:
        sweep(f"{BASE}variants:\n  {line}\n")
    assert str(error.value).startswith(f"sweep.yaml:{expected}"), str(error.value)


def test_distributions_may_stand_in_variants() -> None:
    spec = sweep(BASE + "variants:\n  wide: {model.hidden: {choice: [[1], [2]]}}\n")
    assert "model.hidden" in spec.entry("wide/naive").space


def test_variants_change_the_hash() -> None:
    assert len({sweep(text).hash for text in (BASE, VARIANTS, VARIANTS.replace("20}", "21}"))}) == 3
