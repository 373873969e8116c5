"""What a method's learning costs, whichever way it is written: rows through the trial's networks, and seconds.

Gauges hang in the networks themselves, as hooks, so that replays, teachers, generated rows, memory gradients and passes
for importances count without the method's doing. Copies of a network keep its gauges.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from torch import Tensor, nn
from torch._C._functorch import get_unwrapped, is_batchedtensor, maybe_get_bdim
from torch._C._functorch import is_functorch_wrapped_tensor as wrapped


class Meter:
    """Forward and backward rows of all networks that are watched.

    One row through one network is one forward, and its backward one gradient; k backward passes of one row, as for the
    exact Fisher information over k units, are k, and what has a closed form, as that of an MLP, is none: its seconds
    tell. A row counts as well where a part of a network runs alone; parts that run in the same phase, such as a frozen
    trunk and the head above it, are one pass, and the part that saw most rows says how many. What makes weights from
    embeddings is no network in this sense: no example passes through it.
    """

    def __init__(self) -> None:
        self.is_paused = False
        self._forwards = 0
        self._gradients = 0
        self._tallies: list[_Tally] = []
        self._known: WeakSet[nn.Module] = WeakSet()
        self._networks: WeakKeyDictionary[nn.Module, _Tally] = WeakKeyDictionary()

    # -- networks ----------------------------------------------------------------------------------------------

    def watch(self, *parts: nn.Module) -> None:
        """Count the rows through one network.

        Args:
            parts: modules of which every pass, through the whole network or a part of it, runs one at least. Their
                outputs are ``[batch, *]``, or have as many leading dimensions of rows as an attribute ``row_dims`` of
                the module says.
        """
        self._tallies.append(_Tally())
        for part in parts:
            self._add(part, self._tallies[-1])

    def _add(self, part: nn.Module, tally: _Tally) -> None:
        part.register_forward_hook(_Gauge(self, tally, tally.add_part(), getattr(part, "row_dims", 1)))
        self._known.update(part.modules())

    def watch_network(self, network: nn.Module) -> None:
        """:meth:`watch` a network by its first and its last layer."""
        layers = [module for module in network.modules() if _holds_weights(module)]
        layers = layers or [module for module in network.modules() if not list(module.children())]
        self.watch(*dict.fromkeys((layers[0], layers[-1])))
        self._known.update(network.modules())
        self._networks[network] = self._tallies[-1]

    def watch_attributes(self, owner: object) -> None:
        """:meth:`watch_network` every module with weights that is an attribute, or in one, and is not watched yet.

        A module of a single layer is taken for a head, which is a part of the owner's network.
        """
        found = [module for value in vars(owner).values() for module in _modules(value)]
        home = next((self._networks[module] for module in found if module in self._networks), None)
        for module in found:
            layers = [] if self._watches(module) else [part for part in module.modules() if _holds_weights(part)]
            if len(layers) == 1 and home is not None:
                self._add(layers[0], home)
                self._known.update(module.modules())
            elif layers:
                self.watch_network(module)

    def _watches(self, module: nn.Module) -> bool:
        """Whether a network that is watched shares modules with this one, or this one is a copy of it."""
        return any(
            part in self._known or any(isinstance(hook, _Gauge) for hook in part._forward_hooks.values())
            for part in module.modules()
        )

    # -- counts ------------------------------------------------------------------------------------------------

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing counts for the duration: evaluation is no part of what learning costs."""
        before, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = before

    def settle(self) -> None:
        """End a phase, or whatever else a method does at one go: parts that run from now on are another pass."""
        for tally in self._tallies:
            self._forwards += max(tally.forwards)
            self._gradients += max(tally.gradients)
            tally.forwards[:] = tally.gradients[:] = [0] * len(tally.forwards)

    def so_far(self) -> tuple[int, int]:
        """Rows forward and backward since :meth:`reset`, as if the meter were settled now."""
        forwards = sum(max(tally.forwards) for tally in self._tallies)
        gradients = sum(max(tally.gradients) for tally in self._tallies)
        return self._forwards + forwards, self._gradients + gradients

    def reset(self) -> None:
        """Begin at 0."""
        self.settle()
        self._forwards = self._gradients = 0

    @property
    def forwards(self) -> int:
        """Rows forward since :meth:`reset`, up to the last :meth:`settle`."""
        return self._forwards

    @property
    def gradients(self) -> int:
        """Rows backward since :meth:`reset`, up to the last :meth:`settle`."""
        return self._gradients


class TaskClock:
    """Seconds since its creation, of the wall and of this process, less those for which it was stopped."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave the duration out."""
        wall, cpu = self.wall(), self.cpu()
        yield
        self._wall, self._cpu = time.perf_counter() - wall, time.process_time() - cpu

    def wall(self) -> float:
        return time.perf_counter() - self._wall

    def cpu(self) -> float:
        return time.process_time() - self._cpu


class _Tally:
    """What passed each part of one network, and of its copies, since the meter was settled."""

    def __init__(self) -> None:
        self.forwards: list[int] = []
        self.gradients: list[int] = []

    def add_part(self) -> int:
        """Make room for one more part; returns its place."""
        self.forwards.append(0)
        self.gradients.append(0)
        return len(self.forwards) - 1


class _Gauge:
    """A forward hook that counts a part's rows, and hangs a hook on its output that counts their gradients.

    Two of them run in every update, so that they do next to nothing.
    """

    __slots__ = ("_dims", "_forwards", "_gradients", "_meter", "_place")

    def __init__(self, meter: Meter, tally: _Tally, place: int, dims: int) -> None:
        self._meter = meter
        self._forwards, self._gradients = tally.forwards, tally.gradients
        self._place = place
        self._dims = dims

    def __deepcopy__(self, memo: dict[int, Any]) -> _Gauge:
        return self

    def __call__(self, module: nn.Module, inputs: object, output: Any) -> None:
        if self._meter.is_paused:
            return
        value = output[0] if type(output) is tuple else output
        rows = value.size(0) if self._dims == 1 else math.prod(value.shape[: self._dims])
        if wrapped(value):
            rows *= _side_by_side(value)
        self._forwards[self._place] += rows
        if value.requires_grad:
            value.register_hook(self._returned)

    def _returned(self, gradient: Tensor) -> None:
        rows = gradient.size(0) if self._dims == 1 else math.prod(gradient.shape[: self._dims])
        if wrapped(gradient):
            rows *= _side_by_side(gradient)
        self._gradients[self._place] += rows


def _side_by_side(value: Tensor) -> int:
    """How many such tensors ``torch.func.vmap`` holds at once: it shows one of them."""
    times = 1
    while wrapped(value):
        inner = get_unwrapped(value)
        if is_batchedtensor(value):
            times *= inner.shape[maybe_get_bdim(value)]
        value = inner
    return times


def _modules(value: object) -> Iterator[nn.Module]:
    """The modules that are a value, or stand in it; a container of modules is no network, and may grow."""
    if isinstance(value, nn.ModuleList):
        value = list(value)
    elif isinstance(value, nn.ModuleDict):
        value = dict(value.items())
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            if isinstance(inner, (nn.Module, list, tuple, dict)):
                yield from _modules(inner)


def _holds_weights(module: nn.Module) -> bool:
    """Whether the module itself, not one within it, has parameters."""
    return any(True for _ in module.parameters(recurse=False))
