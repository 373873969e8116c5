"""Online EWC on a hypernetwork's theta: what its importances are, and what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from strategies.every_method import small
from support import TINY, finish, trainer
from torch import Tensor

from raycl.strategies.hypernetwork.hypernetwork import Hypernetwork
from raycl.strategies.phases import Source
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

CNN = {"name": "cnn", "channels": [4, 4], "hidden": 8, "norm": "batch"}
ALONE = {"beta": 0.0, "penalty": 1e4}


def made(scenario: str = "task", **blocks: Any) -> Trainer:
    return trainer(small("hypernetwork", scenario, **blocks))


def method(running: Trainer) -> Hypernetwork:
    assert isinstance(running.strategy, Hypernetwork)
    return running.strategy


def rows_of(running: Trainer, task: int) -> Batch:
    pool = running._rows.pool(Source.CURRENT, task)[0]
    return pool.gather(torch.arange(len(pool)))


def by_hand(running: Trainer, task: int, expected: bool) -> dict[str, Tensor]:
    """The mean square of the gradient of log p, row by row through generator and target, in evaluation mode."""
    own, theta, batch = method(running), method(running).generator.theta, rows_of(running, task)
    sums = {name: torch.zeros_like(value) for name, value in theta.items()}
    own.train(False)
    for row in range(len(batch)):
        weights = own.generator(own.embeddings[task].detach()[None])[0]
        x = own.lower(batch.x[row : row + 1])
        logits = own.target.forward(weights, own._states[task], x)[0, : running.scenario.sizes[task]]
        log_p = logits.log_softmax(0)
        labels = range(len(log_p)) if expected else [int(batch.y[row]) - running.scenario.offset(task)]
        for label in labels:
            share = float(log_p[label].detach().exp()) if expected else 1.0
            found = torch.autograd.grad(log_p[label], list(theta.values()), retain_graph=True)
            for name, gradient in zip(theta, found, strict=True):
                sums[name] += share * gradient.square()
    return {name: total / len(batch) for name, total in sums.items()}


@pytest.mark.parametrize("fisher", ["empirical", "exact"])
@pytest.mark.parametrize(("model", "layer"), [({}, None), ({}, "2"), (CNN, None), (CNN, "3")])
def test_importances_are_squared_gradients_of_each_rows_likelihood(
    fisher: str, model: dict[str, Any], layer: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if model:
        monkeypatch.setitem(TINY, "model", {})
    options = {**ALONE, "fisher": fisher, "layer": layer}
    running = made("class", options=options, model=model, stream={"train_per_task": 20})
    running.run_task()
    running.run_task()
    first = {name: value.clone() for name, value in method(running).ewc.past.importance.items()}
    running.run_task()
    found, expected = method(running).ewc.past.importance, by_hand(running, 2, fisher == "exact")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], first[name] + value, rtol=1e-3, atol=1e-6)


def test_so_many_examples_are_looked_at() -> None:
    running = made(options={**ALONE, "fisher_examples": 5})
    seen: list[int] = []
    end = method(running).ewc.end

    def watched(embedding: Tensor, gradients: Any, examples: int, subject: str) -> None:
        blocks = list(gradients)
        seen.extend([examples, sum(map(len, blocks))])
        end(embedding, blocks, examples, subject)

    method(running).ewc.end = watched  # type: ignore[method-assign]
    running.run_task()
    assert seen == [5, 5]


def drift(**options: Any) -> float:
    """How far the first task's weights move while the second is learned, relative to their norm."""
    running = made(options=options)
    running.run_task()
    before = method(running).protected.weights([0])[0]
    running.run_task()
    return float((method(running).protected.weights([0])[0] - before).norm() / before.norm())


@pytest.mark.parametrize("step", ["gradient", "proximal"])
def test_it_holds_theta_in_place_of_the_regulariser(step: str) -> None:
    free, held = drift(beta=0.0), drift(beta=0.0, penalty=1e9, penalty_step=step, fisher="exact")
    assert held < free / 3


def test_importances_and_anchors_are_charged() -> None:
    plain, held = made(), made(options=ALONE)
    bare, full = (running.run_task()[-1].cost.state_bytes for running in (plain, held))
    theta = sum(value.numel() for value in method(held).generator.theta.values())
    assert full - bare == 4 * 2 * theta


def test_rows_that_importances_take_are_counted() -> None:
    plain, held = made(), made(options={**ALONE, "fisher_examples": 7})
    without, beside = (running.run_task()[-1].cost for running in (plain, held))
    assert beside.forward_examples - without.forward_examples == 7
    assert beside.gradient_examples - without.gradient_examples == 7


def test_both_protections_may_stand_together() -> None:
    rows = finish(made(options={"beta": 1.0, "penalty": 10.0}, training={"epochs": 6}))
    assert (rows[-1].correct / rows[-1].total).mean() > 0.9
