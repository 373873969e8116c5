"""From a parsed file to a checked sweep: every broken rule is collected, with its place, before any is raised."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from pydantic import BaseModel

from raycl.errors import nearest
from raycl.spec.blocks import SHARED_OPTIONS, Blocks, Checked, Corner, corner_points, look_up, point_path
from raycl.spec.check import (
    Extents,
    IdleOptions,
    always_idle,
    as_judged,
    barred,
    combinations,
    doubts,
    search_findings,
    unmet,
)
from raycl.spec.distribution import format_value
from raycl.spec.entry import Entry
from raycl.spec.needs import SHARED_BLOCKS, SearchSetting
from raycl.spec.options import StreamConfig
from raycl.spec.overrides import Override, own_overrides, variant_overrides
from raycl.spec.problems import Finding, Problems
from raycl.spec.rules import Broken, BrokenRules, validate
from raycl.spec.search_rules import check_conditions, check_protocol, check_sampling, check_table
from raycl.spec.seed_rules import Seeds, broken_rules, pinned_beside, seeds_of
from raycl.spec.setting import Registries, Setting
from raycl.spec.source import Path, SweepSource
from raycl.spec.space import LogUniform, QUniform, Uniform
from raycl.spec.sweep_options import FinalConfig, LimitsConfig, PrunerConfig, ResourcesConfig, SearchConfig, TableConfig

O = TypeVar("O", bound=BaseModel)  # noqa: E741

TOP_KEYS = {
    "name": "names the sweep's results folder",
    "stream": "what is learned",
    "model": "the network that every method trains",
    "training": "how one task is learned",
    "memory": "the replay memory of methods that keep examples",
    "strategies": "the methods that are compared",
    "search": "how hyperparameters are found, on validation data",
    "pruner": "stops bad search trials early",
    "table": "a design of points for each method in place of a search, on validation and test data",
    "final": "how winners are scored, on test data",
    "evaluation": "what is measured after every task",
    "limits": "what a method may take",
    "resources": "what one trial asks of the cluster",
    "variants": "the same question on several streams or budgets",
    "report": "whether a run ends with report.html in its results folder; default: true",
}
REQUIRED = ("name", "stream", "model", "strategies")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

MOST_ENTRIES, MOST_DIMENSIONS, MOST_POINTS = 300, 64, 4_000
"""What a file may ask to be checked in a second or two."""

_Complete = tuple[Entry, Blocks, Setting]
_Judged = tuple[Setting, Mapping[Path, Path]]
"""A corner of the space, and the place of each value below its distribution."""


@dataclass(frozen=True)
class SweepContents:
    """What a sweep file says, checked.

    Attributes:
        text: the YAML as given.
        stream: of the first variant.
        entries: every variant and strategy, in file order.
        warnings: what is allowed, but probably not meant.
        catalog: what the file was read with, as it was then: all that a trial of the sweep names is found there.
        blocks: of every entry, by its key.
        report: whether a run ends with a report; no part of any hash.
    """

    name: str
    text: str
    file: str
    search: SearchConfig | None
    pruner: PrunerConfig | None
    final: FinalConfig | None
    table: TableConfig | None
    limits: LimitsConfig
    resources: ResourcesConfig
    stream: StreamConfig
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...]
    catalog: Registries
    blocks: Mapping[str, Blocks]
    report: bool = True


class SweepFile:
    """Reads one file. Use once: ``SweepFile(source, catalog).read()``.

    Args:
        judged: whether it was found to make sense before: a file that came with results is read as it is.
        whole: keep what is searched for nothing: an earlier raycl searched that too.
    """

    def __init__(self, source: SweepSource, catalog: Registries, judged: bool = False, whole: bool = False) -> None:
        self.source = source
        self.data = source.data
        self.catalog = catalog.snapshot()
        self._judged = judged
        self._whole = whole
        self._extents = Extents(self.catalog)
        self._checked: Checked = {}
        self._points = 0
        self._idle = IdleOptions()
        self._problems = Problems(source)

    def read(self) -> SweepContents:
        """Check the file.

        Raises:
            SpecError: with every problem, in file order.
        """
        self._top_level()
        search = self._block("search", SearchConfig)
        pruner = self._block("pruner", PrunerConfig)
        final, table = self._block("final", FinalConfig), self._block("table", TableConfig)
        limits = self._block("limits", LimitsConfig) or LimitsConfig()
        resources = self._block("resources", ResourcesConfig) or ResourcesConfig()
        self._phases(search, final, table)
        found = self._entries(self._variants())
        complete = [item for item in found if item is not None]
        self._pinned_seeds(seeds_of(search, final, table), complete)
        if len(complete) == len(found) and not self._judged:
            self._judge_all(SearchSetting(search, pruner, final, _most_tasks(complete, search)))
            if search is not None:
                for entry, blocks, resolved in complete:
                    check_protocol(search, entry, blocks, resolved, self._extents, self._problems)
        if search is not None and len(complete) == len(found):
            check_sampling(search, [entry for entry, _, _ in complete if not entry.barred], self._problems)
        self._problems.raise_any()
        for entry, blocks, resolved in complete:
            for doubt in doubts(self.data, entry, blocks, resolved, self._extents):
                self._problems.warn(doubt)
        if pruner is not None and pruner.scheduler == "asha":
            rule = "asha is not reproducible: what it prunes depends on who finishes first"
            self._problems.warn(Finding(("pruner", "scheduler"), rule))
        return SweepContents(
            name=self.data["name"],
            text=self.source.text,
            file=self.source.file,
            search=search,
            pruner=pruner,
            final=final,
            table=table,
            limits=limits,
            resources=resources,
            stream=complete[0][2].stream,
            entries=tuple(entry for entry, _, _ in complete),
            warnings=self._problems.warnings,
            catalog=self.catalog,
            blocks={entry.key: blocks for entry, blocks, _ in complete},
            report=self.data.get("report", True),
        )

    def _refuse_broken(self, broken: Sequence[Broken], blocks: Blocks, corner: Mapping[Path, Path]) -> None:
        """Note what is wrong in merged blocks; a value of a distribution is pointed at by its end or choice."""
        for entry in broken:
            rule, at = entry.rule, None
            searched = next((path for path in corner if entry.path[: len(path)] == path), None)
            if searched is not None and not entry.key:
                at = blocks.source_path(searched) + corner[searched]
                real = isinstance(blocks.space[searched], (Uniform, LogUniform, QUniform))
                rule += "; use randint or lograndint" if real and rule.endswith("whole number") else ""
            self._problems.refuse(blocks.source_path(entry.path), rule, entry.value, entry.key, at)

    # -- the top level -----------------------------------------------------------------------------------------

    def _top_level(self) -> None:
        for key in self.data:
            if key not in TOP_KEYS:
                hint = _home(key) or nearest(key, TOP_KEYS) or _known(TOP_KEYS)
                self._problems.refuse((key,), f"unknown key{hint}", key=True)
        for key in REQUIRED:
            if key not in self.data:
                self._problems.refuse((key,), f"is required: {TOP_KEYS[key]}")
        name = self.data.get("name", "a")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            self._problems.refuse(("name",), _NAME_RULE, format_value(name))
        if not isinstance(report := self.data.get("report", True), bool):
            self._problems.refuse(("report",), "must be true or false", format_value(report))

    def _mapping(self, path: Path, rule: str) -> dict[str, Any]:
        """The mapping of names at a top-level key, without the names that are refused."""
        data = self.data.get(str(path[0]), {})
        if str(path[0]) in self.data and (not isinstance(data, dict) or not data):
            self._problems.refuse(path, rule, format_value(data))
            return {}
        for name in data:
            if not NAME.fullmatch(name):
                self._problems.refuse((*path, name), _NAME_RULE, format_value(name), key=True)
        return dict(data)

    def _block(self, key: str, options: type[O]) -> O | None:
        """A block that holds no distributions; None where the file has none, or where it is refused."""
        if key not in self.data:
            return None
        try:
            return validate(options, self.data[key])
        except BrokenRules as error:
            for entry in error.broken:
                self._problems.refuse((key, *entry.path), entry.rule, entry.value, entry.key)
            return None

    def _phases(self, search: SearchConfig | None, final: FinalConfig | None, table: TableConfig | None) -> None:
        """What must hold between search, pruner, final and table."""
        check_table(self.data, self._problems)
        if "pruner" in self.data and "search" not in self.data:
            self._problems.refuse(("pruner",), "prunes search trials, but there is no search", key=True)
        for found in broken_rules(seeds_of(search if search and search.as_it_goes is None else None, final, table)):
            self._problems.refuse(*found)

    def _pinned_seeds(self, seeds: Mapping[Path, Seeds], complete: Sequence[_Complete]) -> None:
        """Refuse seeds that ``stream.seed`` overrules, and tell what no phase varies."""
        own = any(resolved.stream.seed is not None for _, _, resolved in complete)
        self._note(() if self._judged else pinned_beside(seeds, own))

    def _note(self, found: Iterable[tuple[Finding, bool]]) -> None:
        """Refuse what is to be refused, and warn of the rest."""
        for finding, refused in found:
            if refused:
                self._problems.refuse(*finding)
            else:
                self._problems.warn(finding)

    def _variants(self) -> dict[str, list[Override]]:
        """Overrides by the variant's name; one nameless variant where the file has none."""
        names = self._mapping(("variants",), "must name at least one variant, such as small: {memory.capacity: 200}")
        variants: dict[str, list[Override]] = {}
        for name, data in names.items():
            if isinstance(data, dict):
                variants[name] = variant_overrides(("variants", name), data, self._problems)
            else:
                rule = "must be a mapping of dotted paths, such as memory.capacity: 200"
                self._problems.refuse(("variants", name), rule, format_value(data))
        return variants or {"": []}

    def _entries(self, variants: Mapping[str, Sequence[Override]]) -> list[_Complete | None]:
        """Every method in every variant; None where a problem was noted."""
        strategies = self._mapping(("strategies",), "must name at least one method as a key, such as naive: {}")
        if len(variants) * len(strategies) > MOST_ENTRIES:
            rule = f"strategies times variants may give at most {MOST_ENTRIES:,} entries"
            self._problems.refuse(("strategies",), rule, f"{len(strategies)} x {len(variants)}", key=True)
            self._problems.raise_any()
        entries = product(variants.items(), strategies)
        return [self._entry(variant, overrides, alias) for (variant, overrides), alias in entries]

    # -- one method in one variant -----------------------------------------------------------------------------

    def _entry(self, variant: str, overrides: Sequence[Override], alias: str) -> _Complete | None:
        """The checked entry with its blocks; None where a problem was noted."""
        before = len(self._problems)
        blocks = self._merge(alias, overrides)
        if blocks is None:
            return None
        malformed = blocks.find_space()
        for path, error in malformed.items():
            origin, shown = blocks.source_path(path), "" if error.value is None else format_value(error.value)
            self._problems.refuse(origin, error.rule, shown, at=origin + error.at)
        self._points += sum(len(found.ends) for found in blocks.space.values())
        if len(blocks.space) > MOST_DIMENSIONS or self._points > MOST_POINTS:
            rule = f"at most {MOST_DIMENSIONS} values of a method may be searched, with {MOST_POINTS:,} ends in all"
            self._problems.refuse(("strategies", alias), rule, f"{len(blocks.space)} and {self._points}", key=True)
            return None
        check_conditions(blocks, self._problems)
        corners = corner_points(blocks.space)
        judged, resolved = self._judged_corners(blocks, corners, malformed)
        if not {"search", "table"} & self.data.keys():
            for path, searched in blocks.space.items():
                rule = "is searched, but there is no search; add search: {trials: 20}, or write a value"
                self._problems.refuse(blocks.source_path(path), rule, str(searched))
        reason = None if resolved is None else self._barred(variant, alias, resolved)
        if resolved is None or malformed or len(self._problems) > before:
            return None
        reason = reason or self._judge(variant, alias, blocks, judged)
        if reason is None and not self._whole:
            every = [each for each, _ in judged] + list(self._more(blocks, corners[0][0]))
            blocks = self._idle.judge(blocks, always_idle(every), every[0])
            check_conditions(blocks, self._problems, f"; for {alias} it does nothing, and is not")
        if len(self._problems) > before:
            return None
        if not blocks.strategy.uses_memory:
            blocks = blocks.without_memory()
        space = {point_path(path): searched for path, searched in blocks.space.items()}
        return Entry(variant, alias, self._name(alias), space, reason), blocks, resolved

    def _judged_corners(
        self, blocks: Blocks, corners: Sequence[Corner], malformed: Collection[Path]
    ) -> tuple[list[_Judged], Setting | None]:
        """What is judged at each corner of the space where all values are valid, and the blocks at the first."""
        judged: list[_Judged] = []
        resolved: Setting | None = None
        for values, corner in corners:
            try:
                found = blocks.resolve(self.catalog, values)
            except BrokenRules as rules:
                fresh = [item for item in rules.broken if not any(item.path[: len(bad)] == bad for bad in malformed)]
                self._refuse_broken(fresh, blocks, corner)
                continue
            resolved = resolved or found
            judged.append((as_judged(found, self._extents), corner))
        return judged, resolved

    def _more(self, blocks: Blocks, first: Mapping[Path, Any]) -> Iterator[Setting]:
        """Settings inside the space, beside those at its corners."""
        for values in combinations(blocks, first):
            with suppress(BrokenRules):
                yield as_judged(blocks.resolve(self.catalog, values), self._extents)

    def _barred(self, variant: str, alias: str, resolved: Setting) -> str | None:
        """Why the method cannot run on this stream; a problem where there are no variants in which it might."""
        reason = barred(resolved)
        if reason and not variant:
            rule = f"this method {reason}; remove it or change the stream"
            self._problems.refuse(("strategies", alias), rule, key=True)
        return reason

    def _judge(self, variant: str, alias: str, blocks: Blocks, judged: Sequence[_Judged]) -> str | None:
        """Refuse what the method or a block needs and does not find; the reason where that bars it from a variant."""
        for each, corner in () if self._judged else judged:
            for need, path, value in unmet(each):
                if need.bars and variant:
                    return need.rule
                origin = blocks.source_path(path)
                searched = next((place for place in corner if path[: len(place)] == place), None)
                at = None if searched is None else blocks.source_path(searched) + corner[searched]
                if at is None and self.source.place(origin) == self.source.place(origin[:1]):
                    at = ("strategies", alias) if origin not in self.source.values else None
                self._problems.refuse(origin, need.rule, value, at=at)
        return None

    def _judge_all(self, search: SearchSetting) -> None:
        """Refuse, or warn of, what does nothing in the file as a whole."""
        self._note((*self._idle.findings(), *search_findings(self.data, search)))

    def _name(self, alias: str) -> Any:
        own = self.data["strategies"][alias]
        return own.get("strategy", alias) if isinstance(own, dict) else alias

    def _merge(self, alias: str, overrides: Sequence[Override]) -> Blocks | None:
        """The file's blocks, then the method's overrides, then the variant's."""
        path: Path = ("strategies", alias)
        own, name = self.data["strategies"][alias], self._name(alias)
        try:
            strategy = look_up(self.catalog.strategies, "strategy", name, ())
        except BrokenRules as error:
            named = isinstance(own, dict) and "strategy" in own
            broken = error.broken[0]
            self._problems.refuse((*path, "strategy") if named else path, broken.rule, broken.value, not named)
            return None
        if name != alias and alias in self.catalog.strategies:
            rule = f"{alias!r} is a method itself; give {name} another alias"
            self._problems.refuse((*path, "strategy"), rule, repr(name))
        data = {block: self.data.get(block, _EMPTY) for block in SHARED_BLOCKS}
        blocks = Blocks(strategy, data, checked=self._checked)
        blocks.data["options"], blocks.origins["options",] = {}, path
        chosen = own_overrides(path, own, strategy, self._problems)
        for target, value, origin in (*chosen, *overrides):
            try:
                blocks.put(target, value, origin)
            except BrokenRules as error:
                self._problems.refuse(origin, error.broken[0].rule, key=True)
        return blocks


_EMPTY: dict[str, Any] = {}
_NAME_RULE = "must consist of letters, digits, '_', '-' and '.', and begin with a letter or digit"


def _most_tasks(complete: Sequence[_Complete], search: SearchConfig | None) -> int:
    """Tasks that a search trial learns, of the longest stream on which something is searched."""
    most = max((blocks[2].stream.tasks for blocks in complete if blocks[0].space and not blocks[0].barred), default=0)
    judged = search.judged if search is not None else None
    return most if judged is None else min(most, judged.tasks)


def _home(key: str) -> str:
    """Where an option stands that was written at the top; empty where no block has it."""
    blocks = (name for name, options in SHARED_OPTIONS.items() if key in options.model_fields)
    return next((f"; it stands in another block: {name}: {{{key}: ...}}" for name in blocks), "")


def _known(names: Iterable[str]) -> str:
    return f" (known: {', '.join(names)})"
