"""What a task has cost, and the limits that a sweep file sets to it."""

from __future__ import annotations

from raycl.errors import MethodError
from raycl.matrix import Cost
from raycl.memory.buffer import ReplayBuffer
from raycl.spec.trial import TrialSpec
from raycl.strategies.base import Strategy
from raycl.trial.meter import Meter, TaskClock
from raycl.trial.rows import Work


def task_cost(clock: TaskClock, work: Work, meter: Meter, strategy: Strategy, memory: ReplayBuffer | None) -> Cost:
    """The cost of the task that has just been learned; evaluation is not in it.

    Args:
        meter: settled, so that nothing counted is still under way.
        memory: None where the method keeps none.
    """
    return Cost(
        wall_seconds=clock.wall(),
        cpu_seconds=clock.cpu(),
        updates=work.updates,
        examples=work.examples,
        forward_examples=meter.forwards,
        gradient_examples=meter.gradients,
        parameters=strategy.parameter_count(),
        state_bytes=strategy.state_bytes(),
        buffer_bytes=memory.bytes if memory is not None else 0,
        buffer_examples=len(memory) if memory is not None else 0,
    )


def check_limits(trial: TrialSpec, strategy: Strategy, cost: Cost) -> None:
    """A method must keep within the sweep's ``limits``.

    Raises:
        MethodError: it holds more; the message names the limit and the value.
    """
    found: dict[str, float | None] = {
        "max_state_bytes": cost.state_bytes + cost.buffer_bytes,
        "max_parameters": cost.parameters,
        "max_compression_ratio": strategy.compression_ratio(),
    }
    if broken := trial.limits.broken(found):
        raise MethodError(f"{trial.strategy}: {broken}")
