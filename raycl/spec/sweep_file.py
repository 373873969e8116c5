"""From a parsed file to a checked sweep: every broken rule is collected, with its place, before any is raised."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import BaseModel

from raycl.errors import Problem, SpecError, nearest
from raycl.spec.blocks import Blocks, Catalog, Checked, Resolved, corner_points, look_up, point_path
from raycl.spec.check import (
    Extents,
    Finding,
    IdleOptions,
    always_idle,
    combinations,
    search_findings,
    setting,
    unmet,
)
from raycl.spec.entry import Entry
from raycl.spec.needs import SearchSetting, Setting
from raycl.spec.options import (
    FinalConfig,
    LimitsConfig,
    MemoryConfig,
    PrunerConfig,
    ResourcesConfig,
    SearchConfig,
    TrainingConfig,
)
from raycl.spec.rules import Broken, BrokenRules, validate
from raycl.spec.source import MAX_PROBLEMS, Path, Source, dotted
from raycl.spec.space import SEARCH, LogUniform, QUniform, Uniform, format_value

O = TypeVar("O", bound=BaseModel)  # noqa: E741
S = TypeVar("S")

TOP_KEYS = {
    "name": "names the sweep's results folder",
    "stream": "what is learned",
    "model": "the network that every method trains",
    "training": "how one task is learned",
    "memory": "the replay memory of methods that keep examples",
    "strategies": "the methods that are compared",
    "search": "how hyperparameters are found, on validation data",
    "pruner": "stops bad search trials early",
    "final": "how winners are scored, on test data",
    "evaluation": "what is measured after every task",
    "limits": "what a method may take",
    "resources": "what one trial asks of the cluster",
    "variants": "the same question on several streams or budgets",
}
REQUIRED = ("name", "stream", "model", "strategies")
STRATEGY_OVERRIDES = ("training", "model", "memory")
VARIANT_OVERRIDES = ("stream", "training", "model", "memory", "evaluation", "limits")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

MOST_ENTRIES, MOST_DIMENSIONS, MOST_POINTS = 1000, 64, 4_000
"""What a file may ask to be checked in a second or two."""
_SIZE = re.compile(r"capacity|hidden|width|channels|embedding|units|memory_size|per_class")

_Override = tuple[Path, Any, Path]
"""Target path in the merged blocks, value, and where in the file it stands."""
_Complete = tuple[Entry, Blocks, Resolved]


class SweepFile:
    """Reads one file. Use once: ``SweepFile(source, catalog).sweep(SweepSpec)``.

    Args:
        judged: whether it was found to make sense before: a file that came with results is read as it is.
        whole: keep what is searched for nothing: an earlier raycl searched that too.
    """

    def __init__(self, source: Source, catalog: Catalog, judged: bool = False, whole: bool = False) -> None:
        self.source = source
        self.data = source.data
        self.catalog = catalog
        self._judged = judged
        self._whole = whole
        self._extents = Extents(catalog)
        self._checked: Checked = {}
        self._points = 0
        self._idle = IdleOptions()
        self._problems: dict[Problem, None] = {}
        self._warned: dict[Problem, None] = {}

    def sweep(self, build: Callable[..., S]) -> S:
        """What ``build`` makes of the checked sweep.

        Raises:
            SpecError: with every problem, in file order.
        """
        self._top_level()
        search = self._block("search", SearchConfig)
        pruner = self._block("pruner", PrunerConfig)
        final = self._block("final", FinalConfig)
        limits = self._block("limits", LimitsConfig) or LimitsConfig()
        resources = self._block("resources", ResourcesConfig) or ResourcesConfig()
        self._phases(search, final)
        variants = self._variants()
        strategies = self._mapping(("strategies",), "must name at least one method as a key, such as naive: {}")
        if len(variants) * len(strategies) > MOST_ENTRIES:
            rule = f"strategies times variants may give at most {MOST_ENTRIES:,} entries"
            self._refuse(("strategies",), rule, f"{len(strategies)} x {len(variants)}", key=True)
            raise SpecError(list(self._problems))
        found = [
            self._entry(variant, overrides, alias) for variant, overrides in variants.items() for alias in strategies
        ]
        complete = [item for item in found if item is not None]
        if len(complete) == len(found) and not self._judged:
            self._judge_all(SearchSetting(search, pruner, final, _most_tasks(complete)))
        if self._problems:
            raise SpecError(sorted(self._problems, key=_in_file_order))
        for entry, blocks, resolved in complete:
            self._warn_of(entry, blocks, resolved)
        if pruner is not None and pruner.scheduler == "asha":
            rule = "asha is not reproducible: what it prunes depends on who finishes first"
            self._warn(Finding(("pruner", "scheduler"), rule))
        return build(
            name=self.data["name"],
            text=self.source.text,
            file=self.source.file,
            search=search,
            pruner=pruner,
            final=final,
            limits=limits,
            resources=resources,
            stream=complete[0][2].stream,
            entries=tuple(entry for entry, _, _ in complete),
            warnings=tuple(map(str, sorted(self._warned, key=_in_file_order))),
            catalog=self.catalog,
            blocks={entry.key: blocks for entry, blocks, _ in complete},
        )

    # -- problems ----------------------------------------------------------------------------------------------

    def _refuse(self, path: Path, rule: str, value: str = "", key: bool = False, at: Path | None = None) -> None:
        """Note a problem of ``path``; ``at``: where to point instead."""
        place = self.source.place(path if at is None else at, key)
        if len(self._problems) == MAX_PROBLEMS:
            raise SpecError(
                [*sorted(self._problems, key=_in_file_order), Problem("file", _MORE, file=self.source.file)]
            )
        self._problems[Problem(dotted(path), rule, value, place.line, place.column, self.source.file)] = None

    def _warn(self, found: Finding) -> None:
        self._warned[self.source.problem(found.path, found.rule, found.value, found.key)] = None

    def _refuse_broken(self, broken: Sequence[Broken], blocks: Blocks, corner: Mapping[Path, Path]) -> None:
        """Note what is wrong in merged blocks; a value of a distribution is pointed at by its end or choice."""
        for entry in broken:
            rule, at = entry.rule, None
            searched = next((path for path in corner if entry.path[: len(path)] == path), None)
            if searched is not None and not entry.key:
                at = blocks.source_path(searched) + corner[searched]
                real = isinstance(blocks.space[searched], (Uniform, LogUniform, QUniform))
                rule += "; use randint or lograndint" if real and rule.endswith("whole number") else ""
            self._refuse(blocks.source_path(entry.path), rule, entry.value, entry.key, at)

    # -- the top level -----------------------------------------------------------------------------------------

    def _top_level(self) -> None:
        for key in self.data:
            if key not in TOP_KEYS:
                self._refuse((key,), f"unknown key{nearest(key, TOP_KEYS) or _known(TOP_KEYS)}", key=True)
        for key in REQUIRED:
            if key not in self.data:
                self._refuse((key,), f"is required: {TOP_KEYS[key]}")
        name = self.data.get("name", "a")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            self._refuse(("name",), _NAME_RULE, format_value(name))

    def _mapping(self, path: Path, rule: str) -> dict[str, Any]:
        """The mapping of names at a top-level key, without the names that are refused."""
        data = self.data.get(str(path[0]), {})
        if str(path[0]) in self.data and (not isinstance(data, dict) or not data):
            self._refuse(path, rule, format_value(data))
            return {}
        for name in data:
            if not NAME.fullmatch(name):
                self._refuse((*path, name), _NAME_RULE, format_value(name), key=True)
        return dict(data)

    def _block(self, key: str, options: type[O]) -> O | None:
        """A block that holds no distributions; None where the file has none, or where it is refused."""
        if key not in self.data:
            return None
        try:
            return validate(options, self.data[key])
        except BrokenRules as error:
            for entry in error.broken:
                self._refuse((key, *entry.path), entry.rule, entry.value, entry.key)
            return None

    def _phases(self, search: SearchConfig | None, final: FinalConfig | None) -> None:
        """What must hold between search, pruner and final."""
        if "search" not in self.data and "final" not in self.data:
            self._refuse(("search",), "give search, final or both; otherwise there is nothing to run")
        if "pruner" in self.data and "search" not in self.data:
            self._refuse(("pruner",), "prunes search trials, but there is no search", key=True)
        seeds: dict[Path, tuple[int, ...]] = {}
        if search is not None:
            seeds["search", "seeds"] = search.seeds
            if search.finalists is not None:
                seeds["search", "finalists", "seeds"] = search.finalists.seeds
        if final is not None:
            seeds["final", "seeds"] = final.seeds
        earlier: dict[int, Path] = {}
        for path, values in seeds.items():
            for seed in dict.fromkeys(values):
                if values.count(seed) > 1:
                    self._refuse(path, "every seed may stand once", format_value(list(values)))
                if seed in earlier:
                    rule = f"must be disjoint from {dotted(earlier[seed])}; a seed that chose a winner may not score it"
                    self._refuse(path, rule, format_value(list(values)))
                earlier.setdefault(seed, path)

    def _variants(self) -> dict[str, list[_Override]]:
        """Overrides by the variant's name; one nameless variant where the file has none."""
        names = self._mapping(("variants",), "must name at least one variant, such as small: {memory.capacity: 200}")
        variants: dict[str, list[_Override]] = {}
        for name, data in names.items():
            path = ("variants", name)
            if not isinstance(data, dict):
                rule = "must be a mapping of dotted paths, such as memory.capacity: 200"
                self._refuse(path, rule, format_value(data))
                continue
            targets = [self._target((*path, key), VARIANT_OVERRIDES) for key in data]
            pairs = zip(targets, data.items(), strict=True)
            variants[name] = [(target, value, (*path, key)) for target, (key, value) in pairs if target]
        return variants or {"": []}

    def _target(self, origin: Path, roots: Sequence[str]) -> Path:
        """What a dotted key overrides; empty where it is refused."""
        key = str(origin[-1])
        root, *rest = key.split(".")
        if root not in roots or not all(rest) or not rest:
            hint = nearest(root, roots) if root not in roots else ""
            rule = f"must be a dotted path below {', '.join(roots)}, such as {roots[0]}.{_EXAMPLES[roots[0]]}{hint}"
            self._refuse(origin, rule, repr(key), key=True)
            return ()
        return (root, *rest)

    # -- one method in one variant -----------------------------------------------------------------------------

    def _entry(self, variant: str, overrides: Sequence[_Override], alias: str) -> _Complete | None:
        """The checked entry with its blocks; None where a problem was noted."""
        before = len(self._problems)
        blocks = self._merge(alias, overrides)
        if blocks is None:
            return None
        malformed = blocks.find_space()
        for path, error in malformed.items():
            origin, shown = blocks.source_path(path), "" if error.value is None else format_value(error.value)
            self._refuse(origin, error.rule, shown, at=origin + error.at)
        self._points += sum(len(found.ends) for found in blocks.space.values())
        if len(blocks.space) > MOST_DIMENSIONS or self._points > MOST_POINTS:
            rule = f"at most {MOST_DIMENSIONS} values of a method may be searched, with {MOST_POINTS:,} ends in all"
            self._refuse(("strategies", alias), rule, f"{len(blocks.space)} and {self._points}", key=True)
            return None
        corners = corner_points(blocks.space)
        judged: list[tuple[Setting, Mapping[Path, Path]]] = []
        resolved: Resolved | None = None
        for values, corner in corners:
            try:
                found = blocks.resolve(self.catalog, values)
            except BrokenRules as rules:
                fresh = [item for item in rules.broken if not any(item.path[: len(bad)] == bad for bad in malformed)]
                self._refuse_broken(fresh, blocks, corner)
                continue
            resolved = resolved or found
            judged.append((setting(blocks.strategy, found, self._extents), corner))
        if "search" not in self.data:
            for path, searched in blocks.space.items():
                rule = "is searched, but there is no search; add search: {trials: 20}, or write a value"
                self._refuse(blocks.source_path(path), rule, str(searched))
        barred = None if resolved is None else self._barred(variant, alias, blocks, resolved)
        if resolved is None or malformed or len(self._problems) > before:
            return None
        barred = barred or self._judge(variant, alias, blocks, judged)
        if barred is None and not self._whole:
            every = [each for each, _ in judged] + list(self._more(blocks, corners[0][0]))
            blocks = self._idle.judge(blocks, always_idle(every), every[0])
        if not blocks.strategy.uses_memory:
            blocks = blocks.without_memory()
        space = {point_path(path): searched for path, searched in blocks.space.items()}
        return Entry(variant, alias, self._name(alias), space, barred), blocks, resolved

    def _more(self, blocks: Blocks, first: Mapping[Path, Any]) -> Iterator[Setting]:
        """Settings inside the space, beside those at its corners."""
        for values in combinations(blocks, first):
            with suppress(BrokenRules):
                yield setting(blocks.strategy, blocks.resolve(self.catalog, values), self._extents)

    def _judge(
        self, variant: str, alias: str, blocks: Blocks, judged: Sequence[tuple[Setting, Mapping[Path, Path]]]
    ) -> str | None:
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
                self._refuse(origin, need.rule, value, at=at)
        return None

    def _judge_all(self, search: SearchSetting) -> None:
        """Refuse, or warn of, what does nothing in the file as a whole."""
        for found, refused in (*self._idle.findings(), *search_findings(self.data, search)):
            if refused:
                self._refuse(found.path, found.rule, found.value, found.key)
            else:
                self._warn(found)

    def _name(self, alias: str) -> Any:
        own = self.data["strategies"][alias]
        return own.get("strategy", alias) if isinstance(own, dict) else alias

    def _merge(self, alias: str, overrides: Sequence[_Override]) -> Blocks | None:
        """The file's blocks, then the method's overrides, then the variant's."""
        path: Path = ("strategies", alias)
        own, name = self.data["strategies"][alias], self._name(alias)
        try:
            strategy = look_up(self.catalog.strategies, "strategy", name, ())
        except BrokenRules as error:
            named = isinstance(own, dict) and "strategy" in own
            self._refuse((*path, "strategy") if named else path, error.broken[0].rule, error.broken[0].value, not named)
            return None
        if name != alias and alias in self.catalog.strategies:
            self._refuse((*path, "strategy"), f"{alias!r} is a method itself; give {name} another alias", repr(name))
        data = {block: self.data.get(block, _EMPTY) for block in VARIANT_OVERRIDES}
        blocks = Blocks(strategy, data, checked=self._checked)
        blocks.data["options"], blocks.origins["options",] = {}, path
        chosen = self._own(path, own, strategy)
        for target, value, origin in (*chosen, *overrides):
            try:
                blocks.put(target, value, origin)
            except BrokenRules as error:
                self._refuse(origin, error.broken[0].rule, key=True)
        return blocks

    def _own(self, path: Path, own: Any, strategy: Any) -> list[_Override]:
        """The keys of a strategy's block as overrides."""
        usual = strategy.Config.search_space
        if own == SEARCH and usual:
            return [(_own_target(key), value, path) for key, value in usual.items()]
        if not isinstance(own, dict):
            rule = "has no usual search space; write {} or options" if own == SEARCH else "must be a mapping of options"
            self._refuse(path, rule, "" if own == SEARCH else format_value(own))
            return []
        chosen: list[_Override] = []
        known = strategy.Config.model_fields
        for key, value in own.items():
            origin = (*path, key)
            blocks = [block for block, fields in _FIELDS.items() if key in fields and key not in known]
            if key == "strategy":
                continue
            if key not in known and key in STRATEGY_OVERRIDES:
                example = f"{key}.{_EXAMPLES[key]}"
                self._refuse(origin, f"unknown key; override the block by a dotted path such as {example}", key=True)
            elif blocks:
                self._refuse(origin, f"unknown key; did you mean '{blocks[0]}.{key}'?", key=True)
            elif key.startswith("memory.") and not strategy.uses_memory:
                self._refuse(origin, "does nothing: this method keeps no examples", key=True)
            elif "." not in key:
                chosen.append((("options", key), value, origin))
            elif target := self._target(origin, STRATEGY_OVERRIDES):
                chosen.append((target, value, origin))
        return chosen

    def _barred(self, variant: str, alias: str, blocks: Blocks, resolved: Resolved) -> str | None:
        """Why the method cannot run on this stream; a problem where there are no variants in which it might."""
        strategy, stream = blocks.strategy, resolved.stream
        reason = None
        if stream.scenario not in strategy.scenarios:
            able = ", ".join(sorted(strategy.scenarios))
            reason = f"cannot do scenario {stream.scenario!r}, only {able}"
        elif stream.boundaries == "hidden" and not strategy.boundary_free:
            reason = "must be told where a task ends, but stream.boundaries is 'hidden'"
        elif stream.boundaries == "hidden" and _per_task_head(resolved):
            reason = "cannot grow a head per task where stream.boundaries is 'hidden'; use model.head: single"
        elif resolved.model.weights is not None and not strategy.pretrained:
            reason = "makes its own weights, and cannot start from model.weights"
        if reason and not variant:
            self._refuse(("strategies", alias), f"this method {reason}; remove it or change the stream", key=True)
        return reason

    def _warn_of(self, entry: Entry, blocks: Blocks, resolved: Resolved) -> None:
        """Tell what is allowed of an entry, but probably not meant."""
        if not entry.space and "final" not in self.data and not entry.barred:
            rule = "does not run: it has nothing to search, and there is no final phase"
            self._warn(Finding(("strategies", entry.alias), rule, key=True))
        if not entry.variant and not any(resolved.limits.model_dump().values()):
            for path, searched in blocks.space.items():
                name = next(str(part) for part in reversed(path) if isinstance(part, str))
                if _SIZE.search(name):
                    rule = (
                        f"{searched} buys accuracy by size; "
                        "add limits: {max_state_bytes: ...}, or lay the sizes out as variants"
                    )
                    self._warn(Finding(blocks.source_path(path), rule))
        own = self.data["strategies"][entry.alias]
        for path, origin in blocks.origins.items():
            if origin[0] == "variants" and isinstance(own, dict) and dotted(path) in own:
                rule = f"replaces the value of strategies.{entry.alias} in this variant"
                self._warn(Finding(origin, rule))


_EMPTY: dict[str, Any] = {}
_MORE = f"has more problems than these {MAX_PROBLEMS}"
_NAME_RULE = "must consist of letters, digits, '_', '-' and '.', and begin with a letter or digit"
_EXAMPLES = {"stream": "tasks", "training": "learning_rate", "model": "hidden", "memory": "capacity"}
_FIELDS = {"training": TrainingConfig.model_fields, "memory": MemoryConfig.model_fields}


def _in_file_order(problem: Problem) -> tuple[int, int]:
    return problem.line, problem.column


def _most_tasks(complete: Sequence[_Complete]) -> int:
    """Tasks of the longest stream on which something is searched."""
    return max((blocks[2].stream.tasks for blocks in complete if blocks[0].space and not blocks[0].barred), default=0)


def _per_task_head(resolved: Resolved) -> bool:
    head = resolved.model.head
    return head == "per_task" or (head == "auto" and resolved.stream.scenario == "task")


def _own_target(key: str) -> Path:
    """A key of a usual search space as a path in the merged blocks."""
    root, *rest = key.split(".")
    return (root, *rest) if rest and root in STRATEGY_OVERRIDES else ("options", root, *rest)


def _known(names: Iterable[str]) -> str:
    return f" (known: {', '.join(names)})"
