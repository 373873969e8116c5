"""One trial for a notebook: run to its end and kept in memory, or as a trainer for a loop of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycl.addresses import default_data_root
from raycl.errors import MethodError, UnknownName
from raycl.matrix import AccuracyMatrix, Verdict
from raycl.models.network import Network
from raycl.spec.points import active
from raycl.spec.seeds import RunSeeds
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import Scalar, SweepPhase, TrialSpec, stream_config
from raycl.strategies.base import Strategy
from raycl.streams.refusals import check_split
from raycl.streams.source import LocalSource
from raycl.trial.check import load_sweep
from raycl.trial.device import threads
from raycl.trial.keeper import InMemory
from raycl.trial.pretrained import pinned
from raycl.trial.session import Progress, TrialSession
from raycl.trial.trainer import Trainer


@dataclass(frozen=True)
class Trial:
    """One trial that was run here.

    Attributes:
        spec: everything that decided it.
        verdict: how it ended.
        matrix: accuracies after each task, on each task.
        strategy: the learner as its last task left it; ``strategy.predict(x, None)`` gives logits.
    """

    spec: TrialSpec
    verdict: Verdict
    matrix: AccuracyMatrix
    strategy: Strategy

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of continual learning over :attr:`matrix`."""
        return self.matrix.metrics()

    @property
    def network(self) -> Network:
        """The network that was trained."""
        return self.strategy.network


def run_trial(
    sweep: SweepSpec,
    name: str,
    *,
    seed: int | RunSeeds = 0,
    point: Mapping[str, Scalar] | None = None,
    phase: SweepPhase = "search",
    data_root: str | Path | None = None,
    on_task: Callable[[Progress], None] = lambda progress: None,
) -> Trial:
    """Run one trial of a sweep in this process, and keep it in memory.

    Args:
        name: of the method in the sweep: ``alias``, or ``variant/alias``.
        seed: of every source of randomness, or the seeds of each.
        point: searched values by dotted path; those that are not given stand in the middle of their ranges.
        phase: ``search`` scores on validation data, ``final`` on test data.
        data_root: folder of the data sets; default: ``data`` in the working directory.
        on_task: told where the trial stands after each task.

    Raises:
        UnknownName: the sweep has no such method, or the method no such value.
        DataError: a data set is missing.
        MethodError: the method failed.
    """
    spec, root = _spec(sweep, name, seed, point, phase, data_root)
    kept = InMemory(spec)
    source = _source(sweep, spec, root)
    for split in ("train", spec.score_on, *((spec.also_on,) if spec.also_on else ())):
        check_split(source, split)
    session = TrialSession(source, kept, metric=sweep.metric, catalog=sweep.catalog, data_root=root)
    with closing(session), threads(spec.resources.cpus):
        progress = session.step()
        while progress.verdict is None:
            on_task(progress)
            progress = session.step()
    if progress.verdict.status != "finished" or session.trainer is None:
        failure = MethodError(progress.verdict.reason)
        failure.add_note(kept.traceback)
        raise failure
    on_task(progress)
    return Trial(spec, progress.verdict, AccuracyMatrix.of(kept.kept, progress.num_tasks), session.trainer.strategy)


def trainer(
    stream: Mapping[str, Any],
    strategy: str,
    *,
    options: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    memory: Mapping[str, Any] | None = None,
    seed: int = 0,
    data_root: str | Path | None = None,
) -> Trainer:
    """One method on one stream, for a loop of one's own; nothing is measured but what :class:`Trainer` measures.

    Args:
        stream: a ``stream`` block, as :func:`stream_from_arrays` makes it.
        strategy: the method's name.
        options: of the method; the other blocks are those of a sweep file.
        model: default: ``{"name": "mlp"}``.

    Raises:
        SpecError: with every problem of the blocks.

    Example:
        >>> learner = trainer({"name": "split", "dataset": "digits", "tasks": 2}, "naive", training={"iterations": 3})
        >>> while not learner.done:
        ...     rows = learner.run_task()
        >>> learner.strategy.predict(torch.zeros(1, 1, 8, 8), None).shape
        torch.Size([1, 10])
    """
    blocks = {"model": model or {"name": "mlp"}, "training": training, "memory": memory}
    sweep = load_sweep(
        {
            "name": "loop",
            "stream": dict(stream),
            **{name: dict(block) for name, block in blocks.items() if block},
            "strategies": {strategy: dict(options or {})},
            "final": {"seeds": [seed]},
        }
    )
    spec, root = _spec(sweep, strategy, seed, None, "final", data_root)
    return Trainer(spec, _source(sweep, spec, root), catalog=sweep.catalog, data_root=root)


def _source(sweep: SweepSpec, spec: TrialSpec, data_root: Path | None) -> LocalSource:
    config = stream_config(sweep.catalog, spec.stream)
    return LocalSource(sweep.catalog, config, spec.run_seeds, data_root, spec.train_on)


def _spec(
    sweep: SweepSpec,
    name: str,
    seed: int | RunSeeds,
    point: Mapping[str, Scalar] | None,
    phase: SweepPhase,
    data_root: str | Path | None,
) -> tuple[TrialSpec, Path | None]:
    given = data_root or default_data_root()
    root = None if given is None else Path(given).expanduser()
    sweep = pinned(sweep, root)
    entry = sweep.find(name)
    unknown = sorted(set(point or {}) - entry.space.keys())
    if unknown:
        searched = ", ".join(entry.space) or "nothing"
        raise UnknownName(f"{entry.key} searches {searched} (got {', '.join(unknown)}); set other values in the sweep")
    middle = {path: found.middle for path, found in entry.space.items()}
    return sweep.trial(entry, active(entry.space, {**middle, **(point or {})}), seed, phase, whole=True), root
