"""What the updates of a task may cost, and which batches pass by while a learner is busy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raycl.errors import MethodError
from raycl.spec.training import BudgetConfig
from raycl.strategies.phases import Phase, Share
from raycl.trial.meter import Meter


@dataclass(frozen=True)
class Turn:
    """The next update of a phase.

    Attributes:
        rows: of the batch that was offered, fewer where the budget ends, 0 where it has ended.
        fraction: of the phase's part of the budget that is spent.
        last: whether no further update will fit, by what updates have cost so far.
    """

    rows: int
    fraction: float
    last: bool


class TaskBudget:
    """What the phases of one task spend of ``training.budget``.

    Equal compute as in Prabhu et al. 2023, "Computationally budgeted continual learning: what does matter?". Departure:
    they give a method that costs C times another's update 1/C of its updates; here rows through networks are counted,
    which comes to the same where C is steady, and holds where it is not.

    Args:
        meter: of the task; what it has counted so far is no part of the budget.
        phases: of the task, in order.
        divisible: whether an update on a part of a batch costs that part.
    """

    def __init__(self, config: BudgetConfig, meter: Meter, phases: Sequence[Phase], divisible: bool) -> None:
        self._config = config
        self._meter = meter
        self._to_come = [phase.length for phase in phases]
        self._divisible = divisible
        self._total = config.examples * max((own.budgets for own in self._to_come if isinstance(own, Share)), default=1)
        self._before = self._read()

    @property
    def spent(self) -> int:
        return self._read() - self._before

    def allow(self) -> Allowance:
        """What the next phase may spend: its share of what is left, all of it where it has a length of its own."""
        left = self._total - self.spent
        shares = sum(own.count for own in self._to_come if isinstance(own, Share))
        length = self._to_come.pop(0)
        if isinstance(length, Share):
            left = int(left * length.count / shares)
        return Allowance(self, left, self._divisible)

    def check(self) -> None:
        """After the last phase.

        Raises:
            MethodError: an update cost more than the whole budget, or than the updates before it could tell.
        """
        if self.spent > self._total:
            unit, limit = self._config.unit, self._config.examples
            raise MethodError(
                f"training.budget.{unit} must hold several updates of each phase of a task (got {limit:,}, and the "
                f"updates of a task took {self.spent:,}); enlarge it, or lower training.batch_size"
            )

    def _read(self) -> int:
        forwards, gradients = self._meter.so_far()
        return gradients if self._config.unit == "gradient_examples" else forwards


class Allowance:
    """What one phase may spend.

    An update is taken to cost what the dearest one has, or, where they become dearer, as much more than the last one as
    that was above the one before: a memory that fills makes the second update of a task dearer than the first.
    """

    def __init__(self, budget: TaskBudget, room: int, divisible: bool) -> None:
        self._budget = budget
        self._room = room
        self._divisible = divisible
        self._before = self._mark = budget.spent
        self._rows = self._last = self._dearest = self._rise = 0

    def next(self, rows: int) -> Turn:
        """Judge the next update, offered a batch of so many rows; what the one before has cost is known by now."""
        spent = self._budget.spent - self._before
        cost, left = self._expected(rows), self._room - spent
        taken = rows if cost <= left else self._part(rows, cost, left)
        self._rows, self._mark = taken, self._budget.spent
        fits_after = -(-cost // rows) if self._divisible else cost
        return Turn(taken, spent / self._room if taken else 1.0, taken < rows or left - cost < fits_after)

    def _part(self, rows: int, cost: int, left: int) -> int:
        """How many of the rows of a full update are left; a single one is left out, as batch norm could not use it."""
        part = rows * max(left, 0) // cost if self._divisible else 0
        return part if part > 1 else 0

    def _expected(self, rows: int) -> int:
        """Examples of an update on so many rows, at least one for each."""
        if not self._rows:
            return rows
        cost = self._budget.spent - self._mark
        self._rise = max(0, cost - self._last) if self._last else 0
        self._last, self._dearest = cost, max(self._dearest, cost)
        expected = max(self._dearest, cost + self._rise)
        return max(1, -(-expected * max(rows, self._rows) // self._rows))


FORWARD_AND_BACKWARD = 3
"""Examples that a plain update takes for each of its rows: one forward, and a backward pass that counts for two."""


class Ticks:
    """A stream that does not wait, as in Ghunaim et al. 2023, "Real-time evaluation in online continual learning".

    It reveals one batch a tick, in which a plain update has just time. A method whose updates cost C times as much
    learns one batch in C, and the others pass by; what it does before and after a task (teachers, Fisher information)
    makes it miss batches as well. Costs are rows forward plus twice the rows backward, so that the outcome does not
    depend on the machine. Time that a cheaper method has left is not saved up.

    Args:
        owed: examples of work that the last task has left undone, as :attr:`owed` of its ticks.
    """

    def __init__(self, meter: Meter, owed: int = 0) -> None:
        self._meter = meter
        self._mark = 0
        self.owed = owed

    def begin_task(self) -> None:
        """The meter has just been reset."""
        self._mark = 0

    def takes(self, rows: int) -> bool:
        """A batch of so many rows comes: whether it is learned; it passes by while something is still to be done."""
        self.charge()
        if self.owed > 0:
            self.owed -= FORWARD_AND_BACKWARD * rows
            return False
        return True

    def learned(self, rows: int) -> None:
        """The batch has been learned."""
        ahead = min(self.owed, 0)
        self.charge()
        self.owed = max(self.owed - FORWARD_AND_BACKWARD * rows, ahead)

    def charge(self) -> None:
        """Whatever has been done since the last tick is to be made up for."""
        forwards, gradients = self._meter.so_far()
        now = forwards + 2 * gradients
        self.owed, self._mark = self.owed + now - self._mark, now
