"""What the classifier of HNET+R minimises: new rows and soft replays, and which units compete."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from strategies.hypernetwork_replay_trials import after, begun
from torch import Tensor, nn

from raycl.strategies.hypernetwork.replay import HypernetworkReplay
from raycl.streams.task import Batch

# -- the classifier's loss -----------------------------------------------------------------------------------------


def batch_of(ours: HypernetworkReplay, rows: int = 5) -> Batch:
    """New rows of the current task."""
    x = torch.rand(rows, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = ours.context.scenario.labels(torch.arange(rows) % 2, ours.task)
    task = torch.full((rows,), ours.task)
    return Batch((255 * x).byte(), x, y, task, torch.zeros(rows, dtype=torch.bool))


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) at temperature T; the student may have further units, of probability 0."""
    log_student = (student / temperature).log_softmax(1)[:, : teacher.shape[1]]
    target = (teacher / temperature).softmax(1)
    return temperature**2 * (target * (target.log() - log_student)).sum(1).mean()


def gradients(ours: HypernetworkReplay, value: Tensor) -> Tensor:
    slopes = torch.autograd.grad(value, list(ours.network.parameters()))
    return torch.cat([slope.flatten() for slope in slopes])


def check_loss(options: dict[str, Any], padded: bool = True) -> None:
    """Both parts of the loss in class-incremental task 3, by value or gradient, against their definition."""
    ours = begun(after(2, options={"temperature": 3.0, **options}))
    x, batch, share = ours.vae.replay(), batch_of(ours), options.get("replay_share", 0.5)
    ours.vae.replay = lambda: x  # type: ignore[method-assign]
    assert ours.previous is not None
    teacher = ours.previous(x).detach()[:, :4]
    if padded:
        teacher = nn.functional.pad(teacher, (0, 2))
    losses = ours.loss(batch)
    new = (1 - share) * nn.functional.cross_entropy(ours.network(batch.x), batch.y)
    old = share * divergence(ours.network(x), teacher, 3.0)
    assert losses.keys() == {"task", "replay"}
    assert torch.allclose(losses["task"], new, rtol=1e-5)
    assert torch.allclose(gradients(ours, losses["replay"]), gradients(ours, old), atol=1e-5)


def test_new_data_and_soft_replays_weigh_half_each() -> None:
    check_loss({})


def test_a_given_share_is_taken() -> None:
    check_loss({"replay_share": 0.2})


def test_new_units_have_a_logit_of_zero_or_no_probability() -> None:
    check_loss({"new_units": "absent"}, padded=False)
    with pytest.raises(AssertionError):
        check_loss({"new_units": "absent"}, padded=True)


def test_a_missing_square_of_the_temperature_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    distillation = HypernetworkReplay._distillation
    monkeypatch.setattr(HypernetworkReplay, "_distillation", lambda self, *given: distillation(self, *given) / 9)
    with pytest.raises(AssertionError):
        check_loss({})


@pytest.mark.parametrize("sizes", [{}, {"first_task": 3}])
def test_with_a_head_per_task_a_replay_teaches_the_head_of_its_own_task(sizes: dict[str, int]) -> None:
    ours = begun(after(2, "task", stream=sizes))
    x = ours.vae.replay()
    assert ours.previous is not None
    teacher, logits = ours.previous(x).detach(), ours.network(x).detach().requires_grad_()
    loss = ours._distillation(logits, ours.targets(x))
    rows, units = x.split(len(x) // 2), [ours.context.scenario.units(task) for task in range(2)]
    expected = torch.stack(
        [
            divergence(logits[place : place + len(own), unit.start : unit.stop], answers[:, unit.start : unit.stop], 2)
            for own, unit, answers, place in zip(rows, units, teacher.split(len(x) // 2), (0, len(x) // 2), strict=True)
        ]
    ).mean()
    ours_gradient, theirs = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
    assert torch.allclose(ours_gradient, theirs, atol=1e-6)
    own = ours.context.scenario.mask(ours.vae.origins, "own", 2)
    assert not ours_gradient[~own].any(), "neither other old heads nor the new one"
    assert ours_gradient[own].abs().max() > 0


def test_with_a_shared_head_all_its_units_compete() -> None:
    ours = begun(after(2, "domain"))
    targets = ours.targets(ours.vae.replay())
    assert targets.shape == (16, 2)
    assert targets.min() > 0
