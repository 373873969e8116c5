"""Stability decay, as De Lange et al. have it: the sequence, when it ends, and what goes on to the next task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import pytest

from raycl.spec.protocols import Decay, StabilityDecay
from raycl.trial.decay import decayed, settle

BOTH = (Decay(option="lambda"), Decay(option="alpha"))
ONE = BOTH[:1]
RULE = StabilityDecay()


def pairs(tried: Iterator[Mapping[str, float]], count: int) -> list[tuple[float, ...]]:
    return [tuple(values.values()) for values in islice(tried, count)]


PUBLISHED = [(5, 2), (2.5, 2), (5, 1), (2.5, 1), (1.25, 1), (2.5, 0.5), (1.25, 0.5), (0.625, 0.5)]


def test_each_alone_then_all_together_which_is_the_new_base() -> None:
    assert pairs(decayed({"lambda": 5.0, "alpha": 2.0}, BOTH, 0.5), 8) == PUBLISHED


def test_a_single_one_falls_with_every_training() -> None:
    assert pairs(decayed({"lambda": 400.0}, ONE, 0.5), 4) == [(400,), (200,), (100,), (50,)]


@pytest.mark.parametrize(("by", "expected"), [("times", 0.4), ("divided", 1.6), ("complement", 0.9)])
def test_a_method_may_name_another_operator(by: str, expected: float) -> None:
    assert Decay.model_validate({"option": "share", "by": by}).apply(0.8, 0.5) == pytest.approx(expected)


class Learner:
    """Learns with scripted accuracies, and notes what it was asked to learn with."""

    def __init__(self, accuracies: Sequence[float | None]) -> None:
        self.tried: list[tuple[float, ...]] = []
        self._accuracies = iter(accuracies)

    def __call__(self, values: Mapping[str, float]) -> float | None:
        self.tried.append(tuple(values.values()))
        return next(self._accuracies)


START = {"lambda": 5.0, "alpha": 2.0}


def test_it_ends_at_the_first_training_that_loses_at_most_a_fifth() -> None:
    """Fine-tuning has 0.9, so 0.72 will do: the third training has it to the digit."""
    learn = Learner([0.5, 0.719, 0.72])
    assert settle(RULE, START, BOTH, 0.9, learn) == {"lambda": 5.0, "alpha": 1.0}
    assert learn.tried == PUBLISHED[:3]


def test_what_was_accepted_is_where_the_next_task_begins() -> None:
    carried = settle(RULE, START, BOTH, 0.9, Learner([0.5, 0.8]))
    learn = Learner([0.1, 0.1, 0.1, 0.9])
    settle(RULE, dict(carried), BOTH, 0.9, learn)
    assert learn.tried == [(2.5, 2), (1.25, 2), (2.5, 1), (1.25, 1)], "and it never rises again"


def test_the_tenth_training_is_the_last_and_one_more_decay_goes_on() -> None:
    learn = Learner([0.0] * 20)
    assert settle(RULE, {"lambda": 1024.0}, ONE, 0.9, learn) == {"lambda": 1.0}
    assert learn.tried[-1] == (2.0,)
    assert len(learn.tried) == 10


def test_a_training_that_fails_is_not_accepted() -> None:
    learn = Learner([None, 0.9])
    assert settle(RULE, {"lambda": 8.0}, ONE, 0.9, learn) == {"lambda": 4.0}


def test_without_an_accuracy_to_compare_with_the_first_training_will_do() -> None:
    learn = Learner([None])
    assert settle(RULE, START, BOTH, None, learn) == START


def of_the_other(start: Mapping[str, float]) -> Iterator[Mapping[str, float]]:
    """The mutant: a value is decayed from where the other one has been left."""
    values = dict(start)
    yield dict(values)
    while True:
        for own in BOTH:
            values[own.option] = own.apply(values[own.option], 0.5)
            yield dict(values)


def test_the_published_sequence_tells_the_mutant() -> None:
    assert pairs(of_the_other(START), 3) != PUBLISHED[:3]
