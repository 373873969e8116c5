"""What a method is: options, a class with a few override points, and phases that the trainer runs.

The trainer owns the loops, the strategy owns the update. Override points, from small to large: :meth:`Strategy.loss`,
:meth:`~Strategy.edit_gradients`, :meth:`~Strategy.after_update`, :meth:`~Strategy.step`, :meth:`~Strategy.phases`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.learning.labels import cross_entropy
from raycl.memory.buffer import ReplayBuffer, Table
from raycl.memory.selection import rows_kept
from raycl.models.network import Network
from raycl.spec.acting import ActsFrom
from raycl.spec.memory import MemoryConfig
from raycl.spec.needs import Idle, Need
from raycl.spec.options import Options
from raycl.spec.protocols import Decay
from raycl.spec.revisions import Change
from raycl.strategies.context import Context, NewNetwork, Optimizers, TaskData, nested_bytes
from raycl.strategies.phases import (
    Epochs,
    Length,
    Losses,
    Phase,
    Position,
    Rows,
    Share,
    Source,
    Trainable,
    Updates,
    total,
)
from raycl.streams.scenario import Scenario
from raycl.streams.task import Batch

__all__ = [
    "Context",
    "Epochs",
    "Length",
    "Losses",
    "NewNetwork",
    "Optimizers",
    "Phase",
    "Position",
    "Rows",
    "Share",
    "Source",
    "Strategy",
    "StrategyConfig",
    "TaskData",
    "Trainable",
    "Updates",
    "nested_bytes",
    "total",
]
"""All that a method is written with, wherever it stands."""


class StrategyConfig(Options):
    """Base of every strategy's options."""


class Strategy:
    """Base of every method. The default is naive fine-tuning of one network."""

    Config: ClassVar[type[StrategyConfig]] = StrategyConfig
    scenarios: ClassVar[frozenset[str]] = frozenset({"task", "domain", "class"})
    paper: ClassVar[str] = ""
    revision: ClassVar[int] = 1
    """Raised when the same options would leave other numbers than before; part of a trial's hash from 2 on."""
    changes: ClassVar[tuple[Change, ...]] = ()
    """Such changes that touch some of the method's trials only."""
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """What ``auto`` means for this method where its paper departs from the general meaning: scenario -> dotted path ->
    value."""
    idle_rows: ClassVar[Literal["by policy", "always", "never"]] = "by policy"
    """When a task's losses leave rows of a head untouched that other tasks use: where ``active_logits`` says so, in
    every scenario, or never, as each task has parameters of its own or losses over all units."""
    upper_bound: ClassVar[bool] = False
    """May ask for ``Source.SEEN`` or ``Source.ALL``; marked in every result."""
    at_once: ClassVar[bool] = False
    """Learns all tasks together, once the last has come."""
    boundary_free: ClassVar[bool] = False
    """Needs no word of where a task ends."""
    inference_batch: int = 1
    """Rows pooled per prediction when the task id is hidden."""
    uses_memory: ClassVar[bool] = False
    remembers: ClassVar[Literal["examples", "features"]] = "examples"
    """What the rows of the memory show: images as the stream has them, or what the method has made of them."""
    selection: ClassVar[str] = "reservoir"
    """The method's own selection rule, taken where ``memory.selection`` is ``auto``."""
    pretrained: ClassVar[bool] = True
    """Can start from ``model.weights``; not where the weights are made by something else."""
    zero_shot: ClassVar[bool] = True
    """Can answer for tasks that have not begun, where the scenario's output units exist."""
    diagnosable: ClassVar[bool] = True
    """Whether ``network`` is, as it stands, what the next task begins with, for ``evaluation.diagnostics``: not where
    its weights are masked, gated or generated, or where every task has a network of its own."""
    compresses: ClassVar[bool] = False
    """Has a compression ratio, for ``limits.max_compression_ratio``."""
    one_pass: ClassVar[bool] = True
    """Learns a task by passes over its rows as they come, which ``training.real_time`` asks for."""
    smooths_labels: ClassVar[bool] = True
    """Learns labels by :meth:`label_loss`, which ``training.label_smoothing`` smooths."""
    keeps_best: ClassVar[bool] = True
    """A task may end with the weights of an earlier pass (``training.keep_best``): nothing else that the method keeps
    of a task adds up over its updates."""
    divisible: ClassVar[bool] = True
    """An update on a part of a batch costs that part: the last one of ``training.budget`` is cut to what is left."""
    offers: ClassVar[Literal["batch", "task"]] = "batch"
    """When rows are offered to the memory."""
    passes: ClassVar[tuple[str, ...]] = ("loss", "predict")
    """The functions in which networks compute as ``training.precision`` says. What else passes through them is float32:
    teachers' targets, importances, gradients of a memory, herding."""
    needs: ClassVar[tuple[Need, ...]] = ()
    """What must hold of the other blocks; refused otherwise, with the remedy."""
    ignores: ClassVar[tuple[Idle, ...]] = ()
    """Options that do nothing for this method: not searched, and warned of where they are written for it."""
    acts_from: ClassVar[Mapping[str, ActsFrom]] = {}
    """Options that cannot change a row of the matrix before some task, counted from 1 (:mod:`raycl.spec.acting`)."""
    between_tasks: ClassVar[tuple[str, ...]] = ()
    """Options that may have another value from one task to the next: a penalty, not a width."""
    stability: ClassVar[tuple[Decay, ...] | None] = None
    """Options by which the method holds on to old tasks, for the protocol ``stability_decay``; none where it learns as
    freely as it can; None: the protocol is not for it."""
    plastic: ClassVar[Mapping[str, Any] | None] = None
    """Options under which nothing holds it back, for the same protocol; default: :attr:`naive_when`."""
    naive_when: ClassVar[Mapping[str, Any] | None] = None
    """Options under which the method must equal naive fine-tuning bit for bit: ``{"penalty": 0.0}``."""

    def __init__(self, config: Any, context: Context) -> None:
        if reason := self.unfit(config, context.scenario):
            raise MethodError(f"{type(self).__name__.lower()}: {reason}")
        self.config = config
        self.context = context
        self.network = context.new_network()
        self.task = -1
        if context.precision is not None:
            for name in self.passes:
                setattr(self, name, context.precision(getattr(self, name)))

    @classmethod
    def unfit(cls, config: Any, scenario: Scenario) -> str | None:
        """Why the method cannot work on tasks laid out like this, with the remedy; None where it can.

        A rule of the method alone: it is asked before any network is built.
        """
        return None

    @property
    def memory(self) -> ReplayBuffer:
        """The replay memory of a method that uses one."""
        memory = self.context.memory
        assert memory is not None, "set uses_memory on the strategy's class"
        return memory

    @classmethod
    def remembered(cls, memory: MemoryConfig, selection: str, offered: Sequence[Mapping[int, int]]) -> tuple[int, int]:
        """What the replay memory holds once every task has offered so many rows of each label, known without learning.

        Args:
            selection: the name of its policy.

        Returns:
            Its rows, and the bytes that the method keeps beside them which do not grow evenly with the rows.
        """
        return rows_kept(selection, memory.examples, memory.unit, offered), 0

    # -- growth and optimisation -------------------------------------------------------------------------------

    def grow(self, task: int) -> None:
        """Add the parameters the task needs, nothing else. A restore replays it for every task begun."""
        self.task = task
        self.network.grow_head(self.context.scenario.outputs(task))

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        """The optimisers and their parameter groups; the trainer builds, extends or resets all of them."""
        return {"network": Trainable.of(p for p in self.network.parameters() if p.requires_grad)}

    def learning_rows(self, task: int) -> Mapping[nn.Parameter, Sequence[range]]:
        """Parameters of which a task's losses reach some rows only, and which; rows of the others stay as they are.

        Weight decay and moments would move them without any loss. To be known when optimisers are built.
        """
        units, head = self.learning_units(task), self.network.head
        if units is None or head.outputs != self.context.scenario.outputs(task):  # else it is not one for all tasks
            return {}
        return dict.fromkeys(head.parameters(), units)

    def learning_units(self, task: int) -> Sequence[range] | None:
        """Output units whose rows of the head the losses of a task reach; None: all.

        Those that compete in :meth:`cross_entropy`, for the task's rows and for rows in the memory. A method whose
        losses reach others, or that adds gradients to them, says so; gradients that would move nothing are refused.
        """
        scenario, old = self.context.scenario, self.rehearsed()
        if scenario.policy not in ("own", "current") or self.upper_bound:
            return None
        if scenario.policy == "current" and old:
            return None
        return [scenario.units(each) for each in sorted({task, *old})]

    def rehearsed(self) -> set[int]:
        """The tasks whose rows are learned once more, from the memory."""
        return set(self.memory.tasks.tolist()) if self.uses_memory else set()

    # -- the task ----------------------------------------------------------------------------------------------

    def begin_task(self, task: int, data: TaskData) -> None:
        """Make teachers, masks and targets of old tasks. Parameters have grown, optimisers exist."""

    def phases(self, task: int) -> Sequence[Phase]:
        """The loops of this task, in order. Lengths come from ``training`` by :meth:`length`."""
        return (Phase("train", self.length()),)

    def length(self) -> Length:
        """``training.epochs``, ``training.iterations`` or ``training.budget``."""
        training = self.context.training
        if training.budget is not None:
            return Share(training.budget.examples)
        return Updates(training.iterations) if training.iterations is not None else Epochs(training.epochs or 1)

    def measured(self, task: int) -> bool:
        """Whether the network means something after this task. False leaves the matrix row out (joint training)."""
        return True

    def end_task(self, task: int, data: TaskData) -> None:
        """Fisher information, herding, consolidation. The training data of the task is at hand once more."""

    # -- the update --------------------------------------------------------------------------------------------

    def step(self, batch: Batch, at: Position) -> Losses:
        """One update. Returns the named losses, detached."""
        batch = self.draw(batch, at)
        losses = self.loss(batch)
        optimizers = self.context.optimizers
        optimizers.zero_grad()
        total(losses).backward()
        self.edit_gradients(batch, at)
        optimizers.step()
        self.after_update(batch, at)
        self.remember(batch, at)
        return {name: value.detach() for name, value in losses.items()}

    def draw(self, batch: Batch, at: Position) -> Batch:
        """Add replayed rows to the new ones. Default: none."""
        return batch

    def loss(self, batch: Batch) -> Losses:
        """Named loss parts; ``batch.replayed`` tells memory rows apart."""
        if self._long_head and batch.only == self.task:
            units = self.context.scenario.units(self.task)
            logits = self.network(batch.x, units)
            return {"task": self.label_loss(logits, batch.y - units.start)}
        return {"task": self.cross_entropy(self.network(batch.x), batch)}

    @property
    def _long_head(self) -> bool:
        """Whether the network's head is one for all tasks, of which a long stream leaves most units alone."""
        scenario, network = self.context.scenario, self.network
        plain = type(network).forward is Network.forward  # which can leave units out
        return scenario.long_head and plain and network.head.outputs == scenario.outputs(self.task)

    def edit_gradients(self, batch: Batch, at: Position) -> None:
        """Project or mask gradients, or add closed-form gradients of penalties, in place.

        What reaches rows of a head beyond those of :meth:`learning_units` belongs there too.
        """

    def after_update(self, batch: Batch, at: Position) -> None:
        """Clamp, restore frozen entries, integrate paths."""

    def remember(self, batch: Batch, at: Position) -> None:
        """Offer the new rows to the memory."""

    def offered(self, at: Position) -> slice | Tensor | None:
        """Which new rows of an update ``memory.insert`` offers to the memory: all, a mask ``[batch]``, or none."""
        if at.epoch == 0 or self.context.memory_config.insert == "every_epoch":
            return slice(None)
        return at.late

    def offer(self, rows: Table, at: Position) -> None:
        """Offer those new rows of an update to the memory that ``memory.insert`` asks for."""
        chosen = self.offered(at)
        if isinstance(chosen, Tensor):
            rows = {name: column[chosen] for name, column in rows.items()}
        if chosen is not None:
            self.memory.add(rows)

    def replayed(self, rows: Table) -> Batch:
        """Rows of the memory as a batch: normalised, augmented anew, marked as replayed."""
        context = self.context
        if context.device.type != "cpu":  # where memories are
            rows = {name: column.to(context.device) for name, column in rows.items()}
        columns = dict(rows)
        image, y, task = columns.pop("image"), columns.pop("label"), columns.pop("task")
        marks = torch.ones(y.shape, dtype=torch.bool, device=y.device)
        return Batch(image, context.augment(context.normalize(image)), y, task, marks, columns)

    def cross_entropy(self, logits: Tensor, batch: Batch, reduction: str = "mean") -> Tensor:
        """Cross-entropy ``[]`` (or ``[batch]``) over the active units of each row.

        With ``active_logits: current`` replayed rows, and those of other tasks, compete among all units seen, as in
        Caccia et al. 2022.
        """
        scenario = self.context.scenario
        if scenario.policy in ("all", "seen") and logits.shape[1] == scenario.outputs(self.task):
            return self.label_loss(logits, batch.y, reduction=reduction)
        mask = scenario.mask(batch.task, scenario.policy, self.task)
        if scenario.policy == "current":  # the unit of a row of another task is not among the current task's
            others = batch.replayed | (batch.task != self.task)
            mask = torch.where(others[:, None], scenario.mask(batch.task, "seen", self.task), mask)
        return self.label_loss(logits, batch.y, mask, reduction)

    def label_loss(self, logits: Tensor, y: Tensor, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
        """Cross-entropy to labels over the units of a mask ``[batch, units]``, or all of them, smoothed where asked."""
        return cross_entropy(logits, y, self.context.training.label_smoothing, mask, reduction)

    @property
    def learning_rate(self) -> float:
        """Of the network's own optimiser, as it is in this update."""
        rate: float = self.context.optimizers["network"].param_groups[0]["lr"]
        return rate

    def remedy(self) -> str:
        """What helps where losses or parameters do not stay finite."""
        return "lower training.learning_rate or the method's strength"

    # -- prediction and state ----------------------------------------------------------------------------------

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        """Logits ``[batch, outputs so far]``, in evaluation mode and under ``no_grad``; ``task`` is None where hidden.

        Row i may depend on ``x[i]`` only (or on ``inference_batch`` rows): a batch that happens to hold one task
        must not leak its id. The evaluator masks units that the scenario rules out.
        """
        if task is not None and self._long_head:
            return self.network.head.alone(self.network.backbone(x), self.context.scenario.units(task))
        logits: Tensor = self.network(x)
        return logits

    @property
    def ignores_task(self) -> bool:
        """Whether :meth:`predict` answers alike whatever task it is told; then rows of several tasks share a batch.

        A method that overrides :meth:`predict` says so itself.
        """
        return type(self).predict is Strategy.predict and not self.context.scenario.long_head

    def train(self, mode: bool) -> None:
        """Switch every network that is an attribute to training or evaluation mode."""
        for value in vars(self).values():
            if isinstance(value, nn.Module):
                value.train(mode)

    def active_logits(self) -> str:
        """The active-logit policy of training, recorded with results."""
        return self.context.scenario.policy

    def measures(self) -> Mapping[str, float]:
        """Named numbers of the method's own after the task just learned, kept with its row: ``free_weights``."""
        return {}

    def warnings(self) -> Sequence[str]:
        """What has happened up to the task just learned that makes the method less than it is named for.

        Each in one line, with its remedy; they are logged once and stand in the trial's provenance. They follow from
        the state, and change nothing.
        """
        return ()

    def parameter_count(self) -> int:
        """Trainable numbers of the method as it stands."""
        return sum(p.numel() for p in self.network.parameters())

    def compression_ratio(self) -> float | None:
        """Trainable over target weights, of methods that generate the weights of a target network."""
        return None

    def state_bytes(self) -> int:
        """Bytes the method keeps between tasks, without the replay memory: parameters, masks, teachers, importances."""
        return nested_bytes(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the future, as nested dicts of tensors, numbers, strings and lists."""
        return {"network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict` into a fresh strategy that has grown through the same tasks."""
        self.network.load_state_dict(state["network"])
