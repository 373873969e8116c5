"""Diagnostics of plasticity against hand-worked values, and where they have none."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import NORMED, finish, trainer, trial
from torch import Tensor, nn

from raycl.models.network import Network
from raycl.results import schema
from raycl.results.trackers.mlflow_metrics import metrics_of
from raycl.spec.evaluation import DIAGNOSTICS
from raycl.streams.task import Batch
from raycl.trial import diagnostics
from raycl.trial.diagnostics import Diagnosis, effective_rank, stable_rank
from raycl.trial.trainer import Trainer

ASKED = {"diagnostics": DIAGNOSTICS}


def batch(x: Tensor, y: list[int] | None = None) -> Batch:
    labels = torch.tensor(y or [0] * len(x))
    nothing = torch.zeros(len(x), dtype=torch.int64)
    return Batch(torch.zeros(len(x), 1, dtype=torch.uint8), x, labels, nothing, nothing.bool())


def diagnosis(backbone: nn.Sequential, head: Tensor, rows: Batch) -> Diagnosis:
    """Of a network whose weights stand in the test; its loss is the plain cross-entropy."""
    network = Network(backbone, head.shape[1], torch.Generator())
    network.grow_head(len(head))
    network.head.weight.data.copy_(head)
    assert network.head.bias is not None
    network.head.bias.data.zero_()
    strategy: Any = SimpleNamespace(
        network=network, cross_entropy=lambda logits, own: nn.functional.cross_entropy(logits, own.y)
    )
    return Diagnosis(strategy, rows)


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data = torch.tensor(weight)
    layer.bias.data = torch.tensor(bias or [0.0] * len(weight))
    return layer


def test_dead_units_are_those_that_give_nothing_on_any_row() -> None:
    """Three of five: in the first layer the last unit, in the second both; one that is active on one row lives."""
    first = linear([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    second = linear([[-1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    rows = batch(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    found = diagnosis(nn.Sequential(first, nn.ReLU(), second, nn.ReLU()), torch.zeros(1, 2), rows)
    assert found.dead_units() == pytest.approx(3 / 5)


def test_ranks_by_hand() -> None:
    """Singular values 3 and 1: entropy of 3/4 and 1/4; squares 9 and 1, of which the first is 90 %."""
    rows = batch(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    found = diagnosis(nn.Sequential(linear([[1.0, 0.0], [0.0, 1.0]]), nn.ReLU()), torch.zeros(1, 2), rows)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found.effective_rank() == pytest.approx(math.exp(entropy))
    assert found.stable_rank() == 2.0


@pytest.mark.parametrize(
    ("values", "effective", "stable"),
    [([1.0, 1.0, 1.0, 1.0], 4.0, 4.0), ([5.0, 0.0], 1.0, 1.0), ([0.0, 0.0], 0.0, 0.0)],
)
def test_ranks_of_singular_values(values: list[float], effective: float, stable: float) -> None:
    singular = torch.tensor(values, dtype=torch.float64)
    assert effective_rank(singular) == pytest.approx(effective)
    assert stable_rank(singular) == stable


def test_the_stable_rank_takes_squares() -> None:
    """The first has 99.04 % of the sum of squares; without squaring it would be 88 %, and three would be needed."""
    assert stable_rank(torch.tensor([10.0, 0.9, 0.4])) == 1.0
    assert stable_rank(torch.tensor([10.0, 1.0, 0.5])) == 2.0


def test_ranks_are_means_over_hidden_layers() -> None:
    first, second = linear([[1.0, 0.0], [0.0, 1.0]]), linear([[1.0, 1.0]])
    rows = batch(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    found = diagnosis(nn.Sequential(first, nn.ReLU(), second, nn.ReLU()), torch.zeros(1, 1), rows)
    assert found.effective_rank() == pytest.approx((2 + 1) / 2)
    assert found.stable_rank() == (2 + 1) / 2


def test_the_mean_weight_counts_the_head_and_no_bias() -> None:
    backbone = nn.Sequential(linear([[1.0, -3.0]], [100.0]), nn.ReLU())
    found = diagnosis(backbone, torch.tensor([[2.0], [-2.0]]), batch(torch.ones(1, 2)))
    assert found.weight_magnitude() == pytest.approx((1 + 3 + 2 + 2) / 4)


def test_the_gradient_by_hand() -> None:
    """One row, h = relu(2) = 2, logits of zero, so that p - y is (-1/2, 1/2): of the head's weights (p - y) h, of its
    biases p - y, and nothing further down, where the head's weights are zero."""
    backbone = nn.Sequential(linear([[1.0]]), nn.ReLU())
    found = diagnosis(backbone, torch.zeros(2, 1), batch(torch.full((1, 1), 2.0), [0]))
    assert found.gradient_norm() == pytest.approx(math.sqrt(2 * 1.0**2 + 2 * 0.5**2))
    assert all(parameter.grad is None for parameter in found._strategy.network.parameters())


def test_parts_that_pass_one_after_another_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A last part of fewer rows weighs as many rows less; a unit that is dead in one part may live in another."""
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, generator=random), [0, 1, 1, 0, 1, 0, 0]
    head = torch.randn(2, 4, generator=random)
    found = []
    for at_once in (7, 3, 1):
        monkeypatch.setattr(diagnostics, "ROWS_AT_ONCE", at_once)
        layer = nn.Linear(3, 4)
        layer.weight.data, layer.bias.data = (
            torch.randn(4, 3, generator=torch.Generator().manual_seed(1)),
            torch.zeros(4),
        )
        found.append(diagnosis(nn.Sequential(layer, nn.ReLU()), head, batch(x, y)).told(DIAGNOSTICS))
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)


def test_a_module_that_stands_twice_is_two_layers() -> None:
    relu = nn.ReLU()
    first, second = linear([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]), linear([[1.0, 1.0, 0.0]])
    found = diagnosis(nn.Sequential(first, relu, second, relu), torch.zeros(1, 1), batch(torch.eye(2)))
    assert found.dead_units() == 1 / 4
    assert found.stable_rank() == (2 + 1) / 2


def test_a_channel_is_a_unit() -> None:
    """The second channel gives nothing anywhere; ranks take the mean over positions."""
    layer = nn.Conv2d(1, 2, 1)
    layer.weight.data, layer.bias.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1), torch.zeros(2)
    rows = batch(torch.tensor([[0.0, 1.0], [0.0, 3.0]]).view(2, 1, 1, 2))
    found = diagnosis(nn.Sequential(layer, nn.ReLU(), nn.Flatten()), torch.zeros(1, 4), rows)
    assert found.dead_units() == 0.5
    assert found.effective_rank() == pytest.approx(1.0)


def test_without_a_hidden_layer_there_are_weights_and_gradients_only() -> None:
    found = diagnosis(nn.Sequential(nn.Flatten()), torch.ones(2, 3), batch(torch.ones(2, 3)))
    assert found.told(DIAGNOSTICS).keys() == {"weight_magnitude", "gradient_norm"}


# -- in a trial ------------------------------------------------------------------------------------------------------


def asked(name: str = "naive", **blocks: Any) -> Trainer:
    return trainer(trial(name, "domain", evaluation=ASKED, **blocks))


def size(learning: Trainer) -> float:
    """Of all weights, in one number."""
    return float(sum(parameter.detach().abs().sum() for parameter in learning.strategy.network.parameters()))


def test_they_are_of_the_network_before_the_task_on_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant would look at the network after the task, or at the rows of another one."""
    seen: list[tuple[float, set[int]]] = []
    told = Diagnosis.told

    def watched(self: Diagnosis, names: Any) -> dict[str, float]:
        seen.append((size(learning), {task for part in self._parts for task in part.task.tolist()}))
        return told(self, names)

    monkeypatch.setattr(Diagnosis, "told", watched)
    learning, fresh, ends = asked(), asked(), []
    fresh.strategy.grow(0)
    rows = finish(learning, lambda at: ends.append(size(at)))
    assert [weights for weights, _ in seen] == [size(fresh), *ends[:-1]]
    assert [tasks for _, tasks in seen] == [{0}, {1}, {2}]
    assert [set(row.measures) for row in rows] == [set(), *[set(DIAGNOSTICS)] * 3]


class Pool:
    """So many training rows of a task, and which of them were asked for."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.rows

    def gather(self, index: Tensor, augment: bool) -> Batch:
        assert not augment
        self.asked = index.tolist()
        return batch(torch.ones(len(index), 1, 8, 8))


def test_rows_are_evenly_spaced_over_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes may come one after another, so that the first rows would be of one class alone."""
    monkeypatch.setattr(diagnostics, "ROWS_LOOKED_AT", 10)
    learning = asked()
    learning._grow(0)
    for rows, expected in ((50, list(range(0, 50, 5))), (25, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]), (4, [0, 1, 2, 3])):
        pool: Any = Pool(rows)
        diagnostics.diagnose(learning.strategy, pool, DIAGNOSTICS)
        assert pool.asked == expected


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_a_network_in_training_mode_is_looked_at_in_evaluation_mode_and_left_in_training_mode(name: Any) -> None:
    learning = asked(model=NORMED["mlp"])
    learning._grow(0)
    learning.strategy.train(True)
    before = {key: value.clone() for key, value in learning.strategy.network.state_dict().items()}
    Diagnosis(learning.strategy, batch(torch.rand(6, 1, 8, 8))).told([name])
    assert all(torch.equal(value, before[key]) for key, value in learning.strategy.network.state_dict().items())
    assert learning.strategy.network.training


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_batch_norm_does_not_move(model: str) -> None:
    """The mutant looks in training mode."""
    plain, watched = (
        trainer(trial("naive", "domain", model=NORMED[model], **own)) for own in ({}, {"evaluation": ASKED})
    )
    finish(plain)
    assert finish(watched)[-1].measures.keys() == set(DIAGNOSTICS)
    for name, value in plain.strategy.network.state_dict().items():
        assert torch.equal(value, watched.strategy.network.state_dict()[name])


def test_a_number_of_each_task_reaches_the_tables_and_mlflow() -> None:
    learning = asked()
    rows = finish(learning)
    stored = schema.rows_of(schema.rows_table(rows))
    assert [row.measures for row in stored] == [row.measures for row in rows]
    table = schema.measures_table("t", stored).to_pylist()
    assert len(table) == 3 * len(DIAGNOSTICS)
    assert {"trial": "t", "train_task": 1, "name": "dead_units", "value": rows[2].measures["dead_units"]} in table
    trials = schema.trials_table("s", learning.trial, {"status": "finished"}, {"num_tasks": 3}, stored, {})
    assert trials["measure.effective_rank"].to_pylist() == [rows[3].measures["effective_rank"]]
    logged = [(task, value) for task, name, value in metrics_of(stored) if name == "measure/gradient_norm"]
    assert logged == [(task, rows[task + 1].measures["gradient_norm"]) for task in range(3)]


@pytest.mark.parametrize("name", ["ensemble", "hypernetwork", "hat", "supsup"])
def test_methods_whose_network_is_not_what_learns_have_none(name: str) -> None:
    options = {"hypernetwork": {"chunk_size": 500, "task_embedding_dim": 8, "chunk_embedding_dim": 8}}.get(name, {})
    rows = finish(trainer(trial(name, "task", options=options, evaluation=ASKED, training={"epochs": 1})))
    assert all(not set(row.measures) & set(DIAGNOSTICS) for row in rows)


def test_where_nobody_asks_nothing_is_measured() -> None:
    rows = finish(trainer(trial("naive", "domain")))
    assert all(row.measures == {} for row in rows)
    assert schema.measures_table("t", rows).num_rows == 0
    assert np.isfinite([row.cost.cpu_seconds for row in rows]).all()
