"""Builds every method of a sweep once, with its network and without data: what only a built network can refuse.

``raycl check`` and every run of a sweep come by here. What the file alone can tell is refused when it is read
(:mod:`raycl.spec.check`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from raycl.addresses import expanded
from raycl.catalog import catalog as installed
from raycl.errors import DataError, MethodError, Problem, SpecError, UnknownName
from raycl.matrix import Cost
from raycl.models.network import Network
from raycl.models.weights import check_name
from raycl.spec.check import Extents
from raycl.spec.options import ModelConfig
from raycl.spec.points import active
from raycl.spec.setting import Registries
from raycl.spec.source import SweepSource, parse, read
from raycl.spec.sweep import Entry, SweepSpec
from raycl.spec.sweep_options import LimitsConfig
from raycl.spec.trial import Scalar, TrialSpec
from raycl.streams.source import Outline, stream_outline
from raycl.streams.task import Layout, Part, SplitName, TaskSource
from raycl.trial.room import needs
from raycl.trial.trainer import Trainer, TrialRehearsal

LARGEST_BUILD = 50_000_000
"""Numbers of one method that are built to be looked at, 200 MB of float32."""
LARGEST_TOTAL = 100_000_000
"""Numbers of all methods of a sweep; each costs some 10 ns to draw."""
MOST_BUILDS = 200

_FACTORIES = (
    "empty",
    "zeros",
    "ones",
    "full",
    "rand",
    "randn",
    "eye",
    "new_empty",
    "new_zeros",
    "new_ones",
    "new_full",
)


def build_all(sweep: SweepSpec) -> tuple[str, ...]:
    """Build every method once with its network, where its images' shape is known without data.

    Returns:
        What was not built, since it is too large or there are too many.

    Raises:
        SpecError: some cannot be built; with their places in the file.
    """
    problems: list[Problem] = []
    notes: list[str] = []
    left, built = LARGEST_TOTAL, set[str]()
    for entry in (entry for entry in sweep.entries if not entry.barred):
        _check_weights(sweep, entry)
        trial = sweep.trial(entry, entry.middle, 0, "final")
        if trial.hash in built:
            continue
        built.add(trial.hash)
        if len(built) > MOST_BUILDS:
            notes.append(f"strategies: the first {MOST_BUILDS} methods were built to be checked, of more")
            break
        budget = Budget(min(left, LARGEST_BUILD))
        try:
            with budget:
                _build(sweep, entry)
        except TooLarge:
            notes.append(_placed(sweep, entry, [Problem(f"strategies.{entry.alias}", _NOT_BUILT)]).args[0])
        except SpecError as error:
            problems += _placed(sweep, entry, error.problems).problems
        except MethodError as error:
            problems += _placed(sweep, entry, [Problem(f"strategies.{entry.alias}", str(error))]).problems
        left -= min(budget.used, left)
    if problems:
        raise SpecError(list(dict.fromkeys(problems)))
    return tuple(dict.fromkeys(notes))


def load_sweep(given: str | Path | Mapping[str, Any], catalog: Registries | None = None) -> SweepSpec:
    """Read a sweep, and hold it to all that ``raycl check`` does.

    Args:
        given: a sweep file's path, or what stands in one as a dict.
        catalog: where its names are registered, and all that its trials are made of; default: this installation's.

    Raises:
        SpecError: with every problem and its place.

    Example:
        >>> sweep = load_sweep({
        ...     "name": "small",
        ...     "stream": {"name": "split", "dataset": "digits", "tasks": 5},
        ...     "model": {"name": "mlp", "hidden": [100]},
        ...     "strategies": {"naive": {}, "replay": {"memory.capacity": 50}},
        ...     "final": {"seeds": [0, 1]},
        ... })
        >>> [entry.key for entry in sweep.entries]
        ['naive', 'replay']
    """
    return judged(_of_dict(given) if isinstance(given, Mapping) else read(expanded(given)), catalog)


def judged(source: SweepSource, catalog: Registries | None = None) -> SweepSpec:
    """The sweep of a parsed file, once every rule holds and every method could be built.

    Raises:
        SpecError: with every problem and its place.
    """
    sweep = SweepSpec.of(source, catalog or installed())
    return sweep.warned(build_all(sweep))


def _of_dict(given: Mapping[str, Any]) -> SweepSource:
    try:
        return parse(yaml.safe_dump(dict(given), sort_keys=False), "<dict>")
    except yaml.YAMLError as error:
        rule = "must be plain: dicts, lists, strings, numbers and booleans"
        raise SpecError([Problem("sweep", rule, str(error).splitlines()[0], file="<dict>")]) from error


def checked(sweep: SweepSpec) -> SweepSpec:
    """The same sweep, held to every rule anew: one that came with results has not been judged when it was read.

    Raises:
        SpecError: with every problem and its place.
    """
    SweepSpec.parse(sweep.text, sweep.catalog, sweep.file)
    build_all(sweep)
    return sweep


class TooLarge(Exception):
    """More numbers than a look is worth."""


class Budget(TorchDispatchMode):
    """Counts the numbers of new tensors before they are made, and stops above a limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit = limit
        self.used = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """What torch asks of a mode: nothing is compiled here, and a yes would cost a second of its imports."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _FACTORIES:
            self.used += max((math.prod(size) for size in _sizes(args)), default=0)
            if self.used > self.limit:
                raise TooLarge
        return func(*args, **(kwargs or {}))


def _sizes(args: Sequence[Any]) -> Iterator[Sequence[int]]:
    """Shapes among the arguments of a factory: lists of whole numbers, or all of ``eye``'s."""
    numbers = [value for value in args if isinstance(value, int)]
    yield from (value for value in args if isinstance(value, (list, tuple, torch.Size)))
    if numbers and len(numbers) == len(args):
        yield numbers if len(numbers) > 1 else numbers * 2


_NOT_BUILT = (
    f"is not built here, having more than the {LARGEST_BUILD:,} numbers of one method or {LARGEST_TOTAL:,} of all "
    "that a check looks at; what a built network refuses is seen when the sweep runs"
)


@dataclass(frozen=True)
class Unread(TaskSource):
    """A stream of which only the extent is known: enough to build a method, and not to train it."""

    outline: Outline

    @property
    def layout(self) -> Layout:
        classes = tuple(tuple(range(size)) for size in self.outline.sizes)
        channels = self.outline.image_shape[0]
        return Layout(classes, self.outline.image_shape, "", (0.5,) * channels, (0.5,) * channels)

    def part(self, task: int, split: SplitName) -> Part:
        raise DataError(f"the {split} data of task {task} have not been read")

    def prefetch(self, task: int, split: SplitName) -> None:
        """There is nothing to fetch."""


def _build(sweep: SweepSpec, entry: Entry) -> None:
    resolved, outline = sweep.resolved(entry, entry.middle), outline_of(sweep, entry)
    if outline is None:
        return
    if resolved.model.weights is not None or resolved.stream.encode is not None:
        network(sweep.catalog, resolved.model, outline)
    else:
        Trainer(*_unread(sweep.trial(entry, entry.middle, 0, "final"), outline), catalog=sweep.catalog)


def _unread(trial: TrialSpec, outline: Outline) -> tuple[TrialSpec, TaskSource]:
    """A trial over the extent of the tasks that it sees, for whoever only builds it."""
    left = replace(outline, sizes=outline.sizes[trial.skipped_tasks :])
    return trial.model_copy(update={"skipped_tasks": 0}), Unread(left)


def capacities(sweep: SweepSpec) -> dict[str, int]:
    """What ``memory.capacity: auto`` comes to in the middle of each space, by :attr:`Entry.key`.

    Entries whose stream is not known without its data are left out, and those with weights, which are read by a run.
    """
    found: dict[str, int] = {}
    for entry in (entry for entry in sweep.entries if not entry.barred):
        resolved, outline = sweep.resolved(entry, entry.middle), outline_of(sweep, entry)
        asked = resolved.memory.capacity == "auto" and resolved.strategy.uses_memory
        if asked and outline is not None and resolved.model.weights is None and resolved.stream.encode is None:
            trial = sweep.trial(entry, entry.middle, 0, "final")
            trainer = Trainer(*_unread(trial, outline), catalog=sweep.catalog)
            found[entry.key] = int(trainer.resolved["memory.capacity"])
    return found


def over_limits(sweep: SweepSpec, entry: Entry) -> Callable[[Mapping[str, Scalar]], str]:
    """Tells of a point which limit its trials would break, and by how much; empty where they keep within all, and where
    that is not known before training.

    What ``training`` says changes no size, so points that differ in it alone are looked at once.
    """
    known: dict[str, str] = {}

    def broken(point: Mapping[str, Scalar]) -> str:
        decisive = {path: value for path, value in point.items() if not path.startswith("training.")}
        name = json.dumps(decisive, sort_keys=True)
        if name not in known:
            known[name] = _broken(sweep, entry, point)
        return known[name]

    return broken


def unfit(sweep: SweepSpec) -> dict[str, str]:
    """The methods that break a limit in the middle of their space and at each of its ends, with the least they are over
    it, by :attr:`Entry.key`."""
    found: dict[str, str] = {}
    for entry in (entry for entry in sweep.entries if not entry.barred):
        broken = over_limits(sweep, entry)
        reasons: list[str] = []
        for point in _extremes(entry):
            if not (reason := broken(point)):
                break
            reasons.append(reason)
        else:
            found[entry.key] = min(reasons, key=LimitsConfig.excess)
    return found


def _extremes(entry: Entry) -> Iterator[dict[str, Scalar]]:
    """The middle of a space, both ends of all its dimensions, and each end of one alone."""
    yield entry.middle
    for share in (0.0, math.nextafter(1, 0)):
        end = {path: known.at(share) for path, known in entry.space.items()}
        yield active(entry.space, end)
        yield from (active(entry.space, {**end, **entry.middle, path: end[path]}) for path in entry.space)


def _broken(sweep: SweepSpec, entry: Entry, point: Mapping[str, Scalar]) -> str:
    resolved, outline = sweep.resolved(entry, point), outline_of(sweep, entry)
    if (
        resolved.limits == LimitsConfig()
        or outline is None
        or resolved.model.weights is not None
        or resolved.stream.encode is not None
    ):
        return ""
    trial, unread = _unread(sweep.trial(entry, point, 0, "final"), outline)
    ratios: list[float | None] = []

    def rehearse(brief: TrialSpec, blank: TaskSource) -> Sequence[Cost]:
        rehearsal = TrialRehearsal(brief, blank, catalog=sweep.catalog)
        costs = rehearsal.costs()
        ratios.append(rehearsal.strategy.compression_ratio())
        return costs

    extent = Extents(sweep.catalog).of(resolved.stream)
    try:
        with Budget(LARGEST_BUILD):
            Trainer(trial, unread, catalog=sweep.catalog)
        found = needs(trial, resolved, unread.layout, rehearse, extent.rows if extent else None)
    except (TooLarge, MethodError, SpecError):  # seen, and told, when a trial runs
        return ""
    return trial.limits.broken({**found, "max_compression_ratio": ratios[-1]})


def _check_weights(sweep: SweepSpec, entry: Entry) -> None:
    """Names of pretrained weights are known, or paths; whether the files are there is seen when the sweep runs."""
    resolved = sweep.resolved(entry, entry.middle)
    model, encode = resolved.model, resolved.stream.encode
    named = {"model.weights": model.weights, "stream.encode.weights": encode.weights if encode else None}
    for path, name in named.items():
        if name is None:
            continue
        try:
            check_name(name)
        except UnknownName as error:
            raise _placed(sweep, entry, [Problem(path, str(error))]) from error


def _placed(sweep: SweepSpec, entry: Entry, problems: Sequence[Problem]) -> SpecError:
    """Problems of an entry's merged blocks, with their places in the file."""
    source, placed = _source(sweep.text, sweep.file), sweep.blocks[entry.key].source_path
    return SpecError([source.problem(placed(tuple(p.path.split("."))), p.rule, p.value) for p in problems])


@lru_cache(maxsize=1)
def _source(text: str, file: str) -> SweepSource:
    return parse(text, file)


def network(catalog: Registries, model: ModelConfig, outline: Outline) -> Network:
    """The network of a model on a stream's images.

    Raises:
        SpecError: it cannot be built.
    """
    build = catalog.models.get(model.name).build
    try:
        made: Network = build(model, outline.image_shape, torch.Generator().manual_seed(0))
    except RuntimeError as error:  # torch has no class of its own for memory that cannot be had
        first = str(error).splitlines()[0]
        raise SpecError([Problem("model", f"cannot be built ({first}); make it smaller", model.name)]) from error
    return made


def outline_of(sweep: SweepSpec, entry: Entry) -> Outline | None:
    """The extent of an entry's stream, where it is known without its data."""
    return stream_outline(sweep.catalog, sweep.resolved(entry, entry.middle).stream)
