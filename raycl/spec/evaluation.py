"""The block ``evaluation`` of a sweep file: which cells of the matrix a trial measures, and on how many examples."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, get_args

from pydantic import Field

from raycl.spec.options import Count, CountFromZero, Options

EXACT_UP_TO = 100
"""Tasks of a stream up to which ``tasks: auto`` measures all of them after every task."""
SAMPLED = 20
"""Earlier tasks that ``tasks: auto`` measures after each task of a longer stream."""
Diagnostic = Literal["dead_units", "effective_rank", "stable_rank", "weight_magnitude", "gradient_norm"]
"""What a network still has to learn with, on rows of a task that it is about to learn."""
DIAGNOSTICS: tuple[Diagnostic, ...] = get_args(Diagnostic)


class SampledTasks(Options):
    """A sample of the earlier tasks, drawn anew for each row of the matrix."""

    sample: Count | Literal["auto"] = Field(
        description="earlier tasks that are measured after each task, beside that task itself; auto: all of them, in "
        f"streams of more than {EXACT_UP_TO} tasks {SAMPLED}"
    )


class InsideConfig(Options):
    """Measurement while a task is learned: before its first update, every so many updates, and when it has ended."""

    updates: Count = Field(description="between two points")
    examples: Count = Field(
        100, description="of each task that has been seen, the first ones, so that all points are of the same examples"
    )


class EvaluationConfig(Options):
    """What is measured after every task.

    Only ``future_tasks``, as it came first, and ``max_examples``, which changes counts, name a trial. The other keys
    say which cells are measured, and no cell depends on which others are: a trial that holds more than is asked
    answers (:meth:`covers`).
    """

    future_tasks: bool = Field(True, description="also tasks not yet learned, where their output units exist")
    max_examples: Count | None = Field(None, description="at most so many examples of each task, the first ones")
    search: Literal["needed", "all"] = Field(
        "needed",
        description="what search and finalist trials measure: needed, the cells that their metric and the pruner read, "
        "or all that final trials do",
    )
    every: Count | Literal["end"] = Field(
        1, description="measure after every so many tasks, and always after the last; end: after the last alone"
    )
    from_task: CountFromZero = Field(
        0, description="tasks learned before the first measurement; 0: the untrained network is measured too"
    )
    tasks: Literal["auto", "all", "seen"] | SampledTasks = Field(
        "auto",
        description="which tasks are measured: all, those seen so far, or {sample: 20} of the earlier ones beside the "
        f"task just learned, and all after the last; auto: all, in streams of more than {EXACT_UP_TO} tasks "
        f"{{sample: {SAMPLED}}}",
    )
    inside: InsideConfig | None = Field(
        None,
        description="accuracies while a task is learned: {updates: 10, examples: 100}; for the stability gap, "
        "worst-case and anytime accuracy",
    )
    online: bool = Field(
        False, description="predict every example before it is learned for the first time (prequential accuracy)"
    )
    diagnostics: tuple[Diagnostic, ...] = Field(
        (),
        max_length=len(DIAGNOSTICS),
        description="of the network before each task, on 2,000 of its training rows: dead units, ranks of the "
        "activations, mean absolute weight, norm of the gradient; columns measure.NAME",
    )

    def decisive(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        return super().decisive({*exclude, *WHICH_CELLS})

    def sample(self, num_tasks: int) -> int | None:
        """Earlier tasks that are drawn for each row but the last; None: all of them."""
        asked = self.tasks.sample if isinstance(self.tasks, SampledTasks) else self.tasks
        if isinstance(asked, int):
            return asked
        return SAMPLED if asked == "auto" and num_tasks > EXACT_UP_TO else None

    def measures_row(self, row: int, num_tasks: int) -> bool:
        """Whether the row after task ``row`` (-1: before training) is measured at all."""
        if row == num_tasks - 1:
            return True
        return self.every != "end" and row + 1 >= self.from_task and (row + 1) % self.every == 0

    def measures_future(self, num_tasks: int) -> bool:
        """Whether tasks that have not been learned are measured where they can be."""
        return self.future_tasks and self.tasks in ("auto", "all") and self.sample(num_tasks) is None

    def told(self, num_tasks: int) -> str:
        """Which cells are measured, in words; empty where all of them are."""
        if self.every == "end":
            return "the last row alone"
        drawn = self.sample(num_tasks)
        told = [f"every {self.every} tasks"] if self.every > 1 else []
        told += [f"from task {self.from_task} on"] if self.from_task > 1 else []
        told += [f"{drawn} earlier tasks of each row"] if drawn is not None and drawn < num_tasks - 1 else []
        return ", ".join(told) + ", and the whole last row" if told else ""

    def covers(self, asked: EvaluationConfig, num_tasks: int) -> bool:
        """Whether a trial measured like this holds every cell of one measured as ``asked``."""
        if (asked.inside not in (None, self.inside)) or (asked.online and not self.online):
            return False
        if not set(asked.diagnostics) <= set(self.diagnostics):
            return False
        rows = (-1, *range(num_tasks))
        if any(asked.measures_row(row, num_tasks) and not self.measures_row(row, num_tasks) for row in rows):
            return False
        if asked.measures_future(num_tasks) and not self.measures_future(num_tasks):
            return False
        drawn, wanted = self.sample(num_tasks), asked.sample(num_tasks)
        return drawn is None or (wanted is not None and drawn >= wanted)  # a smaller sample is the start of a larger

    def needed(self, metric: str, pruned_from: int | None) -> EvaluationConfig:
        """What a search reads of the matrix.

        Args:
            metric: of the search; the incremental ones are means over all rows.
            pruned_from: tasks learned before a pruner first looks at the metric; None where there is no pruner.
        """
        if self.search == "all":
            return self
        changed: dict[str, Any] = {"inside": None, "online": False, "diagnostics": ()}
        if not isinstance(self.tasks, SampledTasks):
            changed["tasks"] = SampledTasks(sample="auto") if self.tasks == "auto" else "seen"
        whole_curve = metric.endswith("incremental_accuracy")
        if not whole_curve and pruned_from is None:
            changed["every"] = "end"
        elif self.every == "end":  # of final trials; the search reads more
            changed["every"] = 1
        if not whole_curve and pruned_from is not None:
            changed["from_task"] = max(self.from_task, pruned_from)
        return self.model_copy(update=changed)

    def every_step(self) -> EvaluationConfig:
        """All tasks seen, after every task: what any protocol that judges by the first tasks, or by all, reads."""
        return self.model_copy(update={"every": 1, "from_task": 1, "tasks": "seen"})


WHICH_CELLS = frozenset(EvaluationConfig.model_fields) - {"future_tasks", "max_examples"}
"""Keys that say which cells are measured, and stand in no hash."""
