"""A sweep: which methods, with which search spaces, on which streams, and how winners are found and scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any, Literal

from pydantic import BaseModel

from raycl.errors import UnknownName, nearest
from raycl.spec.blocks import corner_points, end_points, point_path
from raycl.spec.entry import Entry
from raycl.spec.options import Options
from raycl.spec.points import Point, active, acts
from raycl.spec.protocols import ProtocolConfig
from raycl.spec.revisions import of_later_tasks, revisions
from raycl.spec.rules import BrokenRules, moved_stream
from raycl.spec.search_rules import untried
from raycl.spec.seeds import RunSeeds
from raycl.spec.setting import BLOCK_NAMES, Registries, Setting
from raycl.spec.source import SweepSource, parse, read
from raycl.spec.sweep_file import SweepContents, SweepFile
from raycl.spec.sweep_options import DEFAULT_METRIC
from raycl.spec.trial import FORMAT_VERSION, PLACEMENT, Scalar, SweepPhase, TrialSpec, by_content, trial_fields

__all__ = ["Entry", "Runs", "SweepSpec"]


MOST_REFUSED = 10
"""Suggestions over a limit for each trial of a search, after which no others are sought."""


@dataclass(frozen=True)
class Runs:
    """Trials of one entry, at most: a choice with few values has fewer points than trials.

    A method with nothing to search has no search trials: its one point goes straight to the final phase.
    """

    search: int
    finalists: int
    final: int
    table: int = 0

    @property
    def total(self) -> int:
        return self.search + self.finalists + self.final + self.table


@dataclass(frozen=True)
class SweepSpec(SweepContents):
    """A checked sweep file.

    Attributes:
        pins: hashes of the pretrained weights by name, once the files have been read; part of the trials' hashes.
    """

    pins: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | FilePath, catalog: Registries) -> SweepSpec:
        """Read a sweep file.

        Raises:
            SpecError: with every problem and its place.
        """
        return cls.of(read(path), catalog)

    @classmethod
    def parse(cls, text: str, catalog: Registries, file: str = "<text>") -> SweepSpec:
        """Read a sweep from YAML text.

        Raises:
            SpecError: with every problem and its place.
        """
        return cls.of(parse(text, file), catalog)

    @classmethod
    def of(cls, source: SweepSource, catalog: Registries, judged: bool = False, whole: bool = False) -> SweepSpec:
        """Check a parsed file.

        Args:
            judged: whether it was found to make sense before: a file that came with results is read as it is.
            whole: keep what is searched for nothing: an earlier raycl searched that too.

        Raises:
            SpecError: with every problem and its place.
        """
        sweep = cls(**vars(SweepFile(source, catalog, judged, whole).read()))
        entries = tuple(replace(entry, mark=sweep._mark(entry)) for entry in sweep.entries)
        told = untried(sweep.search, entries, sweep.first_points) if sweep.search else ()
        return replace(sweep, entries=entries).warned(str(source.problem(*found)) for found in told)

    def dumps(self) -> str:
        """JSON for the results folder; :meth:`loads` reads it back."""
        told = {"name": self.name, "hash": self.hash, "file": self.file, "text": self.text}
        return json.dumps(told | ({"weights": dict(self.pins)} if self.pins else {}), indent=1)

    @classmethod
    def loads(cls, text: str | bytes, catalog: Registries) -> SweepSpec:
        """Read :meth:`dumps` back. What came with results is not judged anew: they can be read in any case.

        Raises:
            SpecError: this installation's catalog does not fit the sweep any more.
        """
        stored = json.loads(text)
        source, pins = parse(stored["text"], stored["file"]), stored.get("weights", {})
        sweep = cls.of(source, catalog, judged=True).pinned(pins)
        if sweep.hash == stored.get("hash"):
            return sweep
        before = cls.of(source, catalog, judged=True, whole=True).pinned(pins)
        return before if before.hash == stored.get("hash") else sweep

    def pinned(self, pins: Mapping[str, str]) -> SweepSpec:
        """The same sweep with the hashes of its pretrained weights, by name."""
        return replace(self, pins=dict(pins))

    def warned(self, warnings: Iterable[str]) -> SweepSpec:
        """The same sweep with more warnings."""
        return replace(self, warnings=(*self.warnings, *warnings))

    def corners(self) -> Iterator[Setting]:
        """The checked blocks of every entry at every end or choice of its space."""
        for entry in (entry for entry in self.entries if not entry.barred):
            yield from self.corners_of(entry.key)

    def corners_of(self, key: str) -> Iterator[Setting]:
        """The same of one entry, by its :attr:`Entry.key`."""
        blocks = self.blocks[key]
        for values, _ in corner_points(blocks.space):
            yield blocks.resolve(self.catalog, values)

    @property
    def as_it_goes(self) -> ProtocolConfig | None:
        """The protocol by which final trials choose as they go; None where a search chooses before."""
        return None if self.search is None else self.search.as_it_goes

    @property
    def metric(self) -> str:
        """What a search maximises, or would."""
        return self.search.maximised if self.search else DEFAULT_METRIC

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants in file order; one empty name where there are none."""
        return tuple(dict.fromkeys(entry.variant for entry in self.entries))

    def entry(self, key: str) -> Entry:
        """The entry with the given :attr:`Entry.key`."""
        return next(entry for entry in self.entries if entry.key == key)

    def find(self, name: str | None) -> Entry:
        """The entry of a name (``alias`` or ``variant/alias``), or the first that can run.

        Raises:
            UnknownName: none of this name can run.
        """
        able = [entry for entry in self.entries if not entry.barred]
        found = next((entry for entry in able if name in (None, entry.alias, entry.key)), None)
        if found is not None:
            return found
        if not able:
            raise UnknownName("a sweep must have a method that its streams allow (got none); `raycl check` says why")
        known = [entry.key for entry in able]
        raise UnknownName(f"this sweep runs no {name!r}{nearest(name or '', known)} (it runs: {', '.join(known)})")

    def resolved(self, entry: Entry, point: Mapping[str, Scalar]) -> Setting:
        """The checked blocks of an entry at a point of its space, as its method publishes them where they are open."""
        named = sorted(path for path, found in entry.space.items() if acts(found, point))
        if named != sorted(point):
            raise ValueError(f"a point of {entry.key} must name exactly {named} (got {sorted(point)})")
        return self.blocks[entry.key].resolve(self.catalog, self.values(entry, point)).as_published()

    def values(self, entry: Entry, point: Mapping[str, Scalar]) -> dict[tuple[str | int, ...], Any]:
        """The values of a point of an entry, by their paths in its blocks."""
        searched = {path: found for path, found in self.blocks[entry.key].space.items() if point_path(path) in point}
        return {path: found.decode(point[point_path(path)]) for path, found in searched.items()}

    def trial(
        self,
        entry: Entry,
        point: Mapping[str, Scalar],
        seed: int | RunSeeds,
        phase: SweepPhase,
        whole: bool = False,
    ) -> TrialSpec:
        """The fully resolved trial of an entry at a point of its space.

        Search and finalists score on validation data, the final phase on test data, a table on both.

        Args:
            seed: of every source of randomness, or the seeds of each.
            whole: measure all that the file asks for, in a search too.
        """
        resolved, runs = self.resolved(entry, point), RunSeeds.of(seed)
        scored = phase == "final"
        if self.search is not None and self.search.searched_on and not scored:
            resolved = replace(resolved, stream=moved_stream(resolved.stream, self.search.searched_on))
        judged = self.search.judged if self.search is not None else None
        skipped = judged.tasks if judged is not None and judged.disjoint and scored else 0
        decided = trial_fields(resolved, self.catalog)
        decided["revisions"] |= of_later_tasks(resolved.stream) if skipped else {}
        decided |= {name: self._pin(decided[name]) for name in ("stream", "model")}
        if phase == "table":
            decided["evaluation"] = resolved.evaluation.every_step()
        elif not (scored or whole):
            pruned_from = self.pruner.grace_tasks if self.pruner else None
            decided["evaluation"] = resolved.evaluation.needed(self.metric, pruned_from)
        return TrialSpec(
            **decided,
            variant=entry.variant,
            alias=entry.alias,
            strategy=entry.strategy,
            resources=self.resources,
            point=dict(point),
            seed=runs.class_order,
            seeds=runs if runs.plain is None else None,
            phase=phase,
            score_on="test" if scored else "validation",
            also_on="test" if phase == "table" else None,
            train_on=self.final.train_on if scored and self.final else "train",
            keep_checkpoint=bool(scored and self.final and self.final.keep_checkpoints),
            code=self._code(entry, resolved),
            first_tasks=judged.tasks if judged is not None and not scored else 0,
            skipped_tasks=skipped,
        )

    def _code(self, entry: Entry, resolved: Setting) -> str:
        """Fingerprint of what was registered at run time among the parts of an entry; empty where nothing was."""
        parts = (("strategies", entry.strategy), ("models", resolved.model.name), ("streams", resolved.stream.name))
        found = (getattr(self.catalog, registry).code(name) for registry, name in parts)
        return "+".join(code for code in found if code)

    def _mark(self, entry: Entry) -> str:
        """Names whatever makes an entry's trials others than the first raycl's, anywhere in its space."""
        if entry.barred:
            return ""
        blocks = self.blocks[entry.key]
        changed: dict[str, Any] = {}
        corners = [values for values, _ in corner_points(blocks.space)]
        for values in (*corners, *end_points(blocks.space)):
            try:
                resolved = blocks.resolve(self.catalog, values)
            except BrokenRules:  # ends that are fine one by one may not go together
                continue
            changed |= resolved.departures() | revisions(resolved, self.catalog)
            changed |= {"code": code} if (code := self._code(entry, resolved)) else {}
        return _digest(changed)[:8] if changed else ""

    def _pin(self, block: dict[str, Any]) -> dict[str, Any]:
        """A block with the hashes of the weights that it names. One that the file gives stays, and is held to."""
        if block.get("encode"):
            block = {**block, "encode": self._pin(block["encode"])}
        known = block.get("weights_hash") or self.pins.get(block.get("weights") or "")
        return {**block, "weights_hash": known} if known else block

    def runs(self, entry: Entry) -> Runs:
        """How many trials each phase gives an entry, at most."""
        if entry.barred:
            return Runs(0, 0, 0)
        if self.table is not None:
            return Runs(0, 0, 0, self.laid_out(entry) * len(self.table.runs))
        final = len(self.final.runs) if self.final else 0
        if self.search is None or not entry.space or self.as_it_goes is not None:
            return Runs(0, 0, final)
        finalists, suggested = self.search.finalists, self.suggestions(entry)
        again = min(finalists.top, suggested) * len(finalists.runs) if finalists else 0
        if self.search.costs:
            final *= min(self.search.top, suggested)
        return Runs(suggested * len(self.search.runs), again, final)

    def laid_out(self, entry: Entry) -> int:
        """How many points of an entry a table has."""
        assert self.table is not None
        return min(self.table.points, entry.points or self.table.points)

    # -- how a search goes through a space ---------------------------------------------------------------------

    def suggestions(self, entry: Entry) -> int:
        """How many points of an entry are tried, at most: those of a small space once each."""
        assert self.search is not None
        return min(self.search.trials, entry.points or self.search.trials)

    def tried(self, entry: Entry, points: Sequence[Mapping[str, Scalar]], refused: int = 0) -> bool:
        """Whether these points are all that is suggested: as many as asked for, or all that there are.

        Args:
            refused: so many of them are over a limit and were not run: others are suggested in their place, up to
                :data:`MOST_REFUSED` for each trial.
        """
        assert self.search is not None
        if len(points) - refused >= self.search.trials or refused >= MOST_REFUSED * self.search.trials:
            return True
        count = entry.points
        if count is None or len(points) < count:  # asked many times a second: the points are told apart only then
            return False
        return len({tuple(point.get(path) for path in entry.space) for point in points}) >= count

    def basis(self, entry: Entry) -> str:
        """8 hexadecimal digits over what the winner of an entry is chosen by, beside what names its trials."""
        if self.search is None or entry.barred:
            return ""
        finalists = self.search.finalists and self.search.finalists.model_dump(mode="json")
        seeds = self.search.model_dump(mode="json", include={"seeds"})["seeds"]
        chosen_by = {"suggestions": self.suggestions(entry), "seeds": seeds, "finalists": finalists}
        return _digest(chosen_by | {"metric": self.search.metric})[:8]

    def learns(self, entry: Entry) -> bool:
        """Whether later suggestions of an entry, or their cut-offs, depend on how earlier ones ended."""
        assert self.search is not None
        count = entry.points
        whole = count is not None and count <= self.search.trials
        return self.pruner is not None or (self.search.learns and not whole)

    def first_points(self, entry: Entry) -> Iterator[tuple[Point, Literal["enqueued", "defaults"]]]:
        """The points that are tried before all others."""
        assert self.search is not None
        own = self.defaults(entry)
        inside = {path: own.get(path, found.middle) for path, found in entry.space.items()}
        for given in self.search.enqueue:
            named = {path: value for path, value in given.items() if path != "strategy"}
            if given.get("strategy", entry.alias) == entry.alias and named.keys() <= entry.space.keys():
                drawn = {path: entry.space[path].encode(value) for path, value in named.items()}
                given_point = inside | {path: value for path, value in drawn.items() if value is not None}
                yield active(entry.space, given_point), "enqueued"
        if self.search.defaults and all(path in own or not acts(found, own) for path, found in entry.space.items()):
            yield active(entry.space, own), "defaults"

    def defaults(self, entry: Entry) -> Point:
        """The method's own values of what is searched, where they may be drawn; in the order of the space."""
        blocks = self.blocks[entry.key]
        try:
            setting = blocks.without(blocks.space).resolve(self.catalog, {}).as_published()
        except BrokenRules:  # an option that has no default
            return {}
        drawn = {path: found.encode(setting.value(path)) for path, found in entry.space.items()}
        return {path: value for path, value in drawn.items() if value is not None}

    @property
    def most_at_once(self) -> int:
        """The most search trials (or final trials, without a search) that can run at the same time."""
        search = self.search
        if search is None or self.as_it_goes is not None:
            return sum(self.runs(entry).total for entry in self.entries)
        searched = [entry for entry in self.entries if entry.space and not entry.barred]
        most = sum(self._wave(entry) for entry in searched) * len(search.runs)
        most = most or sum(self.runs(entry).final for entry in self.entries)
        return min(most, search.max_concurrent or most)

    def _wave(self, entry: Entry) -> int:
        """The most suggestions of an entry that are open at once."""
        assert self.search is not None
        most = self.suggestions(entry)
        return min(max(self.search.generation, self.search.startup), most) if self.learns(entry) else most

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that change with any key of the file that changes which trials exist.

        The name, comments, formatting, concurrency, GPUs, the baseline, kept checkpoints, where replay rows live and
        the revisions of methods change none.
        """
        decisive = {
            "format": FORMAT_VERSION,
            "entries": sorted((self._decisive(entry) for entry in self.entries), key=lambda item: str(item["key"])),
            "search": self.search and self.search.decisive(exclude={"max_concurrent"}),
            "pruner": self.pruner and self.pruner.decisive(),
            "final": self.final and self.final.decisive(exclude={"baseline", "keep_checkpoints"}),
            "cpus": self.resources.cpus,
            **({"weights": dict(self.pins)} if self.pins else {}),
            **({"table": self.table.decisive()} if self.table else {}),
        }
        return _digest(decisive)[:16]

    def _decisive(self, entry: Entry) -> dict[str, Any]:
        if entry.barred:
            return {"key": entry.key, "barred": True}
        blocks = self.blocks[entry.key]
        resolved = blocks.resolve(self.catalog, corner_points(blocks.space)[0][0])
        kept = {*BLOCK_NAMES} if blocks.strategy.uses_memory else {*BLOCK_NAMES} - {"memory"}
        fixed = {name: _before(getattr(resolved, name), PLACEMENT if name == "memory" else ()) for name in sorted(kept)}
        fixed |= {name: by_content(fixed[name]) for name in ("model", "stream")}
        space = {path: found.to_data() for path, found in entry.space.items()}
        return {"key": entry.key, "strategy": entry.strategy, "fixed": fixed, "space": space}


def _before(block: BaseModel, exclude: Collection[str]) -> dict[str, Any]:
    return block.decisive(exclude) if isinstance(block, Options) else block.model_dump(mode="json")


def _digest(decisive: Mapping[str, Any]) -> str:
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
