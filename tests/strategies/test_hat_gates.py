"""How HAT's gates sharpen, what is kept of them, and how embeddings move."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from strategies.hat_trials import PAPER, method, running, use
from support import finish
from torch import Tensor

from raycl.errors import MethodError
from raycl.learning.attention import annealed, gate
from raycl.strategies.base import Losses, Position, TaskData
from raycl.strategies.hat import HAT
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer


def check_annealing(training: dict[str, Any], lengths: list[int]) -> None:
    """In every pass the sharpness rises from 1 / s_max to s_max."""
    learning = running(training=training)
    strategy, seen = method(learning), []
    step = strategy.step

    def watch(batch: Batch, at: Position) -> Losses:
        losses = step(batch, at)
        seen.append(strategy._sharpness)
        return losses

    strategy.step = watch  # type: ignore[method-assign]
    learning.run_task()
    assert len(seen) == sum(lengths)
    for length in lengths:
        rise, seen = seen[:length], seen[length:]
        assert rise[0] == 1 / 400
        assert rise[-1] == pytest.approx(400)
        assert rise == sorted(rise)


def test_gates_sharpen_within_every_epoch() -> None:
    check_annealing({"epochs": 3}, [17, 17, 17])
    check_annealing({"iterations": 34}, [17, 17])
    check_annealing({"iterations": 9}, [9])


def test_epochs_of_one_update_share_a_rise() -> None:
    check_annealing({"epochs": 12, "batch_size": 512}, [6, 6])
    check_annealing({"epochs": 3, "batch_size": 512}, [3])


def jumps(update: int, updates: int, passes: int, s_max: float) -> float:
    """A mutant: a pass may have two updates, its ends."""
    passes = max(1, min(passes, updates // 2))
    done = min(1.0, update * passes % updates / max(1, updates - passes))
    return 1 / s_max + (s_max - 1 / s_max) * done


def test_a_sharpness_that_jumps_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.hat.annealed", jumps)
    with pytest.raises(AssertionError):
        check_annealing({"epochs": 12, "batch_size": 512}, [6, 6])


def test_gates_that_sharpen_over_the_whole_task_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.hat.annealed", lambda update, all, passes, s: annealed(update, all, 1, s))
    with pytest.raises(AssertionError):
        check_annealing({"epochs": 3}, [17, 17, 17])


def check_embeddings_move() -> None:
    learning = running(training={**PAPER, "epochs": 4})
    strategy, start = method(learning), []
    begin_task = strategy.begin_task

    def begin(task: int, data: TaskData) -> None:
        start.append(strategy.embedding.detach().clone())
        begin_task(task, data)

    strategy.begin_task = begin  # type: ignore[method-assign]
    learning.run_task()
    moved = (strategy.embedding.detach() - start[0]).abs()
    assert float(moved.mean()) > 0.2
    assert float(strategy.embedding.detach().abs().max()) <= 6


def check_norms(learning: Trainer) -> None:
    """A task begins with the norms of a new network, and not with those of the task before."""
    strategy = method(learning)
    fresh = {name: value.clone() for name, value in strategy._norms().items()}
    learning.run_task()
    begin = strategy.begin_task

    def watched(task: int, data: TaskData) -> None:
        begin(task, data)
        assert all(torch.equal(value, fresh[name]) for name, value in strategy._norms().items()), "norms"
        assert not all(torch.equal(value, fresh[name]) for name, value in strategy.norms[0].items())

    strategy.begin_task = watched  # type: ignore[method-assign]
    learning.run_task()


def test_each_task_begins_with_the_norms_of_a_new_network() -> None:
    check_norms(running(model={"norm": "batch"}))


class GoesOnWithTheNorms(HAT):
    """The mutant: what is to be the new network's norms are those that move."""

    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self._new_norms = self._norms()


def test_norms_that_go_on_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    use(GoesOnWithTheNorms, monkeypatch)
    with pytest.raises(AssertionError, match="norms"):
        check_norms(running(model={"norm": "batch"}))


def test_embeddings_move() -> None:
    check_embeddings_move()


def test_embeddings_without_compensation_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.hat.gate", lambda e, s, *_: torch.sigmoid(s * e))
    with pytest.raises(AssertionError):
        check_embeddings_move()


def test_embeddings_that_run_away_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.hat.BOUND", float("inf"))
    training = {**PAPER, "learning_rate": 5.0}
    learning = running(training=training, options={"penalty": 20.0})
    learning.run_task()
    assert float(method(learning).embedding.detach().abs().max()) > 6


def used_by(**options: Any) -> float:
    """The share of units that two tasks of permuted digits open."""
    stream = {"name": "permuted", "dataset": "digits", "tasks": 2, "normalize": "mean_std"}
    learning = running(options=options, stream=stream, training={**PAPER, "epochs": 6}, model={"hidden": [64, 64]})
    finish(learning)
    return float(method(learning).used().mean())


def check_published_gradient() -> None:
    """By default the penalty closes as many gates as in float32, fewer than the exact gradient would."""
    default = used_by()
    assert default == used_by(compensation="float32")
    assert default > used_by(compensation="exact") + 0.05


@pytest.mark.slow
def test_the_published_penalty_goes_with_the_published_gradient() -> None:
    assert HAT.Config().compensation == "float32"
    check_published_gradient()


@pytest.mark.slow
def test_an_exact_gradient_under_the_published_penalty_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.hat.gate", lambda e, s, s_max, _: gate(e, s, s_max, "exact"))
    with pytest.raises(AssertionError):
        check_published_gradient()


def unclamped(embedding: Tensor, sharpness: float, s_max: float, compensation: str) -> Tensor:
    """A mutant: the paper's factor without the clamp."""
    gates = torch.sigmoid(sharpness * embedding)
    factor = s_max * (torch.cosh(sharpness * embedding) + 1) / (sharpness * (torch.cosh(embedding) + 1))
    gates.register_hook(lambda gradient: gradient * factor.detach())
    return gates


def test_a_factor_that_overflows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.hat.gate", unclamped)
    with pytest.raises(MethodError, match="must stay finite"):
        running(training=PAPER).run_task()


def check_gates() -> None:
    """Gates are those at s_max: nearly all of them open or closed."""
    learning = running(training=PAPER)
    finish(learning)
    strategy = method(learning)
    for own in strategy.gates:
        assert ((own < 0.01) | (own > 0.99)).float().mean() > 0.85
        assert 0 < own.round().mean() < 1
    assert torch.equal(strategy.gates[-1], torch.sigmoid(400 * strategy.embedding.detach()))


def test_gates_are_kept_at_their_sharpest() -> None:
    check_gates()


def test_gates_at_the_sharpness_of_an_epochs_beginning_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Blunt(HAT):
        def _gate(self, task: int) -> Tensor:
            return torch.sigmoid(self.embedding.detach() / self.config.s_max)

    use(Blunt, monkeypatch)
    with pytest.raises(AssertionError):
        check_gates()


def test_the_share_of_free_units_is_a_result_of_each_task() -> None:
    free: list[float] = []
    learning = running(stream={"tasks": 3})
    rows = finish(learning, lambda trainer: free.append(1 - float(method(trainer).used().mean())))
    assert [row.measures["free_units"] for row in rows if row.task >= 0] == pytest.approx(free, abs=1e-6)
    assert rows[0].measures == {}
    assert free == sorted(free, reverse=True)


def warnings_of(gates: list[list[float]]) -> tuple[str, ...]:
    """After as many tasks of three, with gates made by hand: two units in the first layer, three in the second."""
    learning = running(model={"hidden": [2, 3]})
    strategy = method(learning)
    for task in range(len(gates)):
        strategy.grow(task)
    strategy.gates = [torch.tensor(own) for own in gates]
    return strategy.warnings()


def test_layers_that_are_used_up_or_closed_are_told() -> None:
    assert warnings_of([[1, 0, 1, 0, 0]]) == ()
    (full,) = warnings_of([[1, 0, 1, 0, 0], [0, 0.99, 1, 0, 0]])
    assert full.startswith("no unit of layer 1 is free for the tasks to come")
    assert warnings_of([[1, 0, 1, 0, 0], [0, 0.99, 1, 0, 0], [1, 0, 0, 0, 1]]) == (), "no task is to come"
    (closed,) = warnings_of([[1, 0, 0.01, 0, 0]])
    assert closed.startswith("task 0 has closed every gate of layer 2")


def test_an_embedding_belongs_to_its_task_and_does_not_decay() -> None:
    learning = running(training={"optimizer": "adamw", "weight_decay": 0.1, "reset_optimizer": False})
    learning.run_task()
    strategy = method(learning)
    first = strategy.gates[0].clone()
    group = strategy.context.optimizers["embedding 0"].param_groups[0]
    assert group["weight_decay"] == 0
    learning.run_task()
    assert torch.equal(strategy.gates[0], first)
    with pytest.raises(KeyError):
        strategy.context.optimizers["embedding 0"]


def test_the_learning_rate_falls_to_its_share_within_a_task() -> None:
    learning = running(training={"learning_rate": 1e-2, "iterations": 10}, options={"final_learning_rate": 0.01})
    strategy, rates = method(learning), []
    after_update = strategy.after_update

    def watch(batch: Batch, at: Position) -> None:
        rates.append(strategy.context.optimizers["network"].param_groups[0]["lr"])
        after_update(batch, at)

    strategy.after_update = watch  # type: ignore[method-assign]
    learning.run_task()
    assert rates == pytest.approx([1e-2 * 0.01 ** (update / 10) for update in range(10)])
