"""A trial that chooses its hyperparameters as it goes: between two tasks, on validation data, in its one pass.

After each task one state is committed: weights, memory, optimisers, generators, all that a checkpoint holds. Of the
next task several trainings are made, each of them from that state with the same random numbers (so that they differ by
what is chosen and by nothing else), and one of them is committed. None of them can read test data: only the trainer
that holds the committed state can, and it learns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from raycl.errors import DataError, MethodError
from raycl.matrix import Cost, Stage, TaskRow, Tried
from raycl.spec.evaluation import SampledTasks
from raycl.spec.protocols import Choosing, CurrentTask, SeenTasks, StabilityDecay
from raycl.spec.trial import TrialSpec
from raycl.streams.task import Layout, Part, SplitName, TaskSource
from raycl.trial import checkpoint
from raycl.trial.decay import settle
from raycl.trial.meter import TaskClock
from raycl.trial.trainer import Trainer

NewTrainer = Callable[[TrialSpec, TaskSource], Trainer]
TRAININGS = "task_trainings"
"""Among a row's measures: trainings of a task so far, of this task and of all before it."""


@dataclass(frozen=True)
class WithoutTest:
    """A stream whose test rows nobody can read."""

    source: TaskSource

    @property
    def layout(self) -> Layout:
        return self.source.layout

    def part(self, task: int, split: SplitName) -> Part:
        """
        Raises:
            DataError: test rows are asked for.
        """
        if split == "test":
            raise DataError(
                "a trial that chooses as it goes may not read test data while it chooses (got split 'test')"
            )
        return self.source.part(task, split)

    def prefetch(self, task: int, split: SplitName) -> None:
        self.source.prefetch(task, split)


@dataclass(frozen=True)
class WithValidation(WithoutTest):
    """The same, with the validation rows of each task among its training rows, behind them."""

    def part(self, task: int, split: SplitName) -> Part:
        part = super().part(task, split)
        if split == "validation":
            return part
        other = self.source.part(task, "validation")
        rows, labels = np.concatenate([part.rows, other.rows]), np.concatenate([part.labels, other.labels])
        return replace(part, rows=rows, labels=labels)


@dataclass(frozen=True)
class Training:
    """One training of the task that comes next.

    Attributes:
        row: on validation rows; None where the training failed.
        state: what it has come to, as a checkpoint holds it; empty where it failed.
    """

    tried: Tried
    spec: TrialSpec
    row: TaskRow | None = None
    state: Mapping[str, bytes] = field(default_factory=dict)


class Bench:
    """Trains one task, again and again, from one committed state.

    Whoever asks for a training holds its state, which may be large; here stays what was tried, and what that cost.

    Args:
        trial: as trainings are made, without what is chosen.
        committed: the state as a checkpoint holds it; None before the first task.
        judge: accuracy of a trainer that has just learned the task, from its row; None where none was measured.
    """

    def __init__(
        self,
        trial: TrialSpec,
        source: TaskSource,
        make: NewTrainer,
        committed: Mapping[str, bytes] | None,
        judge: Callable[[Trainer, TaskRow], float | None],
    ) -> None:
        self._trial = trial
        self._source = source
        self._make = make
        self._committed = committed
        self._judge = judge
        self.tried: list[Tried] = []
        self.costs: list[Cost] = []

    def train(self, stage: Stage, candidate: int, values: Mapping[str, Any]) -> Training:
        """Learn the task once; ``retrain`` does so on validation rows too, and is not judged by them."""
        again = stage == "retrain"
        spec = self._trial.with_values(values)
        trainer = self._make(spec, (WithValidation if again else WithoutTest)(self._source))
        clock = TaskClock()
        try:
            if self._committed is not None:
                trainer.load_state_dict(checkpoint.decode(self._committed))
            row = trainer.run_task()[-1]
            judged = None if again else self._judge(trainer, row)
            state = checkpoint.encode(trainer.state_dict())
            made, cost = Training(Tried(stage, candidate, values, judged), spec, row, state), row.cost
        except MethodError as error:
            made = Training(Tried(stage, candidate, values, None, failure=str(error)), spec)
            cost = trainer.under_way(clock)
        finally:
            trainer.close()
        self.tried.append(made.tried)
        self.costs.append(cost)
        return made

    def best(self, stage: Stage, candidates: Iterable[Mapping[str, Any]]) -> Training:
        """Train each candidate; the one that was judged best, of equal ones the first.

        Raises:
            MethodError: all of them failed.
        """
        chosen: Training | None = None
        for index, values in enumerate(candidates):
            made = self.train(stage, index, values)
            if made.row is not None and (chosen is None or _worth(made) > _worth(chosen)):
                chosen = made
        if chosen is None:
            raise MethodError(f"every candidate failed: {self.tried[0].failure}")
        return chosen


class Chooser:
    """Runs one trial that chooses as it goes; used as :class:`raycl.trial.trainer.Trainer` is, but for its parts.

    Args:
        trial: what it chooses among, and everything else.
        source: the stream with all its splits.
        make: builds a trainer.

    Attributes:
        committed: holds the state after the last task, and alone can read test data; it learns nothing.
    """

    def __init__(self, trial: TrialSpec, source: TaskSource, make: NewTrainer) -> None:
        assert trial.choosing is not None
        self._choosing: Choosing = trial.choosing
        self._trial = trial
        self._source = source
        self._make = make
        self._state: Mapping[str, bytes] | None = None
        self._values: Mapping[str, Any] = trial.choosing.candidates[0]
        self._stability = {own.option: trial.value(own.option) for own in trial.choosing.decays}
        self._trainings = 0
        self.committed = make(trial, source)

    def close(self) -> None:
        """Give back what the trial holds."""
        self.committed.close()

    def run_task(self) -> list[TaskRow]:
        """Choose how to learn the next task, commit what has learned it, and measure that on test data.

        Returns:
            As a trainer; costs are of all that was trained for the choice.

        Raises:
            MethodError: every training failed, or the one that was to be kept.
        """
        first = self._state is None
        rows = [self.committed.scored()] if first else []
        bench = Bench(self._as_trained(), self._source, self._make, self._state, self._judge())
        self.committed.close()  # a replay memory's storage serves one trainer at a time
        kept = self._choose(bench)
        if kept.row is None:
            raise MethodError(f"the training to be kept failed: {kept.tried.failure}")
        self._trainings += len(bench.tried)
        self._state, self._values = kept.state, kept.tried.values
        self._reopen()
        return [*rows, self._row(bench, kept.tried, kept.row)]

    # -- the choice --------------------------------------------------------------------------------------------

    def _choose(self, bench: Bench) -> Training:
        rule, candidates = self._choosing.protocol.as_it_goes, self._choosing.candidates
        if isinstance(rule, StabilityDecay):
            return self._decay(bench, rule)
        chosen = bench.best("candidate", candidates)
        if isinstance(rule, CurrentTask) and rule.retrain:
            return bench.train("retrain", chosen.tried.candidate, chosen.tried.values)
        return chosen

    def _decay(self, bench: Bench, rule: StabilityDecay) -> Training:
        """Maximal plasticity, then stability decay; without stability hyperparameters the former is all."""
        grid, decays, plastic = self._choosing.candidates, self._choosing.decays, self._choosing.plastic
        kept = bench.best("plastic", [{**rate, **plastic} for rate in grid])
        if not decays:
            return kept
        index, mark = kept.tried.candidate, kept.tried.judged

        def learn(values: Mapping[str, float]) -> float | None:
            nonlocal kept
            kept = bench.train("stable", index, {**grid[index], **values})
            return kept.tried.judged

        self._stability = dict(settle(rule, self._stability, decays, mark, learn))
        return kept

    def _judge(self) -> Callable[[Trainer, TaskRow], float | None]:
        """By which rows trainings of the next task are judged."""
        rule = self._choosing.protocol.as_it_goes
        if not isinstance(rule, SeenTasks):
            return lambda trainer, row: _mean(row.correct[[row.task]], row.total[[row.task]])
        if rule.judge == "validation":
            return lambda trainer, row: _mean(row.correct, row.total)
        remembered = self.committed.remembered()

        def judge(trainer: Trainer, row: TaskRow) -> float | None:
            correct, total = trainer.counts_on(remembered)
            correct[row.task], total[row.task] = row.correct[row.task], row.total[row.task]
            return _mean(correct, total)

        return judge

    def _as_trained(self) -> TrialSpec:
        """The trial as its trainings are made: scored on validation rows, and on no more of them than they need."""
        rule = self._choosing.protocol.as_it_goes
        all_seen = isinstance(rule, SeenTasks) and rule.judge == "validation"
        cells = {"every": 1, "from_task": 1, "tasks": "seen" if all_seen else SampledTasks(sample=1)}
        evaluation = self._trial.evaluation.model_copy(update=cells)
        memory = self.committed.setting.memory  # with a number for a capacity that is "auto"
        update = {"evaluation": evaluation, "memory": memory, "score_on": "validation", "choosing": None}
        return self._trial.model_copy(update=update)

    # -- what is committed -------------------------------------------------------------------------------------

    def _reopen(self) -> None:
        """Hold the committed state in a trainer that scores it."""
        self.committed = self._make(self._trial.with_values(self._values), self._source)
        if self._state is not None:
            self.committed.load_state_dict(checkpoint.decode(self._state))

    def _row(self, bench: Bench, kept: Tried, row: TaskRow) -> TaskRow:
        """The row of the committed state, on test data, with all that was tried and what it cost."""
        scored = self.committed.scored()
        tried = tuple(replace(own, kept=own is kept) for own in bench.tried)
        spent = row.cost.summed(bench.costs)
        measures = {**row.measures, TRAININGS: float(self._trainings)}
        return replace(
            row,
            correct=scored.correct,
            total=scored.total,
            cost=spent.evaluated(spent.evaluation_seconds + scored.cost.evaluation_seconds),
            measures=measures,
            tried=tried,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the tasks to come; only between two tasks."""
        assert self._state is not None
        return {
            "committed": checkpoint.decode(self._state),
            "values": dict(self._values),
            "stability": dict(self._stability),
            "trainings": self._trainings,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; the chooser must be new."""
        self._state, self._values = checkpoint.encode(state["committed"]), state["values"]
        self._stability, self._trainings = state["stability"], state["trainings"]
        self.committed.close()
        self._reopen()


def _mean(correct: np.ndarray, total: np.ndarray) -> float | None:
    """The mean accuracy over the tasks that were measured."""
    measured = total > 0
    return float(np.mean(correct[measured] / total[measured])) if measured.any() else None


def _worth(training: Training) -> float:
    judged = training.tried.judged
    return -1.0 if judged is None else judged
