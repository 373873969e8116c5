"""Entropy inference: the right order, no NaN at saturation, and no dependence between rows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from raycl.learning.task_inference import (
    largest_probability,
    least_entropy,
    log_entropy,
    log_largest_entropy,
    log_odds_against_first,
    most_certain,
    placed,
    shared_log_entropy,
    undecidable,
)
from raycl.streams.scenario import Scenario


def logits(tasks: int = 6, batch: int = 50, units: int = 4) -> Tensor:
    scale = torch.tensor([0.1, 1.0, 3.0]).repeat(tasks)[:tasks, None, None]
    return scale * torch.randn(tasks, batch, units, generator=torch.Generator().manual_seed(0))


def naive_entropy(values: Tensor) -> Tensor:
    """Sum p log p as it is written: NaN where a probability is 0."""
    probability = values.softmax(-1)
    return -(probability * probability.log()).sum(-1)


def test_it_is_the_logarithm_of_the_entropy() -> None:
    values = logits()
    expected = naive_entropy(values.double()).log()
    assert torch.allclose(log_entropy(values).double(), expected, atol=1e-5)


def test_saturated_predictions_keep_their_order_and_are_never_nan() -> None:
    margins = torch.tensor([120.0, 300.0, 1000.0, 5.0])
    values = torch.stack([margins, torch.zeros(4)], dim=1)
    assert bool(naive_entropy(values).isnan().any()), "the mutant: 0 * log 0"
    assert not bool(log_entropy(values).isnan().any())
    assert log_entropy(values).argsort().tolist() == [2, 1, 0, 3]


def test_units_at_minus_infinity_do_not_count() -> None:
    values = logits(units=3)
    padded = torch.cat([values, torch.full_like(values[..., :2], float("-inf"))], dim=-1)
    assert torch.allclose(log_entropy(padded), log_entropy(values), atol=1e-6)
    single = torch.tensor([[4.0, float("-inf")]])
    assert float(log_entropy(single)) == float("-inf") or float(log_entropy(single)) < -1e30


def test_the_most_certain_task_answers() -> None:
    values = logits()
    chosen, answer = least_entropy([values])
    assert torch.equal(chosen, naive_entropy(values.double()).argmin(0))
    assert torch.equal(answer, values[chosen, torch.arange(values.shape[1])])


def test_groups_of_tasks_and_the_rows_beside_a_row_do_not_matter() -> None:
    values = logits()
    chosen, answer = least_entropy([values])
    grouped = least_entropy([values[:1], values[1:4], values[4:]])
    assert torch.equal(grouped[0], chosen)
    assert torch.equal(grouped[1], answer)
    order = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(1))
    shuffled = [least_entropy([part])[0] for part in values[:, order].split(7, dim=1)]
    assert torch.equal(torch.cat(shuffled), chosen[order])


def test_ties_go_to_the_earlier_task_whatever_the_groups() -> None:
    values = logits(tasks=1).repeat(3, 1, 1)
    assert int(least_entropy([values])[0].max()) == 0
    assert int(least_entropy([values[:1], values[1:]])[0].max()) == 0


def test_rows_that_belong_together_choose_by_the_sum_of_their_entropies() -> None:
    values = logits(batch=14)
    chosen, answer = most_certain([values[:2], values[2:]], shared_log_entropy(4))
    for rows in torch.arange(14).split(4):
        task = int(naive_entropy(values[:, rows].double()).sum(1).argmin())
        assert chosen[rows].tolist() == [task] * len(rows)
        assert torch.equal(answer[rows], values[task, rows])
    assert torch.equal(shared_log_entropy(1)(values), log_entropy(values))


def test_logits_lie_at_the_units_of_their_task() -> None:
    values = torch.arange(12.0).view(4, 3)
    least = float("-inf")
    own = Scenario("class", "auto", (2, 3, 1))
    assert placed(values[:3], torch.tensor([0, 2, 1]), own, 2).tolist() == [
        [0, 1, least, least, least, least],
        [least, least, least, least, least, 3],
        [least, least, 6, 7, 8, least],
    ]
    shared = Scenario("domain", "auto", (2, 3, 1))
    assert placed(values[:2], torch.tensor([0, 1]), shared, 1).tolist() == [[0, 1, least], [3, 4, 5]]


def test_placing_an_answer_looks_at_no_task_but_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for with every batch that is measured; a table of all tasks takes a millisecond for a thousand."""
    own = Scenario("task", "per_task", (2,) * 50)
    values, chosen = torch.zeros(3, 2), torch.tensor([0, 49, 7])
    placed(values, chosen, own, 49)
    asked: list[int] = []
    monkeypatch.setattr(Scenario, "offset", lambda self, task: asked.append(task))
    assert placed(values, chosen, own, 49).isfinite().nonzero()[:, 1].tolist() == [0, 1, 98, 99, 14, 15]
    assert asked == []


def test_heads_of_different_size_are_compared_by_their_share_of_what_is_possible() -> None:
    """Of ten units half are ruled out, of two none: the first is the surer, though its entropy is larger."""
    ten = torch.cat([torch.zeros(5), torch.full((5,), -50.0)])
    two = torch.cat([torch.tensor([0.0, 0.2]), torch.full((8,), float("-inf"))])
    logits = torch.stack([ten, two])[:, None]
    assert log_entropy(logits)[0] > log_entropy(logits)[1], "the mutant: entropies as they are"
    chosen, _ = least_entropy([logits])
    assert chosen.tolist() == [0]


def test_largest_probabilities_are_compared_by_their_share_of_what_is_possible() -> None:
    """Odds against of .5 over five units are a quarter of the largest, 4; those of .6 over two two thirds of 1."""
    five = torch.tensor([0.5, 0.125, 0.125, 0.125, 0.125]).log()
    two = torch.cat([torch.tensor([0.6, 0.4]).log(), torch.full((3,), float("-inf"))])
    logits = torch.stack([five, two])[:, None]
    odds = log_odds_against_first(logits)
    assert odds[:, 0].exp().tolist() == pytest.approx([1.0, 2 / 3], rel=1e-5)
    assert odds[0] > odds[1], "the mutant: probabilities as they are"
    assert largest_probability([logits])[0].tolist() == [0]
    grouped = largest_probability([logits[:1], logits[1:]])
    assert grouped[0].tolist() == [0]


def test_tasks_of_one_size_are_compared_as_they_are() -> None:
    assert log_largest_entropy([3, 3, 3]) == [0.0, 0.0, 0.0]
    assert log_largest_entropy([1]) == [0.0]
    assert log_largest_entropy([5, 2]) == pytest.approx([0.0, math.log(math.log(2) / math.log(5))])
    values = logits()
    for uncertainty, select in ((log_entropy, least_entropy), (log_odds_against_first, largest_probability)):
        assert torch.equal(select([values])[0], uncertainty(values).argmin(0))


def test_entropies_over_more_units_than_classes_are_divided_too() -> None:
    """Superfluous units that training pushed down: what counts are the classes, of five here and of two."""
    five = torch.cat([torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0]), torch.full((5,), -50.0)])
    two = torch.cat([torch.tensor([0.0, 0.8]), torch.full((8,), -50.0)])
    values = torch.stack([five, two])[:, None]
    by_hand = naive_entropy(values)[:, 0] / torch.tensor([5.0, 2.0]).log()
    assert int(by_hand.argmin()) == 0
    raw, _ = most_certain([values[:1], values[1:]], log_entropy)
    assert raw.tolist() == [1], "the mutant: entropies as they are"
    chosen, _ = most_certain([values[:1], values[1:]], log_entropy, log_largest_entropy([5, 2]))
    assert chosen.tolist() == [0]


def test_tasks_of_one_class_cannot_be_told_apart_by_certainty() -> None:
    for name in ("class", "domain"):
        reason = undecidable(Scenario(name, "auto", (1, 2, 2)))  # type: ignore[arg-type]
        assert reason is not None
        assert "a network of one class is always certain" in reason
        assert "got tasks of 1, 2, 2 classes" in reason
        assert undecidable(Scenario(name, "auto", (5, 2, 2))) is None  # type: ignore[arg-type]
        assert undecidable(Scenario(name, "auto", (1,))) is None  # type: ignore[arg-type]
    assert undecidable(Scenario("task", "auto", (1, 2, 2))) is None
    single = torch.stack([torch.tensor([0.3, float("-inf")]), torch.tensor([9.0, 0.0])])[:, None]
    assert most_certain([single], log_entropy)[0].tolist() == [0], "the mutant: one class wins every row"
