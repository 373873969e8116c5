"""Learning-rate schedules, update by update beside torch's own schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler as theirs

from raycl.learning.schedules import PlateauDrops, Whereabouts, rate
from raycl.spec.schedule import Cosine, Multistep, OneCycle, Plateau, Schedule, Steps

UPDATES, RATE = 60, 0.4
Scheduler = theirs.LRScheduler
SCHEDULES: dict[str, tuple[Schedule, Callable[[optim.Optimizer, int], Scheduler]]] = {
    "step": (Steps(every=0.2, factor=0.5), lambda at, n: theirs.StepLR(at, n // 5, 0.5)),
    "multistep": (
        Multistep(at=(0.4, 0.6, 0.9), factor=0.3),
        lambda at, n: theirs.MultiStepLR(at, [round(0.4 * n), round(0.6 * n), round(0.9 * n)], 0.3),
    ),
    "unequal": (
        Multistep(at=(0.25, 0.5, 0.75), factor=(0.1, 0.5, 0.2)),
        lambda at, n: theirs.LambdaLR(at, lambda u: [1, 0.1, 0.05, 0.01, 0.01][4 * u // n]),
    ),
    "cosine": (Cosine(floor=0.05), lambda at, n: theirs.CosineAnnealingLR(at, n, eta_min=0.05 * RATE)),
    "one_cycle": (OneCycle(), lambda at, n: theirs.OneCycleLR(at, RATE, n, cycle_momentum=False)),
    "late_peak": (
        OneCycle(peak_at=0.7, start=0.5, end=0.125),
        lambda at, n: theirs.OneCycleLR(at, RATE, n, pct_start=0.7, div_factor=2, final_div_factor=4),
    ),
}


def sgd() -> optim.Optimizer:
    return optim.SGD([nn.Parameter(torch.zeros(1))], lr=RATE, momentum=0.9)


def stepped(scheduler: Scheduler, optimizer: optim.Optimizer, updates: int) -> list[float]:
    found = []
    for _ in range(updates):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def ours(schedule: Schedule | None, warm_up: float = 0.0, updates: int = UPDATES) -> list[float]:
    return [RATE * rate(schedule, warm_up, Whereabouts(update, updates, update / updates)) for update in range(updates)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_rate_is_torchs(name: str) -> None:
    schedule, make = SCHEDULES[name]
    optimizer = sgd()
    assert ours(schedule) == pytest.approx(stepped(make(optimizer, UPDATES), optimizer, UPDATES), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in ("one_cycle", "late_peak")])
def test_warm_up_is_torchs_linear_one_before_the_schedule(name: str) -> None:
    schedule, make = SCHEDULES[name]
    rising = UPDATES // 6
    optimizer = sgd()
    warm = theirs.LinearLR(optimizer, 1 / rising, total_iters=rising - 1)
    both = theirs.SequentialLR(optimizer, [warm, make(optimizer, UPDATES - rising)], [rising])
    expected = stepped(both, optimizer, UPDATES)
    assert ours(schedule, warm_up=1 / 6) == pytest.approx(expected, rel=1e-6)
    assert expected[0] == pytest.approx(RATE / rising)


def test_warm_up_alone_rises_to_the_full_rate() -> None:
    assert ours(None, 0.25, updates=8) == pytest.approx([RATE / 2, *[RATE] * 7])
    assert ours(None, 0.5, updates=8) == pytest.approx([RATE * part for part in (0.25, 0.5, 0.75, *[1.0] * 5)])


@pytest.mark.parametrize(
    ("share", "updates"), [(80 / 200, 200 * 469), (0.1, 30), (1 / 3, 3 * 469), (0.7, 10), (0.55, 20)]
)
def test_a_drop_falls_on_its_update(share: float, updates: int) -> None:
    """A share such as .4 is no exact number, and neither is 80/200 of the updates done."""
    drop = round(share * updates)
    factors = [rate(Multistep(at=(share,)), 0.0, Whereabouts(at, updates, at / updates)) for at in (drop - 1, drop)]
    assert factors == [1.0, pytest.approx(0.1)]


def test_steps_are_equal() -> None:
    factors = [rate(Steps(every=0.1, factor=0.5), 0.0, Whereabouts(at, 30, at / 30)) for at in range(30)]
    assert factors == [0.5 ** (at // 3) for at in range(30)]


@pytest.mark.parametrize("schedule", [None, Cosine(), OneCycle(), Steps(every=0.5), Multistep(at=(0.5,))])
@pytest.mark.parametrize("warm_up", [0.0, 0.2])
def test_where_a_budget_ends_a_phase_the_share_done_decides(schedule: Schedule | None, warm_up: float) -> None:
    """As for a phase of very many updates."""
    many = 10**6
    for done in (0.0, 0.1, 0.199, 0.3, 0.5, 0.9, 0.99):
        counted = rate(schedule, warm_up, Whereabouts(round(done * many), many, done))
        assert rate(schedule, warm_up, Whereabouts(17, math.inf, done)) == pytest.approx(counted, abs=1e-5)


LOSSES = [1.0, 0.9, 0.9, 0.89995, 0.91, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.79, 0.8, 0.8, 0.8, 0.8, 0.8]


@pytest.mark.parametrize("watch", ["loss", "held_out"])
@pytest.mark.parametrize(("patience", "cooldown", "floor"), [(2, 0, 0.0), (1, 3, 0.0), (0, 0, 0.03), (10, 0, 0.0)])
def test_plateaus_are_torchs(watch: str, patience: int, cooldown: int, floor: float) -> None:
    options = {"factor": 0.5, "threshold": 1e-3, "patience": patience, "cooldown": cooldown}
    drops = PlateauDrops(Plateau.model_validate({**options, "watch": watch, "floor": floor}))
    optimizer = sgd()
    mode = "min" if watch == "loss" else "max"
    scheduler = theirs.ReduceLROnPlateau(optimizer, mode, min_lr=floor * RATE, **options)  # type: ignore[arg-type]
    for value in LOSSES:
        told = value if watch == "loss" else 2 - value
        drops.passed(told)
        scheduler.step(told)
        assert RATE * drops.factor == pytest.approx(optimizer.param_groups[0]["lr"])
