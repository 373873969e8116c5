"""What follows the course of a phase: the schedule of its learning rates, and the best of its passes over the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from raycl.learning.schedules import PlateauDrops, Whereabouts, rate
from raycl.spec.schedule import Plateau
from raycl.spec.training import TrainingConfig
from raycl.strategies.base import Losses, Phase, Position, Source, Strategy, total
from raycl.trial.evaluator import Evaluator
from raycl.trial.optimizers import OptimizerSet


class Course:
    """Of one phase of a task.

    Args:
        training: of the trial; optimisers with settings of their own go by those.
        judge: the accuracy on ``training.held_out`` as the method stands, where it is asked for.
        kept: the tensors that ``keep_best`` keeps; read after the first pass.
    """

    def __init__(
        self,
        optimizers: OptimizerSet,
        phase: Phase,
        training: TrainingConfig,
        judge: Callable[[], float],
        kept: Callable[[], Sequence[Tensor]],
    ) -> None:
        self._optimizers = optimizers
        self._own = phase.learning_rate
        self._steady = self._own is None and optimizers.steady
        self._judge = judge if training.judges_held_out else None
        self._kept = kept if training.keep_best else None
        scheduled = training.scheduled
        self._plateau = PlateauDrops(scheduled) if isinstance(scheduled, Plateau) else None
        self._watched = scheduled.watch if isinstance(scheduled, Plateau) else ""
        self._sum: Tensor | float = 0.0
        self._updates = 0
        self._best: tuple[float, list[Tensor]] | None = None

    def before(self, at: Position) -> None:
        """Set the learning rates of an update."""
        if self._steady:
            return
        own = 1.0 if self._own is None else self._own(at)
        dropped = 1.0 if self._plateau is None else self._plateau.factor
        where = Whereabouts(at.update, at.updates, at.fraction)

        def factor(settings: TrainingConfig) -> float:
            scheduled = settings.scheduled
            drops = dropped if isinstance(scheduled, Plateau) else 1.0
            return own * drops * rate(scheduled, settings.warm_up, where)

        self._optimizers.set_rates(factor)

    def after(self, losses: Losses) -> None:
        """An update is done; nothing is waited for."""
        if self._plateau is not None and losses:
            self._sum = self._sum + total(losses).detach()
            self._updates += 1

    def passed(self) -> None:
        """A pass over the data is done."""
        accuracy = None if self._judge is None else self._judge()
        if self._plateau is not None and self._updates:
            loss = float(self._sum) / self._updates
            self._plateau.passed(loss if self._watched == "loss" or accuracy is None else accuracy)
            self._sum, self._updates = 0.0, 0
        if self._kept is not None and accuracy is not None and (self._best is None or accuracy > self._best[0]):
            self._best = accuracy, [tensor.detach().clone() for tensor in self._kept()]

    @torch.no_grad()
    def ended(self) -> None:
        """Go back to the best pass; of equal ones the first."""
        if self._best is not None and self._kept is not None:
            for tensor, best in zip(self._kept(), self._best[1], strict=True):
                tensor.copy_(best)


def followed(
    phase: Phase,
    task: int,
    strategy: Strategy,
    optimizers: OptimizerSet,
    training: TrainingConfig,
    judges: Evaluator | None,
) -> Course:
    """What follows a phase of a task.

    Args:
        judges: measures on the rows that are held out; those of earlier tasks too, where they are learned once more.
    """
    source = phase.source
    again = isinstance(source, Source) and bool(source & (Source.SEEN | Source.ALL))
    tasks = range(task + 1) if again else (task,)

    def judge() -> float:
        assert judges is not None
        correct, counts = judges.count(strategy, judges.batches(strategy, tasks), task)
        strategy.train(True)
        return float(correct.sum() / counts.sum())

    def kept() -> list[Tensor]:
        modules = [value for value in vars(strategy).values() if isinstance(value, nn.Module)]
        return [*optimizers.parameters(), *(buffer for module in modules for buffer in module.buffers())]

    return Course(optimizers, phase, training, judge, kept)
