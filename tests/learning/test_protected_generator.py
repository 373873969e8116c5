"""Old embeddings that go on learning, against an update that is put together from torch's own optimisers."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycl.learning.fused import FusedOptimizer
from raycl.learning.protected_generator import GeneratorOptions, ProtectedGenerator

SIZES = (30, 5, 10, 2)
BETA, RATE, UPDATES = 0.3, 1e-2, 6
SMALL: dict[str, Any] = {
    "task_embedding_dim": 4,
    "chunk_embedding_dim": 3,
    "chunk_size": 20,
    "hidden": [6],
    "activation": "tanh",
    "beta": BETA,
    "old_embeddings": "learned",
}
HEAD = [[], [slice(42, 45)]]
"""Of the second task, weights that are not protected."""


def made(tasks: int, **options: Any) -> ProtectedGenerator:
    config = GeneratorOptions.model_validate({**SMALL, **options}, strict=False)
    random = torch.Generator().manual_seed(0)
    protected = ProtectedGenerator(SIZES, None, config, (random, random), torch.device("cpu"))
    for _ in range(tasks):
        protected.grow()
    return protected


def task_loss(weights: Tensor) -> Tensor:
    """Something that pulls what is generated elsewhere."""
    return (weights - torch.linspace(-1, 1, sum(SIZES))).square().mean()


def optimizers(protected: ProtectedGenerator) -> dict[str, FusedOptimizer]:
    groups = {name: [{"params": own, "lr": RATE, "weight_decay": 0.0}] for name, own in protected.parameters().items()}
    return {name: FusedOptimizer("adam", group) for name, group in groups.items()}


def learned(protected: ProtectedGenerator, updates: int = UPDATES) -> dict[str, FusedOptimizer]:
    """So many updates of the newest task."""
    own = optimizers(protected)
    for _ in range(updates):
        protected.backward(task_loss(protected.current()), own["theta"], 0.0)
        for optimizer in own.values():
            optimizer.step()
    return own


class Reference(nn.Module):
    """The authors' loop: a copy of the generator and all embeddings, stepped by torch.optim.Adam."""

    def __init__(self, protected: ProtectedGenerator) -> None:
        super().__init__()
        self.generator = deepcopy(protected.generator)
        self.embeddings = nn.ParameterList(deepcopy(protected.embeddings))
        self.current = len(self.embeddings) - 1

    def run(self, looks_ahead: bool, excluded: list[list[slice]]) -> None:
        with torch.no_grad():
            targets = [self.generator(embedding[None])[0] for embedding in self.embeddings[:-1]]
        moving = [*self.generator.parameters(), *self.embeddings[:-1]]
        shared = torch.optim.Adam(moving, lr=RATE)
        own = torch.optim.Adam([self.embeddings[-1]], lr=RATE)
        for _ in range(UPDATES):
            for parameter in self.parameters():
                parameter.grad = torch.zeros_like(parameter)
            task_loss(self.generator(self.embeddings[-1][None])[0]).backward()
            ahead = self._ahead(moving, shared) if looks_ahead else self
            distances = [
                (ahead.generator(ahead.embeddings[old][None])[0] - target).square()
                for old, target in enumerate(targets)
            ]
            for distance, parts in zip(distances, excluded, strict=True):
                for part in parts:
                    distance[part] = 0
            penalty = BETA * sum(distance.sum() for distance in distances) / len(targets)
            wanted = [*ahead.generator.parameters(), *ahead.embeddings[:-1]]
            slopes = torch.autograd.grad(penalty, wanted)  # the step is a constant: what is there belongs here
            for parameter, slope in zip(moving, slopes, strict=True):
                parameter.grad += slope
            shared.step()
            own.step()

    def _ahead(self, moving: list[nn.Parameter], shared: torch.optim.Adam) -> Reference:
        """Where a real step along the task's gradient leads, taken by copies."""
        other = deepcopy(self)
        copies = [*other.generator.parameters(), *other.embeddings[:-1]]
        optimizer = torch.optim.Adam(copies, lr=RATE)
        optimizer.load_state_dict(deepcopy(shared.state_dict()))
        for copy, parameter in zip(copies, moving, strict=True):
            copy.grad = parameter.grad.clone()
        optimizer.step()
        return other


@pytest.mark.parametrize("lookahead", ["detached", "off"])
@pytest.mark.parametrize("regulariser", ["gram", "direct"])
def test_old_embeddings_move_as_in_the_authors_loop(regulariser: str, lookahead: str) -> None:
    protected = made(3, regulariser=regulariser, lookahead=lookahead)
    start = [embedding.detach().clone() for embedding in protected.embeddings]
    reference = Reference(protected)
    reference.run(lookahead == "detached", HEAD)
    protected.protect(HEAD)
    learned(protected)
    for old in range(2):
        assert (protected.embeddings[old] - start[old]).norm() > 1e-3
    for ours, theirs in zip(protected.embeddings, reference.embeddings, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(protected.generator.parameters(), reference.generator.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_differentiated_lookahead_reaches_old_embeddings_alike() -> None:
    """Their own step is one of a zero gradient, which nothing is differentiated through."""
    found = []
    for kind in ("detached", "differentiated"):
        protected = made(3, lookahead=kind)
        protected.protect(HEAD)
        protected.backward(task_loss(protected.current()), optimizers(protected)["theta"], 0.0)
        found.append([embedding.grad.clone() for embedding in protected.embeddings[:2] if embedding.grad is not None])
    assert len(found[0]) == 2
    for detached, through in zip(*found, strict=True):
        assert detached.abs().sum() > 0
        torch.testing.assert_close(detached, through)


@pytest.mark.parametrize("options", [{"old_embeddings": "fixed"}, {"beta": 0.0}])
def test_otherwise_they_stay(options: dict[str, Any]) -> None:
    protected = made(3, **options)
    start = [embedding.detach().clone() for embedding in protected.embeddings]
    assert len(protected.parameters()["theta"]) == len(list(protected.generator.parameters()))
    protected.protect(HEAD)
    learned(protected)
    assert [torch.equal(a, b) for a, b in zip(start, protected.embeddings, strict=True)] == [True, True, False]


def test_a_task_that_is_not_drawn_moves_by_its_moments_alone() -> None:
    """Its gradient is zero, not missing: what Adam kept of the updates before moves it on, as in the authors' loop."""
    protected = made(4, regulariser="sampled", sampled_tasks=1)
    protected.protect([[]] * 3)
    own = optimizers(protected)
    for _ in range(12):
        protected.backward(task_loss(protected.current()), own["theta"], 0.0)
        slopes = [embedding.grad for embedding in protected.embeddings[:3]]
        before = [embedding.detach().clone() for embedding in protected.embeddings[:3]]
        own["theta"].step()
        drawn = [bool(slope.any()) for slope in slopes if slope is not None]
        assert drawn.count(True) <= 1
    moved = [not torch.equal(a, b) for a, b in zip(before, protected.embeddings, strict=False)]
    assert moved == [True] * 3


def test_what_is_held_is_charged() -> None:
    fixed, free = made(3, old_embeddings="fixed"), made(3)
    assert free.held_bytes() - fixed.held_bytes() == 4 * 2 * SMALL["task_embedding_dim"]
