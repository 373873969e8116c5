"""What must hold between the seeds of the phases: no run that chose a winner may score it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from raycl.spec.distribution import format_value
from raycl.spec.problems import Finding
from raycl.spec.seeds import SEED_SOURCES, STREAM_SOURCES, SeedDesign, SeedSource, runs_of
from raycl.spec.source import Path, dotted
from raycl.spec.sweep_options import FinalConfig, SearchConfig, TableConfig

Seeds = Sequence[int] | SeedDesign


def seeds_of(
    search: SearchConfig | None, final: FinalConfig | None, table: TableConfig | None = None
) -> dict[Path, Seeds]:
    """The seeds of every phase, by their place in the file."""
    found: dict[Path, Seeds] = {} if table is None else {("table", "seeds"): table.seeds}
    if search is not None:
        found["search", "seeds"] = search.seeds
        if search.finalists is not None:
            found["search", "finalists", "seeds"] = search.finalists.seeds
    if final is not None:
        found["final", "seeds"] = final.seeds
    return found


def broken_rules(phases: Mapping[Path, Seeds]) -> Iterator[Finding]:
    """What the seeds of the phases break.

    No seed of one phase stands in another. A source that has one seed in all of them is pinned, and may: the sweep asks
    about this one order of classes, say. Were all sources pinned, a run that chose a winner would score it.

    Args:
        phases: of :func:`seeds_of`.
    """
    pinned = pinned_sources(phases)
    earlier: dict[Path, Seeds] = {}
    for path, seeds in phases.items():
        if not isinstance(seeds, SeedDesign) and len(set(seeds)) < len(seeds):
            yield Finding(path, "every seed may stand once", _written(seeds))
        for other, theirs in earlier.items():
            shared = [source for source in SEED_SOURCES if source not in pinned and _meet(source, seeds, theirs)]
            if shared:
                yield Finding(path, _disjoint(other, shared), _written(seeds))
                break
        earlier[path] = seeds


def _meet(source: SeedSource, one: Seeds, other: Seeds) -> bool:
    first, second = ({getattr(run, source) for run in runs_of(seeds)} for seeds in (one, other))
    return not first.isdisjoint(second)


def _disjoint(other: Path, shared: Sequence[SeedSource]) -> str:
    told = f"must be disjoint from {dotted(other)}"
    why = "a seed that chose a winner may not score it"
    if len(shared) == len(SEED_SOURCES):
        return f"{told}; {why}"
    return (
        f"{told} in {_and(shared)}; {why}. Name other seeds of these sources, or others: N where they are not named, "
        "or give them one seed in every phase"
    )


def pinned_sources(phases: Mapping[Path, Seeds]) -> dict[SeedSource, int]:
    """The sources that have one seed in all phases; none where that is all of them."""
    runs = [run for seeds in phases.values() for run in runs_of(seeds)]
    found = {source: {getattr(run, source) for run in runs} for source in SEED_SOURCES}
    pinned = {source: seeds.pop() for source, seeds in found.items() if len(seeds) == 1}
    return {} if len(pinned) == len(SEED_SOURCES) else pinned


def pinned_beside(phases: Mapping[Path, Seeds], stream_seed: bool) -> Iterator[tuple[Finding, bool]]:
    """What is to be told of pinned sources, each with whether it is refused.

    Args:
        stream_seed: whether a stream of the sweep has a seed of its own.
    """
    for path, seeds in phases.items():
        named = [source for source in STREAM_SOURCES if isinstance(seeds, SeedDesign) and source in seeds.named]
        if named and stream_seed:
            rule = f"stream.seed decides {_and(STREAM_SOURCES)} in every run; leave {_and(named)} out, or stream.seed"
            yield Finding(path, rule, _written(seeds)), True
    pinned = pinned_sources(phases)
    if pinned and len(phases) > 1 and not stream_seed:
        told = _and([f"{source} {seed}" for source, seed in pinned.items()])
        rule = f"every phase has {told}: winners are chosen and scored on the same, and say nothing of another"
        yield Finding(list(phases)[-1], rule), False


def _written(seeds: Seeds) -> str:
    if isinstance(seeds, SeedDesign):
        return format_value(seeds.model_dump(mode="json", exclude_defaults=True))
    return format_value(list(seeds))


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
