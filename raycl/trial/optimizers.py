"""The trainer's optimisers: built from what a strategy declares trainable, fused, reset or extended between tasks.

A gradient of zero is not no gradient: weight decay moves a row that no loss reaches, under Adam and RMSprop by a whole
learning rate in every update, and kept moments move it too. So a strategy says which rows of its head a task's losses
reach (:meth:`raycl.strategies.base.Strategy.learning_rows`), and where others could move, the optimiser steps views of
the rows in question. The other rows and their moments stay as they are, to the bit, and steps are counted for each
part on its own: as if every head were a parameter whose gradient is None while it is idle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from raycl.learning.fused import FusedOptimizer, ParameterState
from raycl.learning.restarts import SINCE, correct, restart
from raycl.learning.step_size import step_size
from raycl.spec.training import TrainingConfig
from raycl.strategies.base import Trainable
from raycl.strategies.context import EntryIndex

LearningRows = Mapping[nn.Parameter, Sequence[range]]
"""Parameters of which some rows only are reached by a loss; those that are missing learn as a whole."""

FEW_PIECES = 8
"""Of a long head, so many are stepped faster than the whole of it."""

Segments = list[tuple[range, ParameterState]]
"""What is kept for a parameter, by rows; rows that are missing have nothing."""


class OptimizerSet:
    """Optimisers by name.

    Args:
        training: settings of every optimiser that does not bring its own.
        long_head: idle rows are so many that they are left out even where a step would not move them.
    """

    def __init__(self, training: TrainingConfig, long_head: bool = False) -> None:
        self._training = training
        self._long_head = long_head
        self._optimizers: dict[str, _Optimizer] = {}
        self._parameters: list[nn.Parameter] = []

    def build(
        self, trainable: Mapping[str, Trainable], rows: LearningRows | None = None, keep_state: bool = False
    ) -> None:
        """Build all optimisers anew; with ``keep_state`` moments move over.

        Args:
            rows: what learns of parameters that do not learn as a whole.
        """
        before = self._optimizers
        keeps = keep_state or not self._training.reset_optimizer
        self._optimizers = {}
        for name, entry in trainable.items():
            if any(group["params"] for group in entry.groups):
                made = _Optimizer(entry, entry.training or self._training)
                kept = _handed_on(before[name], made) if keep_state and name in before else {}
                made.divide(kept, rows or {}, keeps, self._long_head)
                self._optimizers[name] = made
        self._parameters = [parameter for made in self._optimizers.values() for parameter in made.wholes]

    def zero_grad(self) -> None:
        for parameter in self._parameters:  # torch's own loop costs a small network's update several times as much
            parameter.grad = None

    def step(self, *names: str) -> None:
        """Clip the gradient where asked, then update."""
        for name in names or self._optimizers:
            self._optimizers[name].step()

    def __getitem__(self, name: str) -> FusedOptimizer:
        return self._optimizers[name].fused

    @property
    def steady(self) -> bool:
        """Whether no optimiser has a schedule."""
        return all(optimizer.settings.steady for optimizer in self._optimizers.values())

    def set_rates(self, factor: Callable[[TrainingConfig], float]) -> None:
        """Set every learning rate to its configured value times a factor.

        Args:
            factor: by an optimiser's settings.
        """
        for optimizer in self._optimizers.values():
            scale = factor(optimizer.settings)
            for group in optimizer.fused.param_groups:
                group["lr"] = group["base_lr"] * scale

    def parameters(self) -> list[nn.Parameter]:
        """All parameters in the optimisers."""
        return self._parameters

    def step_sizes(self, parameters: Sequence[Tensor]) -> list[Tensor | float]:
        """How far the step just made went for a steady gradient of 1, entry by entry; 0 for rows that did not learn.

        See :mod:`raycl.learning.step_size`; a single number where all entries have the same.
        """
        owner = {id(whole): made for made in self._optimizers.values() for whole in made.wholes}
        return [owner[id(parameter)].step_size(parameter) for parameter in parameters]

    def forget(self, parameter: nn.Parameter, index: EntryIndex) -> None:
        """Let entries of a parameter begin anew: no moments, and steps that count from here (Adam's).

        What is kept for all others stays. A parameter that no optimiser has is left alone.
        """
        entries = torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)
        entries[index] = True
        for optimizer in self._optimizers.values():
            optimizer.forget(parameter, entries)

    def lost_gradients(self) -> bool:
        """Whether the last gradients reached rows that are said not to learn, and so moved nothing."""
        return any(optimizer.lost_gradients() for optimizer in self._optimizers.values())

    def state_dict(self) -> dict[str, Any]:
        """Moments of each optimiser, by the parameters' order."""
        return {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore moments into optimisers built over the same parameters; :meth:`build` takes them over."""
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state[name])


@dataclass(frozen=True)
class _Piece:
    """Rows of a parameter as one of their own: a view, so that the whole moves along."""

    whole: nn.Parameter
    rows: range
    view: nn.Parameter


class _Optimizer:
    """An optimiser, which steps pieces of some of its parameters.

    Attributes:
        fused: the optimiser itself.
        settings: how it learns.
        wholes: the parameters, in the order of :meth:`state_dict`.
    """

    def __init__(self, trainable: Trainable, settings: TrainingConfig) -> None:
        self.fused = _fused(trainable, settings)
        self.settings = settings
        self._groups: list[list[nn.Parameter]] = [list(group["params"]) for group in self.fused.param_groups]
        self.wholes = [parameter for group in self._groups for parameter in group]
        self._pieces: list[_Piece] = []
        self._idle: dict[nn.Parameter, Segments] = {}
        self._divided: dict[nn.Parameter, Sequence[range]] = {}
        self._restarted: list[tuple[nn.Parameter, dict[str, Any]]] = []
        """Parameters, or pieces, some of whose entries count their own steps, and their groups."""

    def step(self) -> None:
        if self.settings.gradient_clip:
            for together in self._groups if self.settings.clip_by == "group" else [self.wholes]:
                nn.utils.clip_grad_norm_(together, self.settings.gradient_clip)
        for piece in self._pieces:
            gradient = piece.whole.grad
            piece.view.grad = None if gradient is None else gradient[piece.rows.start : piece.rows.stop]
        self.fused.step()
        for parameter, group in self._restarted:
            if parameter.grad is not None:
                correct(parameter, self.fused.state[parameter], group)

    def forget(self, whole: nn.Parameter, entries: Tensor) -> None:
        """Let entries, bool in the parameter's shape, begin anew."""
        if any(parameter is whole for parameter in self.wholes):
            for rows, state in self.segments(whole):
                restart(state, entries[rows.start : rows.stop] if whole.dim() else entries)
            self._find_restarted()

    def _find_restarted(self) -> None:
        states, groups = self.fused.state, self.fused.param_groups
        self._restarted = [(p, group) for group in groups for p in group["params"] if SINCE in states.get(p, {})]

    def lost_gradients(self) -> bool:
        """Whether gradients of rows that are not stepped are other than zero."""
        for whole, learning in self._divided.items():
            if whole.grad is not None:
                idle = torch.ones(_height(whole), dtype=torch.bool, device=whole.device)
                for rows in learning:
                    idle[rows.start : rows.stop] = False
                if bool(whole.grad[idle].any()):
                    return True
        return False

    def step_size(self, whole: Tensor) -> Tensor | float:
        """Of the step just made, ``[]`` or in the parameter's shape."""
        pieces = [piece for piece in self._pieces if piece.whole is whole]
        if not pieces:
            return step_size(self.fused, whole)
        sizes = torch.zeros_like(whole)
        for piece in pieces:
            sizes[piece.rows.start : piece.rows.stop] = step_size(self.fused, piece.view)
        return sizes

    # -- which rows learn ----------------------------------------------------------------------------------------

    def divide(self, kept: Mapping[nn.Parameter, Segments], rows: LearningRows, keeps: bool, long_head: bool) -> None:
        """Take moments over, and step views where rows that no loss reaches could move.

        Args:
            keeps: moments are handed on from task to task. Without them and without weight decay a gradient of zero
                moves nothing: then parameters stay whole, which is faster.
            long_head: it is not, unless those that learn lie scattered.
        """
        for group, wholes in zip(self.fused.param_groups, self._groups, strict=True):
            steps: list[nn.Parameter] = []
            for whole in wholes:
                learning, known = _within(rows.get(whole), _height(whole)), kept.get(whole, [])
                together = len(known) <= 1 and all(own.start == 0 for own, _ in known)
                if together and sum(map(len, learning)) == _height(whole):
                    for own, state in known:
                        self.fused.state[whole] = _padded(state, own, whole)
                elif known or keeps or group["weight_decay"] or (long_head and len(learning) <= FEW_PIECES):
                    steps += self._cut(whole, learning, known)
                    continue
                steps.append(whole)
            group["params"] = steps
        self._find_restarted()

    def _cut(self, whole: nn.Parameter, learning: Sequence[range], known: Segments) -> list[nn.Parameter]:
        """Views of the rows that learn, each of which has one state; what others have is laid aside."""
        self._divided[whole] = learning
        bounds = {0, _height(whole)} | {end for own in (*learning, *(rows for rows, _ in known)) for end in _ends(own)}
        views: list[nn.Parameter] = []
        for start, stop in pairwise(sorted(bounds)):
            own = range(start, stop)
            state = next((_sliced(state, rows, own) for rows, state in known if start in rows), None)
            if not any(start in rows for rows in learning):
                if state is not None:
                    self._idle.setdefault(whole, []).append((own, state))
                continue
            piece = _Piece(whole, own, nn.Parameter(whole.data[start:stop]))
            self._pieces.append(piece)
            views.append(piece.view)
            if state is not None:
                self.fused.state[piece.view] = state
        return views

    # -- state ---------------------------------------------------------------------------------------------------

    def segments(self, whole: nn.Parameter) -> Segments:
        """What is kept for a parameter, rows in order."""
        pieces = [(p.rows, self.fused.state.get(p.view)) for p in self._pieces if p.whole is whole]
        if not pieces and whole not in self._idle:
            pieces = [(range(_height(whole)), self.fused.state.get(whole))]
        found = [(rows, state) for rows, state in pieces if state] + self._idle.get(whole, [])
        return sorted(found, key=lambda segment: segment[0].start)

    def state_dict(self) -> dict[int, Any]:
        """By place: the state of a whole parameter, or ``rows`` of it with the state of each."""
        result: dict[int, Any] = {}
        for place, whole in enumerate(self.wholes):
            segments = self.segments(whole)
            if len(segments) == 1 and len(segments[0][0]) == _height(whole):
                result[place] = segments[0][1]
            elif segments:
                result[place] = {"rows": [{"ends": list(_ends(rows)), "state": state} for rows, state in segments]}
        return result

    def load_state_dict(self, state: Mapping[int, Any]) -> None:
        """Restore moments. Those of some rows are laid aside, as they were: which learn next is said by a new build."""
        self._pieces, self._idle, self._divided = [], {}, {}
        self.fused.state.clear()
        for place, found in state.items():
            whole = self.wholes[place]
            if "rows" in found:
                parts = [(range(*part["ends"]), self._placed(part["state"], whole)) for part in found["rows"]]
                self._idle[whole] = parts
            else:
                self.fused.state[whole] = self._placed(found, whole)

    def _placed(self, state: ParameterState, parameter: nn.Parameter) -> ParameterState:
        """On the parameter's device; RMSprop alone counts its steps here."""
        near = self.fused.name == "rmsprop"
        return {
            key: value.to(parameter.device) if isinstance(value, Tensor) and not (near and key == "step") else value
            for key, value in state.items()
        }


def _fused(trainable: Trainable, training: TrainingConfig) -> FusedOptimizer:
    groups = []
    for group in trainable.groups:
        rate = training.learning_rate * group.get("scale", 1.0)
        options = {"weight_decay": training.weight_decay, **group, "lr": rate, "base_lr": rate}
        if training.optimizer in ("sgd", "rmsprop"):
            options.setdefault("momentum", training.momentum)
        if training.optimizer == "sgd":
            options.setdefault("nesterov", training.nesterov and options["momentum"] > 0)
        if training.optimizer in ("adam", "adamw"):
            options.setdefault("betas", training.betas)
        options.pop("scale", None)
        groups.append(options)
    return FusedOptimizer(training.optimizer, groups)


def _handed_on(before: _Optimizer, after: _Optimizer) -> dict[nn.Parameter, Segments]:
    """What new parameters take over. One that has grown is a new one; in order, it takes the place of one gone."""
    old, new = before.wholes, after.wholes
    stayed = {id(parameter) for parameter in old} & {id(parameter) for parameter in new}
    gone, come = ([p for p in each if id(p) not in stayed] for each in (old, new))
    pairs = [(parameter, parameter) for parameter in new if id(parameter) in stayed]
    kept = {}
    for source, target in [*pairs, *zip(gone, come, strict=False)]:
        grown = source.dim() > 0 and source.shape[1:] == target.shape[1:] and len(source) <= len(target)
        if grown or source.shape == target.shape:
            kept[target] = before.segments(source)
    return kept


def _within(rows: Sequence[range] | None, height: int) -> list[range]:
    """Ranges of rows in order, those that touch joined, none beyond the last row; None: all rows."""
    joined: list[range] = []
    for own in sorted(rows, key=lambda own: own.start) if rows is not None else [range(height)]:
        start, stop = own.start, min(own.stop, height)
        if joined and start <= joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(stop, joined[-1].stop))
        elif start < stop:
            joined.append(range(start, stop))
    return joined


def _height(parameter: Tensor) -> int:
    """Rows; a single number is one."""
    return len(parameter) if parameter.dim() else 1


def _ends(rows: range) -> tuple[int, int]:
    return rows.start, rows.stop


def _sliced(state: ParameterState, rows: range, part: range) -> ParameterState:
    """The state of a part of the rows that it is the state of; a count of steps is copied."""
    here = slice(part.start - rows.start, part.stop - rows.start)
    return {
        key: (value[here] if value.dim() else value).clone() if isinstance(value, Tensor) else value
        for key, value in state.items()
    }


def _padded(state: ParameterState, rows: range, whole: Tensor) -> ParameterState:
    """The state of the first rows as that of all: the moments of new rows begin at zero."""
    if len(rows) == _height(whole):
        return dict(state)
    result = dict(state)
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim():
            result[key] = torch.zeros_like(whole)
            result[key][: len(rows)] = value
    return result
