"""Shrink and perturb: how much weights shrink and how much they are shaken, and when."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mistakes import HEAD
from support import finish, trainer, trial
from torch import Tensor

from raycl.catalog import catalog
from raycl.errors import SpecError
from raycl.spec.sweep import SweepSpec
from raycl.strategies.shrink_perturb import ShrinkPerturb, ShrinkPerturbConfig
from raycl.trial.trainer import Trainer

PLAIN = {"optimizer": "sgd", "learning_rate": 0.05, "iterations": 40}


def running(name: str = "shrink_perturb", scenario: str = "domain", **blocks: Any) -> Trainer:
    return trainer(trial(name, scenario, training={**PLAIN, **blocks.pop("training", {})}, **blocks))


def weights(learning: Trainer) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learning.strategy.network.parameters()])


def test_in_every_update_it_is_the_weight_decay_of_sgd() -> None:
    """As in the authors' code; a decay that is not times the learning rate is twenty times as strong."""
    shrinks = running(options={"decay": 0.1, "noise": 0.0})
    decays, naive = running("naive", training={"weight_decay": 0.1}), running("naive")
    for learning in (shrinks, decays, naive):
        finish(learning)
    torch.testing.assert_close(weights(shrinks), weights(decays), rtol=1e-4, atol=1e-6)
    assert (weights(decays) - weights(naive)).abs().max() > 1e-2


@pytest.mark.parametrize("when", ["update", "task"])
def test_noise_of_its_deviation_is_added_to_all_weights_and_biases(when: str) -> None:
    """With a learning rate of next to nothing weights walk at random: deviations grow as the root of the number."""
    blocks = {"options": {"when": when, "decay": 0.0, "noise": 0.02}, "training": {"learning_rate": 1e-12}}
    learning = running(**blocks)
    learning.run_task()
    before = weights(learning)
    learning.run_task()
    moved = weights(learning) - before
    times = 40 if when == "update" else 1
    assert moved.std().item() == pytest.approx(0.02 * times**0.5, rel=0.05)
    assert abs(moved.mean().item()) < 0.02 * times**0.5 / 10
    assert (moved != 0).all(), "biases and the head too"


def test_a_task_shrinks_once_before_it_is_learned_and_the_first_never() -> None:
    fresh, learning = (
        running(options={"when": "task", "decay": 0.4, "noise": 0.0}, training={"learning_rate": 1e-12})
        for _ in range(2)
    )
    fresh.strategy.grow(0)
    start, norms = float(weights(fresh).norm()), []
    finish(learning, lambda at: norms.append(float(weights(at).norm())))
    assert norms == pytest.approx([start, 0.6 * start, 0.36 * start])


def test_auto_is_what_was_published() -> None:
    assert ShrinkPerturbConfig().strength == (1e-4, 1e-5)
    assert ShrinkPerturbConfig(when="task").strength == (0.4, 0.01)
    assert ShrinkPerturbConfig(when="task", noise=0.0).strength == (0.4, 0.0)


@pytest.mark.parametrize("when", ["update", "task"])
def test_heads_that_the_task_does_not_reach_stay(when: str) -> None:
    learning = running(scenario="task", options={"when": when, "noise": 0.1})
    learning.run_task()
    before = learning.strategy.network.head.weight.detach().clone()
    learning.run_task()
    after = learning.strategy.network.head.weight.detach()
    assert torch.equal(after[:2], before)


def test_the_noise_is_part_of_the_seed_and_of_no_other_draw() -> None:
    quiet, loud = running(options={"noise": 0.0, "decay": 0.0}), running(options={"noise": 1e-3, "decay": 0.0})
    finish(quiet)
    finish(loud)
    ours, theirs = (learning.state_dict()["random"] for learning in (loud, quiet))
    assert isinstance(loud.strategy, ShrinkPerturb)
    assert ours.keys() - theirs.keys() == {"named/perturbation"}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_hidden_boundaries_go_with_updates_only() -> None:
    text = HEAD.replace("scenario: class", "scenario: class, boundaries: hidden") + "final: {seeds: [10]}\n"
    SweepSpec.parse(text + "strategies: {shrink_perturb: {}}\n", catalog())
    with pytest.raises(SpecError, match="asks when a task begins"):
        SweepSpec.parse(text + "strategies: {shrink_perturb: {when: task}}\n", catalog())
