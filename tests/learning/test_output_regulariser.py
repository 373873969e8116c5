"""The Gram form against the definition of the output regulariser, masks and the truncated last chunk included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from raycl.learning.output_regulariser import OutputRegulariser, segments
from raycl.models.hypernetwork import WeightGenerator

SIZES = (60, 10, 40, 4)
"""Two layers: 10 x 6 and 10, then a head of 4 units x 10 and 4; 114 weights."""
HEAD_BEYOND_2 = [slice(90, 110), slice(112, 114)]
"""Weights of the head's units 2 and 3."""

CASES = {
    "chunks that fit": (57, 5, (7,), [[], [], []]),
    "truncated last chunk": (50, 5, (7, 6), [[], [], []]),
    "one row in the last chunk": (113, 5, (7,), [[], []]),
    "full": (None, 0, (7,), [[], []]),
    "linear": (30, 5, (), [[], [], [], []]),
    "one old task": (30, 5, (7,), [[]]),
    "head masks": (50, 5, (7,), [[], HEAD_BEYOND_2, [], HEAD_BEYOND_2]),
    "head masks across chunks": (11, 5, (7,), [HEAD_BEYOND_2, []]),
}


@dataclass
class Setting:
    """A generator that has moved since theta* was taken."""

    generator: WeightGenerator
    embeddings: Tensor
    excluded: Sequence[Sequence[slice]]
    before: Tensor
    regularisers: dict[str, OutputRegulariser]

    def theta(self) -> dict[str, Tensor]:
        return dict(self.generator.theta)


def setting(case: str, dtype: torch.dtype = torch.float64, cache: bool = True) -> Setting:
    chunk_size, chunk_dim, hidden, excluded = CASES[case]
    random = torch.Generator().manual_seed(1)
    generator = WeightGenerator(SIZES, 8, hidden, "elu", random, chunk_size, chunk_dim).to(dtype)
    embeddings = torch.randn(len(excluded), 8, generator=random).to(dtype)
    before = generator(embeddings).detach()
    forms = {form: OutputRegulariser(generator, embeddings, excluded, form, cache) for form in ("gram", "direct")}
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=random)
    return Setting(generator, embeddings, excluded, before, forms)


def definition(now: Setting) -> Tensor:
    """Eq. 2 as it is written: squared distance summed over a task's weights, averaged over old tasks."""
    distance = (now.generator(now.embeddings) - now.before).square()
    for task, parts in enumerate(now.excluded):
        for part in parts:
            keep = torch.ones_like(distance)
            keep[task, part] = 0
            distance = distance * keep
    return distance.sum() / len(now.embeddings)


def gradients(now: Setting, value: Tensor) -> Tensor:
    """All gradients as one vector."""
    slopes = torch.autograd.grad(value, list(now.generator.parameters()))
    return torch.cat([slope.flatten() for slope in slopes])


def agree(value: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by a relative norm below ``tolerance``."""
    return float((value.detach().double() - expected.detach()).norm()) <= tolerance * float(expected.detach().norm())


@pytest.mark.parametrize("form", ["gram", "direct"])
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_those_of_the_definition(case: str, form: str, cache: bool) -> None:
    now = setting(case, cache=cache)
    expected = definition(now)
    value = now.regularisers[form](now.theta())
    assert float(expected.detach()) > 0.01
    assert agree(value, expected, 1e-12)
    assert agree(gradients(now, value), gradients(now, expected), 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_single_precision_keeps_six_digits_of_the_value_and_five_of_the_gradients(case: str) -> None:
    exact, single = setting(case), setting(case, torch.float32)
    with torch.no_grad():
        for ours, theirs in zip(exact.generator.parameters(), single.generator.parameters(), strict=True):
            ours.copy_(theirs)
    expected, value = definition(exact), single.regularisers["gram"](single.theta())
    assert agree(value, expected, 1e-6)
    assert agree(gradients(single, value), gradients(exact, expected), 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_both_forms_agree_in_single_precision(case: str) -> None:
    now = setting(case, torch.float32)
    gram, direct = (now.regularisers[form](now.theta()) for form in ("gram", "direct"))
    assert agree(gram, direct.double(), 1e-6)
    assert agree(gradients(now, gram), gradients(now, direct).double(), 1e-5)


@pytest.mark.parametrize("form", ["gram", "direct"])
def test_a_sample_is_averaged_over_the_tasks_it_holds(form: str) -> None:
    now = setting("head masks")
    each = [now.regularisers[form](now.theta(), torch.tensor([task])) for task in range(4)]
    pair = now.regularisers[form](now.theta(), torch.tensor([3, 1]))
    assert agree(pair, (each[3] + each[1]) / 2, 1e-12)
    assert agree(now.regularisers[form](now.theta()), sum(each) / 4, 1e-12)


def test_gradients_reach_what_theta_was_made_of() -> None:
    """The lookahead hands in theta + delta: the gradient at the sum belongs to theta."""
    now = setting("truncated last chunk")
    deltas = {name: 0.1 * torch.ones_like(value) for name, value in now.theta().items()}
    ahead = now.regularisers["gram"]({name: value + deltas[name] for name, value in now.theta().items()})
    found = gradients(now, ahead)
    with torch.no_grad():
        for name, value in now.generator.theta.items():
            value += deltas[name]
    assert agree(found, gradients(now, definition(now)), 1e-12)


# -- wrong variants that the checks above must see ---------------------------------------------------------------


def aliased(now: Setting) -> Tensor:
    """theta* is not copied, so it moves along."""
    now.regularisers["gram"]._snapshot = {name: value.detach() for name, value in now.generator.named_parameters()}
    now.regularisers["gram"]._features = None
    return now.regularisers["gram"](now.theta())


def averaged(now: Setting) -> Tensor:
    """A mean over weights in place of a sum."""
    return now.regularisers["gram"](now.theta()) / now.generator.numel


def summed_over_tasks(now: Setting) -> Tensor:
    """The division by the number of old tasks is forgotten."""
    return now.regularisers["gram"](now.theta()) * len(now.embeddings)


def surplus_counted(now: Setting) -> Tensor:
    """The rows of the last chunk that are no weights are protected too."""
    now.regularisers["gram"]._counts = torch.ones_like(now.regularisers["gram"]._counts)
    return now.regularisers["gram"](now.theta())


def units_that_do_not_exist_counted(now: Setting) -> Tensor:
    """Head units that a task does not have are protected too."""
    regulariser = now.regularisers["gram"]
    regulariser._cuts, regulariser._counts = segments(now.generator, [[]] * len(now.excluded), now.embeddings.device)
    fixed = regulariser._snapshot["weight"]
    regulariser._fixed_grams = [fixed[start:stop].T @ fixed[start:stop] for start, stop in pairwise(regulariser._cuts)]
    return regulariser(now.theta())


def masks_of_other_tasks(now: Setting) -> Tensor:
    """Every task has the units of another one."""
    regulariser = now.regularisers["gram"]
    regulariser._counts = regulariser._counts.roll(1, dims=0)
    return regulariser(now.theta())


@pytest.mark.parametrize("wrong", [units_that_do_not_exist_counted, masks_of_other_tasks])
@pytest.mark.parametrize("case", ["head masks", "head masks across chunks"])
def test_the_check_fails_on_wrong_masks(case: str, wrong: Callable[[Setting], Tensor]) -> None:
    now = setting(case)
    assert not agree(wrong(now), definition(now), 1e-3)


@pytest.mark.parametrize("wrong", [aliased, averaged, summed_over_tasks, surplus_counted])
def test_the_check_fails_on_wrong_variants(wrong: Callable[[Setting], Tensor]) -> None:
    now = setting("truncated last chunk")
    assert not agree(wrong(now), definition(now), 1e-3)
