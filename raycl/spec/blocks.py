"""The blocks of one method in one variant, merged from the file's places, with distributions where values are searched.

Every value remembers where in the file it came from, so that an error in a merged block points at its own line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any, cast

from pydantic import BaseModel

from raycl.errors import DataError, UnknownName, nearest
from raycl.spec.distribution import Distribution, DistributionError, format_value
from raycl.spec.evaluation import EvaluationConfig
from raycl.spec.memory import MemoryConfig
from raycl.spec.options import ModelConfig, Options, StreamConfig, one_of
from raycl.spec.points import acts
from raycl.spec.rules import Broken, BrokenRules, validate
from raycl.spec.setting import BLOCK_NAMES, Names, Registries, Setting
from raycl.spec.source import Path, dotted
from raycl.spec.space import SEARCH, find
from raycl.spec.sweep_options import LimitsConfig
from raycl.spec.training import BUDGETS, LENGTHS, TrainingConfig

MOST_COMBINED = 64
"""Ends of several dimensions that are looked at together."""
SEARCHED_BLOCKS = ("options", "model", "training", "memory")
"""Where distributions may stand; ``options`` is the strategy's own block."""


Checked = dict[tuple[str, int], tuple[Any, Any, list["Broken"]]]
"""Block name and identity of its data -> the data, what they became, and the rules that they break."""


@dataclass
class Blocks:
    """Merged data by block name, and what is searched in it.

    Attributes:
        data: block name -> plain data as the file gives it, distributions included.
        origins: path in ``data`` -> path in the file, for values that stand elsewhere; the longest prefix counts.
        space: path in ``data`` -> distribution.
        checked: what became of blocks that hold no distribution; the data are kept, so that their identity is theirs.
    """

    strategy: Any
    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path, Path] = field(default_factory=dict)
    space: dict[Path, Distribution] = field(default_factory=dict)
    checked: Checked = field(default_factory=dict, repr=False, compare=False)

    def put(self, path: Path, value: Any, origin: Path) -> None:
        """Set the value at ``path``, made where it does not exist. It takes the place of its rivals, such as epochs of
        iterations.

        Raises:
            BrokenRules: ``path`` runs through a value, or one block of the file gives two rivals.
        """
        inner = self.data
        for depth, part in enumerate(path[:-1]):
            self._put_off_rivals(path[: depth + 1], inner, origin)
            child = inner.get(str(part), {})
            if not isinstance(child, dict):
                raise BrokenRules([Broken(path, f"{part} holds a value, no keys", key=True)])
            inner[str(part)] = inner = dict(child)  # the file's own data serve every method
        self._put_off_rivals(path, inner, origin)
        inner[str(path[-1])] = value
        self.origins[path] = origin

    def _put_off_rivals(self, path: Path, inner: dict[str, Any], origin: Path) -> None:
        """Take what cannot stand beside ``path`` out of ``inner``, the mapping that holds it."""
        names = RIVALS.get(path[:-1], ())
        for name in (name for name in names if path[-1] in names and name != path[-1] and name in inner):
            rival = (*path[:-1], name)
            beside = (place for key, place in self.origins.items() if key[: len(rival)] == rival)
            if any(place[:-1] == origin[:-1] for place in beside):
                raise BrokenRules([Broken(path, one_of(names), key=True)])
            del inner[name]

    def source_path(self, path: Path) -> Path:
        """Where in the file the value at ``path`` stands."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]] + path[end:]
        return path

    def find_space(self) -> dict[Path, DistributionError]:
        """Fill :attr:`space`; returns what is meant as a distribution but is none, by path in :attr:`data`."""
        malformed: dict[Path, DistributionError] = {}
        for block in SEARCHED_BLOCKS:
            self._walk(self.data.get(block), (block,), malformed)
        return malformed

    def _walk(self, value: Any, path: Path, malformed: dict[Path, DistributionError]) -> None:
        try:
            found = self._usual(path) if value == SEARCH else find(value)
        except DistributionError as error:
            malformed[path] = error
            return
        if found is not None:
            self.space[path] = found
        elif isinstance(value, dict):
            for key, child in value.items():
                self._walk(child, (*path, key), malformed)
        elif isinstance(value, list):
            for index, child in enumerate(value):
                self._walk(child, (*path, index), malformed)

    def _usual(self, path: Path) -> Distribution | None:
        """The usual distribution of the field at ``path``: the method's own, else the block's."""
        own: Mapping[str, Any] = self.strategy.Config.search_space
        usual = own.get(point_path(path))
        if usual is None and path[0] in _SEARCHED:
            usual = _SEARCHED[str(path[0])].search_space.get(dotted(path[1:]))
        if usual is None:
            with_one = ", ".join(own) or "none"
            raise DistributionError(f"has no usual search space; write a distribution (fields with one: {with_one})")
        return find(usual)

    def without(self, paths: Iterable[Path]) -> Blocks:
        """The same without some dimensions of the space: these values stand at their defaults, and are not searched."""
        left_out, data = set(paths), self.data
        for path in left_out:
            data = _substituted(data, path, None)
        space = {path: found for path, found in self.space.items() if path not in left_out}
        return Blocks(self.strategy, data, self.origins, space, self.checked)

    def without_memory(self) -> Blocks:
        """For a method that keeps no examples: the memory block is left at its defaults."""
        return Blocks(self.strategy, {**self.data, "memory": {}}, self.origins, self.space, self.checked)

    def fixed(self, values: Mapping[Path, Any]) -> dict[str, Any]:
        """The data with every distribution replaced by its value; what is not given, or does not act, is left out."""
        data = self.data
        named = {point_path(path): value for path, value in values.items()}
        for path, found in self.space.items():
            given = path in values and acts(found, named)
            data = _substituted(data, path, (values[path],) if given else None)
        return data

    def resolve(self, catalog: Registries, values: Mapping[Path, Any]) -> Setting:
        """Replace every distribution by its value and check all blocks; options left open stay open.

        What is searched, but not at these values, and what is not given stands at its default.

        Raises:
            BrokenRules: with paths in :attr:`data`.
        """
        data = self.fixed(values)
        broken: list[Broken] = []
        checked = {block: self._check_once(block, data[block], catalog, broken) for block in BLOCK_NAMES}
        if broken:
            raise BrokenRules(broken)
        return Setting(self.strategy, **checked)

    def _check_once(self, block: str, data: Any, catalog: Registries, broken: list[Broken]) -> Any:
        """Check a block, where the very same data have not been checked before."""
        known = self.checked.get((block, id(data)))
        if known is None or known[0] is not data or data is not self.data[block]:
            found: list[Broken] = []
            known = data, _check(block, data, self, catalog, found), found
            if data is self.data[block]:
                self.checked[block, id(data)] = known
        broken.extend(known[2])
        return known[1]


def _substituted(data: Any, path: Path, value: tuple[Any] | None) -> Any:
    """``data`` with the one value at ``path``, or without its key; what it shares with the old data is not copied.

    A list cannot lack an item, so there the first value of the distribution takes the place.
    """
    first, *rest = path
    found: Any = data.copy()
    if rest:
        found[first] = _substituted(data[first], tuple(rest), value)
    elif value is not None:
        found[first] = value[0]
    elif isinstance(found, dict):
        del found[first]
    else:
        distribution = find(data[first])
        assert distribution is not None
        found[first] = distribution.ends[0][1]
    return found


_SEARCHED: dict[str, type[Options]] = {"training": TrainingConfig, "memory": MemoryConfig}
_PLAIN: dict[str, type[BaseModel]] = {**_SEARCHED, "evaluation": EvaluationConfig, "limits": LimitsConfig}
SHARED_OPTIONS: dict[str, type[BaseModel]] = {"stream": StreamConfig, "model": ModelConfig, **_PLAIN}
"""What every block of the file has, whatever stream or model is named."""
RIVALS: dict[Path, tuple[str, ...]] = {("training",): LENGTHS, ("training", "budget"): BUDGETS}
"""Options of which one stands: a method's own takes the place of the file's."""


def point_path(path: Path) -> str:
    """A searched value's name in points and tables: the strategy's own options stand without a prefix."""
    return dotted(path[1:] if path[0] == "options" else path)


def _check(block: str, data: Any, blocks: Blocks, catalog: Registries, broken: list[Broken]) -> Any:
    """Check one block; what is wrong is added to ``broken`` under the block's name."""
    try:
        checked = validate(_options_class(block, data, blocks, catalog), data)
        if block == "stream":
            _check_stream(catalog, cast(StreamConfig, checked))
    except BrokenRules as error:
        broken.extend(Broken((block, *entry.path), entry.rule, entry.value, entry.key) for entry in error.broken)
        return None
    return checked


def _options_class(block: str, data: Any, blocks: Blocks, catalog: Registries) -> type[BaseModel]:
    if block == "options":
        return cast(type[BaseModel], blocks.strategy.Config)
    if block in _PLAIN:
        return _PLAIN[block]
    registry = catalog.streams if block == "stream" else catalog.models
    if not isinstance(data, dict):
        raise BrokenRules([Broken((), "must be a mapping of options", format_value(data))])
    if "name" not in data:
        raise BrokenRules([Broken(("name",), f"is required; one of {', '.join(registry.names())}", key=True)])
    options: type[BaseModel] = look_up(registry, block, data["name"], ("name",)).Config
    return options


def _check_stream(catalog: Registries, config: StreamConfig) -> None:
    """The stream's data sets are registered, and their classes suffice where they are known without reading them."""
    stream = catalog.streams.get(config.name)(config, 0)
    infos = {name: look_up(catalog.datasets, "data set", name, ("dataset",)).info for name in stream.datasets()}
    if any(info is None for info in infos.values()):
        return
    try:
        stream.tasks({name: info.num_classes for name, info in infos.items()})
    except DataError as error:
        raise BrokenRules([Broken((), str(error))]) from error


def look_up(registry: Names, kind: str, name: Any, path: Path) -> Any:
    """The registered entry ``name``.

    Raises:
        BrokenRules: there is none; or it belongs to an installed package that cannot be imported.
    """
    if not isinstance(name, str) or name not in registry:
        known = registry.names()
        hint = nearest(name, known) if isinstance(name, str) else ""
        raise BrokenRules([Broken(path, f"unknown {kind}{hint} (known: {', '.join(known)})", format_value(name))])
    try:
        return registry.get(name)
    except UnknownName as error:
        raise BrokenRules([Broken(path, str(error))]) from error
    except ImportError as error:
        raise BrokenRules([Broken(path, f"{kind} cannot be imported: {error}", format_value(name))]) from error


Corner = tuple[dict[Path, Any], dict[Path, Path]]
"""A point of a space, and the place of each value below its distribution."""


def end_points(space: Mapping[Path, Distribution]) -> Iterator[dict[Path, Any]]:
    """Points that combine the ends and choices of several dimensions, the first :data:`MOST_COMBINED` of them."""
    if len(space) > 1:
        every = product(*([value for _, value in found.ends] for found in space.values()))
        yield from (dict(zip(space, values, strict=True)) for values in islice(every, MOST_COMBINED))


def corner_points(space: Mapping[Path, Distribution]) -> Sequence[Corner]:
    """Points that stand for the whole space: every end or choice of each dimension, the others at their first.

    Each point comes with the place of each value below its distribution, for error messages.
    """
    first = {path: found.ends[0] for path, found in space.items()}
    points = [first]
    for path, found in space.items():
        points.extend({**first, path: end} for end in found.ends[1:])
    return [
        ({path: value for path, (_, value) in point.items()}, {path: at for path, (at, _) in point.items()})
        for point in points
    ]
