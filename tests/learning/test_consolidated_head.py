"""The consolidated head: what each task adds to it, what it leaves alone, and what wrong variants do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from raycl.learning.consolidated_head import ConsolidatedHead, Variant
from raycl.models.network import GrowingHead

FEATURES = 5


def made(kind: type[ConsolidatedHead] = ConsolidatedHead, variant: Variant = "cwr_star", **options: Any) -> Any:
    return kind(GrowingHead(FEATURES, torch.Generator().manual_seed(0)), variant, **options)


def grown(head: ConsolidatedHead, units: int) -> None:
    head.head.grow(units)
    head.grow()


def rows(head: ConsolidatedHead) -> Tensor:
    return head.head.weight.detach().clone()


def learned(head: ConsolidatedHead, counts: Mapping[int, int], seed: int, **options: Any) -> tuple[Tensor, Tensor]:
    """One task whose training moves every row at random. Returns the temporary head as it began, and as it ended."""
    head.begin(counts, **options)
    began = rows(head)
    with torch.no_grad():
        head.head.weight += torch.randn(began.shape, generator=torch.Generator().manual_seed(seed))
    ended = rows(head)
    head.consolidate()
    return began, ended


# -- new classes: row 25 of CONTRIBUTING's table ---------------------------------------------------------------------


def check_new_classes(kind: type[ConsolidatedHead], variant: Variant) -> None:
    """At the end of the stream each row is that of its own task less the mean of all entries, to the last bit."""
    head, expected = made(kind, variant), []
    for task, units in enumerate((2, 5, 6)):
        own = slice(len(head.past), units)
        grown(head, units)
        assert not rows(head)[own].any(), "unseen rows are 0"
        before = rows(head)
        _, ended = learned(head, dict.fromkeys(range(own.start, units), 30 + task), seed=task)
        assert torch.equal(rows(head)[: own.start], before[: own.start]), "absent rows"
        assert abs(rows(head)[own].sum()) < 1e-5, "the shift takes away the common mean"
        expected.append(ended[own] - ended[own].mean())
    assert torch.equal(rows(head), torch.cat(expected))


@pytest.mark.parametrize("variant", ["cwr_plus", "cwr_star"])
def test_rows_of_new_classes_are_those_of_their_own_task(variant: Variant) -> None:
    check_new_classes(ConsolidatedHead, variant)


class ShiftsEachRow(ConsolidatedHead):
    """A mutant: every row by its own mean, which takes away how rows differ."""

    def _shifted(self, learned: Tensor) -> Tensor:
        return learned - learned.mean(1, keepdim=True)


class ShiftsAllRows(ConsolidatedHead):
    """A mutant: by the mean over rows of absent classes too."""

    def _shifted(self, learned: Tensor) -> Tensor:
        return learned - self.head.weight.mean()


class LeavesAbsentRows(ConsolidatedHead):
    """A mutant: rows of absent classes stay as the temporary head has them."""

    def consolidate(self) -> None:
        self._kept = torch.where(self._others()[:, None], self.head.weight.detach(), self._kept)
        super().consolidate()


@pytest.mark.parametrize("mutant", [ShiftsEachRow, ShiftsAllRows, LeavesAbsentRows])
def test_wrong_shifts_and_drifting_rows_are_caught(mutant: type[ConsolidatedHead]) -> None:
    with pytest.raises(AssertionError):
        check_new_classes(mutant, "cwr_star")


# -- classes that come back ------------------------------------------------------------------------------------------


def check_average(kind: type[ConsolidatedHead]) -> None:
    """Known rows weigh as the root of how many examples they have had in all earlier tasks."""
    head = made(kind)
    grown(head, 2)
    for task, (examples, known) in enumerate([(40, 0.0), (40, 1.0), (20, 2.0), (25, 2.0)]):
        before = rows(head)
        began, ended = learned(head, {0: examples, 1: examples}, seed=task)
        assert torch.equal(began, before), "known rows begin at what is known"
        torch.testing.assert_close(rows(head), (known * before + ended - ended.mean()) / (known + 1))
    assert head.past.tolist() == [125, 125]


def test_known_rows_weigh_as_the_root_of_their_examples() -> None:
    check_average(ConsolidatedHead)


class TakesTheRatio(ConsolidatedHead):
    """A mutant: the ratio of examples, without the root."""

    def _share(self) -> Tensor:
        return self.past[self._units] / self._counts


class CountsTooEarly(ConsolidatedHead):
    """A mutant: the task's own examples are among those of the past."""

    def _share(self) -> Tensor:
        return ((self.past[self._units] + self._counts) / self._counts).sqrt()


class CountsTheLastTaskOnly(ConsolidatedHead):
    """A mutant: what came before the last task is not counted."""

    def consolidate(self) -> None:
        super().consolidate()
        self.past[self._units] = self._counts


class BeginsAllAnew(ConsolidatedHead):
    """A mutant: known rows begin at 0 as well."""

    def begin(self, counts: Mapping[int, int], keep_others: bool = False) -> None:
        super().begin(counts, keep_others)
        with torch.no_grad():
            self.head.weight.zero_()


class NeverBeginsAnew(ConsolidatedHead):
    """A mutant: the temporary head goes on from the consolidated one."""

    def begin(self, counts: Mapping[int, int], keep_others: bool = False) -> None:
        before = rows(self)
        super().begin(counts, keep_others)
        with torch.no_grad():
            self.head.weight.copy_(before)


@pytest.mark.parametrize("mutant", [TakesTheRatio, CountsTooEarly, CountsTheLastTaskOnly, BeginsAllAnew])
def test_wrong_averages_are_caught(mutant: type[ConsolidatedHead]) -> None:
    with pytest.raises(AssertionError):
        check_average(mutant)


# -- where the temporary head begins ---------------------------------------------------------------------------------


def check_beginnings(kind: type[ConsolidatedHead]) -> None:
    """Class 0 comes back together with a new class; class 1 does not."""
    expected: dict[str, Callable[[Tensor], list[Tensor]]] = {
        "cwr_star": lambda known: [known[0], 0 * known[0], 0 * known[0]],
        "cwr_plus": lambda known: [0 * known[0]] * 3,
    }
    for variant, of in expected.items():
        head = made(kind, variant)
        grown(head, 2)
        learned(head, {0: 10, 1: 10}, seed=0)
        grown(head, 3)
        known = rows(head)
        began, _ = learned(head, {0: 10, 2: 10}, seed=1)
        assert torch.equal(began, torch.stack(of(known)))


def test_rows_begin_at_zero_or_at_what_is_known() -> None:
    check_beginnings(ConsolidatedHead)


@pytest.mark.parametrize("mutant", [BeginsAllAnew, NeverBeginsAnew])
def test_a_head_that_begins_elsewhere_is_caught(mutant: type[ConsolidatedHead]) -> None:
    with pytest.raises(AssertionError):
        check_beginnings(mutant)


@pytest.mark.parametrize("variant", ["cwr_plus", "cwr_star"])
def test_other_rows_may_compete_as_they_are(variant: Variant) -> None:
    head = made(variant=variant)
    grown(head, 2)
    learned(head, {0: 10, 1: 10}, seed=0)
    grown(head, 3)
    known = rows(head)
    began, ended = learned(head, {2: 10}, seed=1, keep_others=True)
    assert torch.equal(began, known)
    assert torch.equal(rows(head)[:2], known[:2]), "and are put back"
    assert torch.equal(rows(head)[2], ended[2]), "a shift would change how rows compare that were learned together"


def test_the_first_form_begins_at_the_same_random_values_and_scales_later_rows() -> None:
    head = made(variant="cwr", scale=0.5)
    drawn = GrowingHead(FEATURES, torch.Generator().manual_seed(0))
    ended = []
    for task, units in enumerate((2, 4)):
        drawn.grow(units)
        grown(head, units)
        assert not rows(head)[units - 2 :].any()
        began, last = learned(head, {units - 2: 10, units - 1: 10}, seed=task)
        assert torch.equal(began, drawn.weight.detach())
        ended.append(last[units - 2 :])
    assert torch.equal(rows(head), torch.cat([ended[0], 0.5 * ended[1]]))


@pytest.mark.parametrize("variant", ["cwr", "cwr_plus", "cwr_star"])
def test_there_is_no_bias_and_state_comes_back(variant: Variant) -> None:
    head, again = made(variant=variant), made(variant=variant)
    for each in (head, again):
        grown(each, 2)
    learned(head, {0: 10, 1: 20}, seed=0)
    assert not head.head.bias.any()
    assert not head.head.bias.requires_grad
    again.load_state_dict(head.state_dict())
    again.head.load_state_dict(head.head.state_dict())
    for each in (head, again):
        learned(each, {1: 5}, seed=1)
    assert torch.equal(rows(head), rows(again))
    assert head.past.tolist() == again.past.tolist() == [10, 25]
