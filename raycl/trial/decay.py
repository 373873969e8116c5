"""Stability decay: in which order stability hyperparameters give way, and when a task is learned well enough.

De Lange et al., "A continual learning survey", TPAMI 2021 (arXiv 1909.08383), and their code: of several
hyperparameters each is decayed alone, the others restored; when each alone has failed, all together, which is the new
base. What was accepted is where the next task begins, so nothing ever rises again. Where the last permitted training
fails too, it is kept, and the next task begins one decay further on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from raycl.spec.protocols import Decay, StabilityDecay

Values = Mapping[str, float]
ROUNDING = 1e-12
"""What a share of an accuracy may lose in the last digits."""


def decayed(start: Values, decays: Sequence[Decay], factor: float) -> Iterator[Values]:
    """What is tried, without end: ``start`` first.

    Two values, halved: (5, 2), (2.5, 2), (5, 1), (2.5, 1), (1.25, 1), (2.5, .5), (1.25, .5), ...
    """
    base = dict(start)
    yield base
    while True:
        if len(decays) > 1:
            for own in decays:
                yield base | {own.option: own.apply(base[own.option], factor)}
        base = {own.option: own.apply(base[own.option], factor) for own in decays}
        yield base


def settle(
    rule: StabilityDecay,
    start: Values,
    decays: Sequence[Decay],
    plastic: float | None,
    learn: Callable[[Values], float | None],
) -> Values:
    """Learn a task with ever less stability until it is learned well enough; the last training is what is kept.

    Args:
        plastic: accuracy of fine-tuning on the task; None where it is not measured, and any training will do.
        learn: trains from where the task begins, and tells the accuracy on it; None: it failed.

    Returns:
        Where the next task begins.
    """
    tried = decayed(start, decays, rule.decay)
    for number, values in enumerate(tried, start=1):
        accuracy = learn(values)
        if plastic is None or (accuracy is not None and accuracy >= (1 - rule.drop) * plastic - ROUNDING):
            return values
        if number == rule.trainings:
            break
    return next(tried)
