"""One trial from its stored state to its verdict: restore, learn a task, store it, and decide whether to go on."""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

import raycl
from raycl.errors import DataError, InfrastructureError, MethodError, StoreError, UnknownName
from raycl.matrix import Curve, TaskRow, Verdict, cut_after
from raycl.memory.local import Storage
from raycl.spec.fingerprint import commit
from raycl.spec.setting import Registries
from raycl.spec.sweep_options import DEFAULT_METRIC
from raycl.spec.trial import TrialSpec
from raycl.streams.task import TaskSource
from raycl.trial import checkpoint
from raycl.trial.choosing import Chooser
from raycl.trial.device import processor
from raycl.trial.keeper import Keeper
from raycl.trial.provenance import trial_code, trial_packages
from raycl.trial.trainer import Trainer

INFRASTRUCTURE: tuple[type[Exception], ...] = (InfrastructureError, StoreError, DataError, OSError)
EXHAUSTED: tuple[type[Exception], ...] = (MemoryError, torch.OutOfMemoryError)
SURROUNDINGS = (
    "DefaultCPUAllocator: can't allocate memory",
    "can't start new thread",
    "CUDA error",
    "CUDA driver",
    "NVIDIA driver",
    "CUDA-capable device",
    "STATUS_ALLOC_FAILED",
    "STATUS_NOT_INITIALIZED",
)
"""What torch says where memory, a driver or a device is missing: it has no class of its own for these."""
ASSERTED = "device-side assert"
"""A kernel was given what it cannot take, an index out of range for example: the method's own mistake."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a trial stands after a task.

    Attributes:
        task: the last task learned; -1 before the first.
        metric: the search metric after it; None where the method leaves no row yet.
        verdict: why the trial has ended; None while it goes on.
    """

    task: int
    num_tasks: int
    metric: float | None
    verdict: Verdict | None


class Learner(Protocol):
    """Learns a trial task by task: a trainer, or a chooser over many."""

    @property
    def committed(self) -> Trainer:
        """Holds what was learned last."""
        ...

    def run_task(self) -> list[TaskRow]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class TrialSession:
    """Runs one trial task by task; everything it learns is kept before it is reported.

    The trial is built in its first step, so that whatever goes wrong is sorted: what says something about the method
    becomes a verdict, and the rest is raised.

    Args:
        keeper: of what the trial leaves; where it holds a state, the trial goes on from there.
        metric: what a search maximises: a name that :meth:`raycl.matrix.AccuracyMatrix.curve` knows.
        cutoffs: task -> least metric to go on with; the trial ends itself as pruned below it.
        catalog: where the trial's parts are registered; default: this installation's.
        storage: of the replay memory.
        data_root: below which pretrained weights lie.
        lost: errors that say nothing about the method; they are raised, and the trial may run again.
    """

    def __init__(
        self,
        source: TaskSource,
        keeper: Keeper[Any],
        *,
        metric: str = DEFAULT_METRIC,
        cutoffs: Mapping[int, float] | None = None,
        catalog: Registries | None = None,
        storage: Storage | None = None,
        device: torch.device | None = None,
        data_root: Path | None = None,
        lost: tuple[type[Exception], ...] = INFRASTRUCTURE,
    ) -> None:
        self._lost = lost
        self._keeper = keeper
        self._metric = metric
        self._cutoffs = dict(cutoffs or {})

        def trainer(spec: TrialSpec, rows: TaskSource) -> Trainer:
            return Trainer(spec, rows, catalog=catalog, storage=storage, device=device, data_root=data_root)

        def learner() -> Learner:
            spec = keeper.spec
            return trainer(spec, source) if spec.choosing is None else Chooser(spec, source, trainer)

        self._new_learner: Callable[[], Learner] = learner
        self._learner: Learner | None = None
        self._attempt = 0
        self._curve = Curve(metric)
        self._warnings: tuple[str, ...] = ()

    @property
    def trainer(self) -> Trainer | None:
        """The trial as it stands; None before its first step."""
        return None if self._learner is None else self._learner.committed

    def step(self) -> Progress:
        """Learn the next task, keep its row and the state after it, and judge.

        A failure of the method becomes a verdict; a loss of infrastructure, storage or data is raised, and so is a want
        of memory, driver or device.

        Raises:
            InfrastructureError: the surroundings failed, and the trial may go on elsewhere.
        """
        learned = -1
        try:
            learner = self._learner or self._open()
            learned = learner.committed.next_task - 1
            known = self._judge(learner.committed)
            if known is not None:
                return self._ended(known)
            rows = learner.run_task()
            self._curve.add(rows)
            state = checkpoint.encode(learner.state_dict())
        except self._lost:
            raise
        except Exception as error:  # whatever else a method raises, it would raise again
            if says_nothing_of_the_method(error):
                raise lost_to_the_surroundings(error) from error
            log.warning("%s failed in task %d", self._keeper.spec.alias, learned + 1, exc_info=error)
            return self._ended(Verdict("failed", _reason(error), None, learned), traceback_of(error))
        trainer = learner.committed
        self._warn(trainer)
        self._keeper.write_task(self._attempt, trainer.next_task - 1, rows, state, self._provenance())
        verdict = self._judge(trainer)
        return self._ended(verdict) if verdict is not None else self._progress(None)

    def close(self) -> None:
        """Give back what the trial holds outside its keeper."""
        if self._learner is not None:
            self._learner.close()

    def _open(self) -> Learner:
        """Build the trial, and go on from what is kept of it."""
        self._attempt = self._keeper.begin()
        learner = self._learner = self._new_learner()
        restored = self._keeper.restore()
        if restored is not None:
            mark, files = restored
            learner.load_state_dict(checkpoint.decode(files))
            self._curve.add(self._keeper.rows(mark))
            self._warnings = tuple(mark.extra.get("warnings", ()))
        return learner

    def _warn(self, trainer: Trainer) -> None:
        """Log what the method tells of its state after a task, each once, and keep it with the results."""
        fresh = [text for text in trainer.strategy.warnings() if text not in self._warnings]
        for text in fresh:
            log.warning("%s: %s", self._keeper.spec.alias, text)
        self._warnings = (*self._warnings, *fresh)

    def _judge(self, trainer: Trainer) -> Verdict | None:
        """The verdict that the rows and the cut-offs imply; None while the trial should go on."""
        learned = trainer.next_task - 1
        curve = self._curve.values
        cut = cut_after(curve, self._cutoffs, trainer.learned)
        if cut is not None:
            reason = f"{self._metric} below {self._cutoffs[cut]:.4f} after task {cut}"
            return Verdict("pruned", reason, curve[cut], cut)
        if trainer.done:
            return Verdict("finished", "", curve.get(learned), learned)
        return None

    def _ended(self, verdict: Verdict, where: str = "") -> Progress:
        self._keeper.finish(verdict, self._provenance(), where)
        return self._progress(verdict)

    def _progress(self, verdict: Verdict | None) -> Progress:
        trainer = self.trainer
        if trainer is None:
            return Progress(-1, 0, None, verdict)
        task = trainer.next_task - 1
        return Progress(task, trainer.learned, self._curve.values.get(task), verdict)

    def _provenance(self) -> dict[str, Any]:
        """What the results record beside the specification."""
        trainer = self.trainer
        if trainer is None:
            return {}
        seen = {"weights_seen": trainer.weights_seen} if trainer.weights_seen else {}
        part = trainer.trial.evaluation.told(trainer.num_tasks)
        return {
            **seen,
            **({"measured": part} if part else {}),
            "raycl": raycl.__version__,
            "commit": commit(),
            "code": " ".join(f"{part}:{name}" for part, name in trial_code(trainer.trial, trainer.catalog).items()),
            "data": trainer.layout.data_digest,
            "packages": trial_packages(trainer.trial, trainer.catalog),
            "resolved": trainer.resolved,
            "num_tasks": trainer.num_tasks,
            "split_hash": trainer.layout.split_hash,
            "active_logits": trainer.strategy.active_logits(),
            "inference_batch": trainer.strategy.inference_batch,
            "upper_bound": trainer.strategy.upper_bound,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "cpu_capability": processor(),
            **({"warnings": list(self._warnings)} if self._warnings else {}),
        }


def says_nothing_of_the_method(error: Exception) -> bool:
    """Whether an error tells of a machine that lacks memory, a driver, a device or a plug-in, and not of the method.

    A trial that ran out of memory beside others may well finish alone, or on a larger machine; told to a search as a
    failure, it would drive the search away from large networks on small machines.
    """
    if isinstance(error, (*EXHAUSTED, UnknownName)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ASSERTED not in text and any(sign in text for sign in SURROUNDINGS)


def lost_to_the_surroundings(error: Exception) -> InfrastructureError:
    """What is raised instead, in one line, with the remedy."""
    told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    remedy = "run fewer trials at the same time (--max-concurrent), or on larger machines"
    if isinstance(error, UnknownName):
        remedy = "install the same raycl and the same plug-ins on every machine"
    elif not isinstance(error, EXHAUSTED) and "alloc" not in told:
        remedy = "see to this machine's driver and devices, or take it out of the cluster"
    return InfrastructureError(f"{socket.gethostname()}: {told}; {remedy}")


def traceback_of(error: Exception) -> str:
    """The traceback that is stored beside a failure."""
    return "".join(traceback.format_exception(error))


def _reason(error: Exception) -> str:
    """What a verdict says of an error; a method's own errors speak for themselves."""
    return str(error) if isinstance(error, MethodError) else f"{type(error).__name__}: {error}"
