"""Runs one trial in one process: the loops over tasks, phases and batches. The strategy owns the updates."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from raycl.catalog import catalog as installed
from raycl.errors import DataError, MethodError
from raycl.matrix import Cost, TaskRow
from raycl.memory.buffer import Table, everything
from raycl.memory.local import Storage
from raycl.spec.came_to import came_to
from raycl.spec.setting import Registries
from raycl.spec.training import ActiveLogits
from raycl.spec.trial import TrialSpec
from raycl.strategies.base import Losses, Phase, Position, Rows, Source, Updates
from raycl.streams.contents import seen
from raycl.streams.held_out import HeldOut
from raycl.streams.later import later_tasks
from raycl.streams.task import Batch, Layout, TaskSource
from raycl.trial.batching import BatchPlan, refuse_single_row
from raycl.trial.budget import Allowance, TaskBudget, Ticks
from raycl.trial.build import build
from raycl.trial.cost import check_limits, task_cost
from raycl.trial.course import followed
from raycl.trial.diagnostics import diagnose
from raycl.trial.finite import check_finite
from raycl.trial.inside import InsideTask
from raycl.trial.meter import TaskClock
from raycl.trial.room import with_room
from raycl.trial.rows import CurrentData
from raycl.trial.warm_up import warm_up


class Trainer:
    """One trial: a method, a stream, a seed.

    Calling :meth:`run_task` until :attr:`done` learns and measures every task. :meth:`state_dict` between two calls is
    enough for a new trainer to go on to bit-equal results (on the CPU, with equal threads).

    Attributes:
        setting: the trial's blocks, checked.

    Args:
        trial: the resolved specification.
        source: serves the stream for the trial's seed.
        catalog: where the trial's parts are registered; default: this installation's.
        storage: holds the rows of the replay memory; default: this process.
        device: where the networks live; default: the CPU.
        data_root: below which the weights of ``model.weights`` lie.
    """

    def __init__(
        self,
        trial: TrialSpec,
        source: TaskSource,
        *,
        catalog: Registries | None = None,
        storage: Storage | None = None,
        device: torch.device | None = None,
        data_root: Path | None = None,
    ) -> None:
        self.trial = trial
        self.catalog = catalog or installed()
        self.next_task = 0
        source = later_tasks(source, trial.skipped_tasks, trial.stream["normalize"])
        if trial.training.judges_held_out:
            source = HeldOut(source, trial.training.held_out, trial.run_seeds.split)
        self._source = source

        def rehearse(brief: TrialSpec, blank: TaskSource) -> list[Cost]:
            return TrialRehearsal(brief, blank, catalog=self.catalog, data_root=data_root).costs()

        sized = with_room(trial, source.layout, rehearse)
        parts = build(sized, source, self.catalog, storage, device or torch.device("cpu"), data_root)
        self.strategy, self.scenario, self.setting = parts.strategy, parts.scenario, parts.setting
        self._networks, self._memory, self._optimizers = parts.networks, parts.memory, parts.optimizers
        self._rows, self._random = parts.rows, parts.random
        self._evaluator, self._also, self._judges = parts.evaluator, parts.also, parts.judges
        self._meter, self._work = parts.meter, parts.work
        self._ticks = Ticks(self._meter)

    @property
    def num_tasks(self) -> int:
        return self.scenario.num_tasks

    @property
    def learned(self) -> int:
        """Tasks that are learned in the end: all of them, but where hyperparameters are judged by the first ones."""
        return self.trial.learned(self.num_tasks)

    @property
    def layout(self) -> Layout:
        """What is known of the stream without its images."""
        return self._source.layout

    @property
    def weights_seen(self) -> str:
        """What of the stream's data the pretrained weights have learned from, in words; empty where nothing."""
        layout = self.layout
        weights = self._networks.weights
        started = seen(weights.origin, layout.contents) if weights is not None else ""
        return ", ".join(filter(None, dict.fromkeys((layout.seen, started))))

    @cached_property
    def resolved(self) -> dict[str, str | int]:
        """What ``auto`` came to: see :func:`raycl.spec.came_to.came_to`."""
        told = self.strategy.active_logits()  # of some methods in more words than the option has
        found = came_to(self.setting, told if told in get_args(ActiveLogits) else self.scenario.policy)
        if self.trial.uses_memory and self.trial.memory.capacity == "auto":
            found["memory.capacity"] = self.setting.memory.examples
        return found

    @property
    def done(self) -> bool:
        return self.next_task == self.learned

    @property
    def committed(self) -> Trainer:
        """Itself: what it has learned last is what it goes on from."""
        return self

    def close(self) -> None:
        """Give the replay memory's storage back."""
        if self._memory is not None:
            self._memory.close()

    # -- one task ----------------------------------------------------------------------------------------------

    def run_task(self) -> list[TaskRow]:
        """Learn and measure the next task.

        Returns:
            The task's row of the accuracy matrix, all null where the strategy says that its network means nothing yet;
            before the first task also the row of the untrained network.

        Raises:
            MethodError: the loss or a parameter is not finite, or a limit of the sweep file is passed.
            InfrastructureError: the stream or the memory was lost.
        """
        task, strategy = self.next_task, self.strategy
        warm_up()
        clock = TaskClock()
        self._work.reset()
        self._meter.reset()
        self._ticks.begin_task()
        self._grow(task)
        rows = []
        if task == 0:
            with clock.stopped():
                rows.append(self._measure(-1, Cost(forward_examples=0, gradient_examples=0)))
        if task + 1 < self.learned:
            self._source.prefetch(task + 1, "train")
        self._build_optimizers(task, self._keeps_moments)
        diagnosed = self._diagnose(task, clock)
        inside = self._new_inside(task, clock)
        data = CurrentData(self._rows.pool(Source.CURRENT, task)[0], self._random("extra_passes"), self._work)
        strategy.train(True)
        if not self.setting.hidden:
            strategy.begin_task(task, data)
            self._meter.settle()
        spent = self._run_phases(strategy.phases(self._told(task)), task, inside)
        if not self.setting.hidden:
            strategy.end_task(task, data)
        self._ticks.charge()
        self.next_task = task + 1
        points, online = (None, None) if inside is None else inside.ended()
        row = self._measure(task, replace(self._cost(clock), budget_spent=spent))
        rows.append(replace(row, measures={**diagnosed, **row.measures}, points=points, online=online))
        return rows

    def _diagnose(self, task: int, clock: TaskClock) -> dict[str, float]:
        """The diagnostics of a task that is about to be learned."""
        asked = self.trial.evaluation.diagnostics
        if not asked or not self.strategy.measured(task):
            return {}
        with clock.stopped(), self._meter.paused():
            return diagnose(self.strategy, self._rows.pool(Source.CURRENT, task)[0], asked)

    def _new_inside(self, task: int, clock: TaskClock) -> InsideTask | None:
        """What measures while the task is learned; None where nobody asked, or where the network means nothing yet."""
        asked = self.trial.evaluation
        if (asked.inside is None and not asked.online) or not self.strategy.measured(task):
            return None

        @contextmanager
        def unseen() -> Iterator[None]:
            with clock.stopped(), self._meter.paused():
                yield

        with unseen():
            return InsideTask(self._evaluator, self.strategy, asked, task, unseen)

    def _build_optimizers(self, task: int, keep_state: bool = False) -> None:
        strategy, told = self.strategy, self._told(task)
        self._optimizers.build(strategy.trainable(told), strategy.learning_rows(told), keep_state)

    @property
    def _keeps_moments(self) -> bool:
        """A new optimiser would tell where a hidden task begins."""
        return self.setting.hidden or not self.trial.training.reset_optimizer

    def _told(self, task: int) -> int:
        """What the strategy is told of the task: where boundaries are hidden, all of the stream is task 0."""
        return 0 if self.setting.hidden else task

    def _grow(self, task: int) -> None:
        """Where boundaries are hidden, the first growth is the only one: it makes the whole head."""
        if task == 0 or not self.setting.hidden:
            self.strategy.grow(task)
        self._meter.watch_attributes(self.strategy)

    def _run_phases(self, phases: Sequence[Phase], task: int, inside: InsideTask | None) -> int | None:
        """Learn a task; returns what its updates have spent of the budget, where there is one."""
        config = self.trial.training.budget
        if config is None:
            for phase in phases:
                self._run_phase(phase, task, inside)
            return None
        budget = TaskBudget(config, self._meter, phases, self.strategy.divisible)
        for phase in phases:
            self._run_phase(phase, task, inside, budget.allow())
        budget.check()
        return budget.spent

    def _run_phase(
        self, phase: Phase, task: int, inside: InsideTask | None, allowance: Allowance | None = None
    ) -> None:
        strategy, real_time = self.strategy, self.trial.training.real_time
        if phase.start is not None:
            phase.start()
            self._meter.settle()
        self._meter.watch_attributes(strategy)
        if phase.new_optimizers:
            self._build_optimizers(task)
        strategy.train(True)
        step = phase.step or strategy.step
        course = followed(phase, task, strategy, self._optimizers, self.trial.training, self._judges)
        losses: Losses = {}
        epoch = 0
        for batch, at in self._plan(phase, task, allowance).batches(self._told(task)):
            if at.epoch > epoch:  # not in every update: a look at the losses costs more than the update
                check_finite(self.trial, strategy, self._optimizers, losses, at)
                course.passed()
                epoch = at.epoch
            course.before(at)
            if inside is not None:
                inside.incoming(batch, at)
            if real_time and not self._ticks.takes(len(batch)):
                continue
            try:
                losses = step(batch, at)
            except ValueError as error:
                refuse_single_row(error, self.trial.strategy)
                raise
            course.after(losses)
            self._work.count(1, len(batch))
            if real_time:
                self._ticks.learned(len(batch))
            if inside is not None:
                inside.updated()
        end = Position(task, phase.name, epoch, 0, 0.0, True)
        check_finite(self.trial, strategy, self._optimizers, losses, end)
        course.passed()
        course.ended()
        self._meter.settle()

    def _plan(self, phase: Phase, task: int, allowance: Allowance | None) -> BatchPlan:
        training, memory = self.trial.training, self.trial.memory
        self._check_source(phase.source)
        pool, fresh = self._rows.pool(phase.source, task)
        return BatchPlan(
            pool,
            fresh,
            phase,
            phase.batch_size or training.batch_size,
            memory.batch_size or training.batch_size,
            memory.mix,
            self._random("order"),
            allowance,
        )

    def _check_source(self, source: Source | Rows) -> None:
        if isinstance(source, Source) and source & (Source.SEEN | Source.ALL) and not self.strategy.upper_bound:
            raise MethodError(
                f"{self.trial.strategy}: only upper bounds may ask for data of other tasks (got {source})"
            )

    # -- measuring ---------------------------------------------------------------------------------------------

    def _measure(self, task: int, cost: Cost) -> TaskRow:
        row = self._evaluated(task, cost)
        return row if task < 0 else replace(row, measures=dict(self.strategy.measures()))

    def _evaluated(self, task: int, cost: Cost) -> TaskRow:
        started = time.perf_counter()
        if task >= 0 and not self.strategy.measured(task):
            nothing = torch.zeros(self.num_tasks, dtype=torch.int64).numpy()
            return TaskRow(task, nothing, nothing, cost)
        with self._meter.paused():
            correct, counts = self._evaluator.measure(self.strategy, task)
            tested = None if self._also is None else self._also.measure(self.strategy, task)
        return TaskRow(task, correct, counts, cost.evaluated(time.perf_counter() - started), tested=tested)

    def _cost(self, clock: TaskClock) -> Cost:
        self._meter.settle()
        cost = task_cost(clock, self._work, self._meter, self.strategy, self._memory)
        check_limits(self.trial, self.strategy, cost)
        return cost

    def scored(self) -> TaskRow:
        """The row of the matrix after the tasks learned so far, and what measuring it took; before the first task that
        of the untrained network, of a trainer that learns nothing."""
        if not self.next_task:
            self._grow(0)
        return self._evaluated(self.next_task - 1, Cost(forward_examples=0, gradient_examples=0))

    def under_way(self, clock: TaskClock) -> Cost:
        """What a task that fails has taken until now."""
        forwards, gradients = self._meter.so_far()
        return Cost(
            wall_seconds=clock.wall(),
            cpu_seconds=clock.cpu(),
            updates=self._work.updates,
            examples=self._work.examples,
            forward_examples=forwards,
            gradient_examples=gradients,
        )

    def evaluation_rows(self, task: int, limit: int | None = None) -> Batch:
        """A task's rows that the matrix is measured on: all of them, or the first so many."""
        return Batch.cat([batch for _, batch in self._evaluator.batches(self.strategy, [task], limit)])

    def remembered(self) -> Table:
        """All rows of the replay memory."""
        return {} if self._memory is None else everything(self._memory)

    def counts_on(self, rows: Table) -> tuple[np.ndarray, np.ndarray]:
        """Correct and total counts, int64 ``[num_tasks]`` each, on rows of a replay memory."""
        with self._meter.paused():
            batches = self._evaluator.of_memory(rows)
            return self._evaluator.count(self.strategy, batches, self.next_task - 1)

    # -- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the tasks to come; only between two tasks."""
        return {
            "next_task": self.next_task,
            "split_hash": self.layout.split_hash,
            "strategy": self.strategy.state_dict(),
            "optimizers": self._optimizers.state_dict() if self._keeps_moments else {},
            "memory": None if self._memory is None else self._memory.state_dict(),
            "random": self._random.state_dict(),
            "owed": self._ticks.owed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; the trainer must be new.

        Raises:
            DataError: the data are not those on which the state was learned.
        """
        if state["split_hash"] != self.layout.split_hash:
            raise DataError(
                "a trial goes on with the very data it began with "
                f"(split {state['split_hash']} before, {self.layout.split_hash} now); restore the data set"
            )
        self.next_task = state["next_task"]
        for task in range(self.next_task):
            self._grow(task)
        self.strategy.load_state_dict(state["strategy"])
        if state["optimizers"]:
            self._optimizers.build(self.strategy.trainable(self._told(self.next_task - 1)))
            self._optimizers.load_state_dict(state["optimizers"])
        if self._memory is not None:
            self._memory.load_state_dict(state["memory"])
        self._random.load_state_dict(state["random"])
        self._ticks = Ticks(self._meter, state.get("owed", 0))  # checkpoints of before have none


class TrialRehearsal(Trainer):
    """A trial of one update a phase: what a method keeps is the same."""

    def _run_phases(self, phases: Sequence[Phase], task: int, inside: InsideTask | None) -> int | None:
        return super()._run_phases([replace(phase, length=Updates(1)) for phase in phases], task, inside)

    def costs(self) -> list[Cost]:
        """What each task of the stream costs."""
        return [self.run_task()[-1].cost for _ in range(self.num_tasks)]
