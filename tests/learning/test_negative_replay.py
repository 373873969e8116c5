"""Negative replay: row 27 of CONTRIBUTING's table, closed forms of gradients, and wrong variants."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.learning.negative_replay import balanced, learned_units, require_rivals, with_negatives
from raycl.models.network import GrowingHead
from raycl.streams.scenario import Scenario

OLD, NEW, FEATURES, ROWS = 4, 2, 6, 10
LEARNING = learned_units(OLD + NEW, range(OLD, OLD + NEW), torch.device("cpu"))
Logits = Callable[[GrowingHead, Tensor, Tensor, Tensor], Tensor]


def drawn(seed: int = 0) -> tuple[GrowingHead, nn.Parameter, Tensor]:
    """A head, features of as many new rows as negatives, in this order, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    head = GrowingHead(FEATURES, generator)
    head.grow(OLD + NEW)
    features = nn.Parameter(torch.randn(2 * ROWS, FEATURES, generator=generator))
    new = torch.randint(OLD, OLD + NEW, (ROWS,), generator=generator)
    old = torch.randint(OLD, (ROWS,), generator=generator)
    return head, features, torch.cat([new, old])


NEGATIVE = torch.arange(2 * ROWS) >= ROWS


def gradients(logits: Logits, rows: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Of the summed cross-entropy of some rows: of the head's weight and of the features."""
    head, features, labels = drawn()
    labels = labels if y is None else y
    out = logits(head, features, NEGATIVE, LEARNING)[rows]
    nn.functional.cross_entropy(out, labels[rows], reduction="sum").backward()
    assert head.weight.grad is not None
    assert features.grad is not None
    return head.weight.grad, features.grad


def check_negatives(logits: Logits, fixed: bool = False) -> None:
    head, features, labels = drawn()
    weight, below = gradients(logits, NEGATIVE)
    assert not weight[:OLD].any(), "old rows"
    assert not below.any(), "below the head"
    with torch.no_grad():
        probabilities = head(features[NEGATIVE]).softmax(1)
        expected = probabilities[:, OLD:].T @ features[NEGATIVE]
    torch.testing.assert_close(weight[OLD:], expected)
    permuted = torch.where(NEGATIVE, (labels + 1) % OLD, labels)
    assert torch.equal(gradients(logits, NEGATIVE, permuted)[0], weight), "which old class does not matter"
    plain, plain_below = gradients(lambda head, features, *_: head(features), ~NEGATIVE)
    weight, below = gradients(logits, ~NEGATIVE)
    torch.testing.assert_close(weight[OLD:], plain[OLD:], msg="new rows learn as ever")
    torch.testing.assert_close(below, plain_below)
    torch.testing.assert_close(weight[:OLD], 0 * plain[:OLD] if fixed else plain[:OLD])


def learning_rivals(head: GrowingHead, features: Tensor, negative: Tensor, learning: Tensor) -> Tensor:
    return with_negatives(head, features, negative, learning, fixed=False)


def fixed_rivals(head: GrowingHead, features: Tensor, negative: Tensor, learning: Tensor) -> Tensor:
    return with_negatives(head, features, negative, learning, fixed=True)


def test_negatives_push_the_rows_that_are_learned_and_nothing_else() -> None:
    check_negatives(learning_rivals)
    check_negatives(fixed_rivals, fixed=True)


@pytest.mark.parametrize("fixed", [False, True])
def test_rivals_that_learn_and_rivals_that_do_not_are_told_apart(fixed: bool) -> None:
    with pytest.raises(AssertionError):
        check_negatives(learning_rivals if fixed else fixed_rivals, fixed)


def positive(head: GrowingHead, features: Tensor, negative: Tensor, learning: Tensor) -> Tensor:
    """The mutant: ordinary replay."""
    return head(features)


def wrong_rows(head: GrowingHead, features: Tensor, negative: Tensor, learning: Tensor) -> Tensor:
    """The mutant: the rows of old classes learn instead."""
    return learning_rivals(head, features, negative, ~learning)


def new_classes_only(head: GrowingHead, features: Tensor, negative: Tensor, learning: Tensor) -> Tensor:
    """The mutant: a softmax in which old classes have no share."""
    logits = learning_rivals(head, features, negative, learning)
    return torch.where(negative[:, None] & ~learning, logits.detach() - 1e4, logits)


def leaks_below(head: GrowingHead, features: Tensor, negative: Tensor, learning: Tensor) -> Tensor:
    """The mutant: negatives train what lies below the head."""
    weight = torch.where(learning[:, None], head.weight, head.weight.detach())
    return torch.where(negative[:, None], nn.functional.linear(features, weight, head.bias), head(features))


def shields_all(head: GrowingHead, features: Tensor, negative: Tensor, learning: Tensor) -> Tensor:
    """The mutant: new rows teach old classes nothing either."""
    return learning_rivals(head, features, torch.ones_like(negative), learning)


@pytest.mark.parametrize("mutant", [positive, wrong_rows, new_classes_only, leaks_below, shields_all])
def test_wrong_negatives_are_caught(mutant: Logits) -> None:
    with pytest.raises(AssertionError):
        check_negatives(mutant)


def test_the_logits_are_those_of_the_head() -> None:
    head, features, _ = drawn()
    for logits in (learning_rivals, fixed_rivals):
        assert torch.equal(logits(head, features, NEGATIVE, LEARNING), head(features))


def test_negatives_need_rivals() -> None:
    require_rivals(Scenario("class", "auto", (2, 2)), "m")
    for scenario in (Scenario("task", "auto", (2, 2)), Scenario("domain", "auto", (2, 2))):
        with pytest.raises(MethodError, match="use scenario class"):
            require_rivals(scenario, "m")


def check_balance(weigh: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    losses, replayed = torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([False, False, True, True])
    torch.testing.assert_close(weigh(losses, replayed, 0.9), torch.tensor(0.1 * 1.5 + 0.9 * 6.5))
    torch.testing.assert_close(weigh(losses, replayed & False, 0.9), torch.tensor(4.0))
    torch.testing.assert_close(weigh(losses[2:], replayed[2:], 0.9), torch.tensor(0.9 * 6.5))


def test_classes_weigh_alike() -> None:
    check_balance(balanced)


def test_rows_that_weigh_alike_are_caught() -> None:
    with pytest.raises(AssertionError):
        check_balance(lambda losses, replayed, share: losses.mean())
