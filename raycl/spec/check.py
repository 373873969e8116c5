"""Holds the methods of a sweep to what they and the blocks declare (:mod:`raycl.spec.needs`), each at its place.

An option that does nothing is

- left out of a method's space, and at its default, where it is searched for all methods and others use it;
- refused where it is searched in a method's own block, or where no method at all uses it;
- warned of where its value is written, and is not the default, in a method's own block or for nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from typing import Any

from pydantic import BaseModel

from raycl.errors import Problem, SpecError, nearest
from raycl.spec.blocks import Blocks, point_path
from raycl.spec.distribution import format_value
from raycl.spec.entry import Entry
from raycl.spec.needs import SHARED_BLOCKS, Extent, Idle, Need, SearchSetting, broken, costly, covered, idle
from raycl.spec.options import StreamConfig
from raycl.spec.problems import Finding
from raycl.spec.setting import Registries, Setting
from raycl.spec.source import Path, dotted
from raycl.spec.space import Choice

MOST_COMBINATIONS = 64
"""Choices of several dimensions that are combined to see whether an option ever acts."""


_SIZE = re.compile(r"capacity|hidden|width|channels|embedding|units|memory_size|per_class")


def block_path(path: str) -> Path:
    """An option's name, as in :mod:`raycl.spec.needs`, as a path in merged blocks."""
    parts = path.split(".")
    return (*parts,) if parts[0] in SHARED_BLOCKS else ("options", *parts)


class Extents:
    """How large streams are, each looked at once."""

    def __init__(self, catalog: Registries) -> None:
        self.catalog = catalog
        self._known: dict[int, tuple[StreamConfig, Extent | None]] = {}  # a config that is kept keeps its identity

    def of(self, config: StreamConfig) -> Extent | None:
        if id(config) not in self._known:
            self._known[id(config)] = config, self._look(config)
        return self._known[id(config)][1]

    def _look(self, config: StreamConfig) -> Extent | None:
        stream = self.catalog.streams.get(config.name)(config, 0)
        infos = {name: self.catalog.datasets.get(name).info for name in stream.datasets()}
        if any(info is None for info in infos.values()):
            return None
        tasks = stream.tasks({name: info.num_classes for name, info in infos.items()})
        sizes = tuple(len(task.classes) for task in tasks)
        shares = [
            infos[task.dataset].train_size * len(task.classes) / infos[task.dataset].num_classes for task in tasks
        ]
        rows = int(min(shares) * (1 - config.validation_fraction))
        return Extent(sizes, min(rows, config.train_per_task or rows))


def as_judged(resolved: Setting, extents: Extents) -> Setting:
    """What is judged of resolved blocks: the values that the method publishes stand where the file leaves them open."""
    return replace(resolved.as_published(), extent=extents.of(resolved.stream))


def combinations(blocks: Blocks, first: Mapping[Path, Any]) -> Iterator[dict[Path, Any]]:
    """Points that combine the choices of several dimensions, the first ones of them."""
    choices = {path: found.values for path, found in blocks.space.items() if isinstance(found, Choice)}
    if len(choices) < 2:
        return
    for values in islice(product(*choices.values()), MOST_COMBINATIONS):
        yield {**first, **dict(zip(choices, values, strict=True))}


def barred(setting: Setting) -> str | None:
    """Why a method cannot run on a stream; None where it can."""
    strategy, scenario = setting.strategy, setting.stream.scenario
    if scenario not in strategy.scenarios:
        return f"cannot do scenario {scenario!r}, only {', '.join(sorted(strategy.scenarios))}"
    if setting.hidden and not strategy.boundary_free:
        return "must be told where a task ends, but stream.boundaries is 'hidden'"
    if setting.hidden and setting.per_task_head:
        return "cannot grow a head per task where stream.boundaries is 'hidden'; use model.head: single"
    if setting.model.weights is not None and not strategy.pretrained:
        return "makes its own weights, and cannot start from model.weights"
    return None


def unmet(setting: Setting) -> Iterator[tuple[Need, Path, str]]:
    """The needs that a setting does not meet, with the path in merged blocks and the value found there."""
    for need in broken(setting):
        yield need, block_path(need.path), _found(setting, need)


def require(setting: Setting) -> None:
    """Hold one trial to what its method declares, wherever it comes from.

    A sweep file has been held to it at the ends of its search spaces; here are the points in between, data whose
    classes are only known once they are read, and trials that come from no file. What the shared blocks declare is
    left to the file: training says in its own words where it cannot go on.

    Raises:
        SpecError: with every need that is not met.
    """
    problems = [Problem(need.path, need.rule, _found(setting, need)) for need in broken(setting, blocks=())]
    if problems:
        raise SpecError(problems)


def _found(setting: Setting, need: Need) -> str:
    """The value that a need points at, as a sweep file would have it."""
    return format_value(_plain(setting.value(need.path)))


def always_idle(judged: Sequence[Setting]) -> dict[str, str]:
    """The options that do nothing in any of the settings, and why."""
    found = [idle(setting) for setting in judged]
    return {path: why for path, why in found[0].items() if all(covered(path, other) for other in found)}


@dataclass
class Written:
    """What the file says of one value, and which methods take it from there.

    Attributes:
        reasons: why it does nothing, of each method that takes it; None for one in which it acts.
        searched: the distribution that stands there.
        default: whether it says what holds without it.
        whole: whether nothing of its block does anything for these methods.
    """

    reasons: list[str | None] = field(default_factory=list)
    searched: str = ""
    default: bool = True
    whole: bool = True


class IdleOptions:
    """Collects, method by method, which of the values that a file gives act."""

    def __init__(self) -> None:
        self._written: dict[Path, Written] = {}

    def judge(self, blocks: Blocks, silent: dict[str, str], setting: Setting) -> Blocks:
        """Note what of an entry's blocks does nothing.

        Args:
            silent: the options that do nothing anywhere in its space.
            setting: the entry at one point.

        Returns:
            The blocks without the dimensions that would be searched for nothing.
        """
        for path, origin in _written(blocks):
            if origin[0] == "strategies" and len(origin) == 2:
                continue  # the word for the usual space; what does nothing is left out of it
            entry = self._written.setdefault(origin, Written())
            entry.reasons.append(covered(point_path(path), silent))
            searched = next((str(found) for place, found in blocks.space.items() if place[: len(path)] == path), "")
            entry.searched = entry.searched or searched
            entry.default = entry.default and _is_default(setting, path)
            entry.whole = entry.whole and path[0] in silent
        return blocks.without([path for path in blocks.space if covered(point_path(path), silent)])

    def findings(self) -> Iterator[tuple[Finding, bool]]:
        """What no method uses that takes it, and whether it is refused."""
        blocks: dict[Path, None] = {}
        for origin, entry in self._written.items():
            why = entry.reasons[0]
            if why is None or not all(entry.reasons):
                continue
            told = (
                "does nothing" if origin[0] == "strategies" else "does nothing for the methods that take it from here"
            )
            if entry.searched:
                yield Finding(origin, f"is searched, but {told}: {why}", entry.searched, True), True
            elif not entry.default and not (entry.whole and origin[:1] in blocks):
                at = origin[:1] if entry.whole and origin[0] in SHARED_BLOCKS else origin
                blocks[at] = None
                yield Finding(at, f"{told}: {why}", "", True), False


def search_findings(data: Mapping[str, Any], setting: SearchSetting) -> Iterator[tuple[Finding, bool]]:
    """What the search's own blocks say for nothing, or must not say; and whether it is refused."""
    named, known = setting.final.baseline if setting.final else None, data.get("strategies")
    known = known if isinstance(known, dict) else {}
    if named is not None and named not in known:
        rule = f"must be a method of this sweep, by its name under strategies{nearest(named, known)}"
        yield Finding(("final", "baseline"), rule, repr(named)), True
    for block in (setting.search, setting.pruner, setting.final):
        for need in getattr(type(block), "needs", ()):
            if not need.holds(setting):
                yield Finding((*need.path.split("."),), need.rule), True
        for rule in getattr(type(block), "ignores", ()):
            yield from _idle_findings(data, setting, rule)


def _idle_findings(data: Mapping[str, Any], setting: SearchSetting, rule: Idle) -> Iterator[tuple[Finding, bool]]:
    for path in (tuple(path.split(".")) for path in rule.paths):
        found: Any = data
        for part in path:
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is not None and rule.when(setting):
            yield Finding(path, f"does nothing: {rule.why}", "", True), False


def doubts(
    data: Mapping[str, Any], entry: Entry, blocks: Blocks, resolved: Setting, extents: Extents
) -> Iterator[Finding]:
    """What is allowed of an entry, but probably not meant.

    Args:
        data: the file.
    """
    if not entry.barred:
        judged = as_judged(resolved, extents)
        for rule in costly(judged):
            path = block_path(rule.path)
            yield Finding(blocks.source_path(path), rule.why, format_value(judged.value(rule.path)))
    if not entry.space and not {"final", "table"} & data.keys() and not entry.barred:
        why = "does not run: it has nothing to search, and there is no final phase"
        yield Finding(("strategies", entry.alias), why, key=True)
    if not entry.variant and not any(resolved.limits.model_dump().values()):
        for path, searched in blocks.space.items():
            name = next(str(part) for part in reversed(path) if isinstance(part, str))
            if _SIZE.search(name):
                remedy = "add limits: {max_state_bytes: ...}, or lay the sizes out as variants"
                yield Finding(blocks.source_path(path), f"{searched} buys accuracy by size; {remedy}")
    own = data["strategies"][entry.alias]
    for path, origin in blocks.origins.items():
        if origin[0] == "variants" and isinstance(own, dict) and dotted(path) in own:
            yield Finding(origin, f"replaces the value of strategies.{entry.alias} in this variant")


def _written(blocks: Blocks) -> Iterator[tuple[Path, Path]]:
    """Every option that the file gives, as a path in merged blocks and where it stands in the file."""
    for block, data in blocks.data.items():
        for key in data if isinstance(data, dict) else ():
            path = (block, key)
            yield path, blocks.source_path(path)


def _is_default(setting: Setting, path: Path) -> bool:
    block, key = getattr(setting, str(path[0])), str(path[1])
    fields: Any = type(block).model_fields
    return key in fields and getattr(block, key) == fields[key].get_default(call_default_factory=True)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
