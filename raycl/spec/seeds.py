"""The seeds of a run, one for each source of its randomness, and the designs by which a phase combines them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Annotated, Literal, Self, TypeAlias, get_args

from pydantic import AfterValidator, Field, model_validator

from raycl.spec.options import Options, Seed

SeedSource = Literal["class_order", "split", "model", "batches"]
SEED_SOURCES: tuple[SeedSource, ...] = get_args(SeedSource)
STREAM_SOURCES: tuple[SeedSource, ...] = ("class_order", "split")
"""What ``stream.seed`` pins."""

MOST_RUNS = 1000
"""Seeds of a phase, as of each method and point."""

_CLASS_ORDER = "order of classes, permutations and angles"
_SPLIT = "which rows validate and train, which of them a task holds, in what order, and which tasks a sample measures"
_MODEL = "every network's start: weights, masks, embeddings, and those that grow later"
_BATCHES = "everything else: order of batches, replay, memory, dropout, augmentation, noise"


class RunSeeds(Options):
    """The seeds of one run."""

    class_order: Seed = Field(description=_CLASS_ORDER)
    split: Seed = Field(description=_SPLIT)
    model: Seed = Field(description=_MODEL)
    batches: Seed = Field(description=_BATCHES)

    @classmethod
    def of(cls, seed: int | RunSeeds) -> RunSeeds:
        """One number is the seed of every source."""
        if isinstance(seed, RunSeeds):
            return seed
        return cls(class_order=seed, split=seed, model=seed, batches=seed)

    @property
    def plain(self) -> int | None:
        """The one seed of every source; None where they differ."""
        return self.class_order if len(set(self.values)) == 1 else None

    @property
    def values(self) -> tuple[int, ...]:
        """In the order of :data:`SEED_SOURCES`."""
        return tuple(getattr(self, source) for source in SEED_SOURCES)

    @property
    def label(self) -> str:
        """Equal for equal seeds, and for no others: ``3``, or ``3/1/2/2`` in the order of :data:`SEED_SOURCES`."""
        return "/".join(map(str, self.values)) if self.plain is None else str(self.plain)

    @property
    def told(self) -> int | str:
        """For documents: the number of a run that has one seed, else the label."""
        return self.label if self.plain is None else self.plain


_Listed = Annotated[tuple[Seed, ...], Field(min_length=1, max_length=MOST_RUNS)]


class SeedDesign(Options):
    """Seeds of each source of randomness, in place of a list of seeds that all sources share."""

    class_order: _Listed | None = Field(None, description=_CLASS_ORDER)
    split: _Listed | None = Field(None, description=_SPLIT)
    model: _Listed | None = Field(None, description=_MODEL)
    batches: _Listed | None = Field(None, description=_BATCHES)
    others: Seed = Field(0, description="of the sources that are not named, in every run")
    crossed: bool = Field(
        False,
        description="a run for every combination; otherwise the i-th seed of each list makes the i-th run, and a list "
        "of one stands in all of them",
    )

    @model_validator(mode="after")
    def _makes_runs(self) -> Self:
        named = self.named
        lengths = {source: len(seeds) for source, seeds in named.items()}
        if not named:
            raise ValueError(f"must name a source: {', '.join(SEED_SOURCES)}")
        if len(named) == len(SEED_SOURCES) and "others" in self.model_fields_set:
            raise ValueError("others does nothing beside all four sources; leave it out")
        if self.crossed and prod(lengths.values()) > MOST_RUNS:
            raise ValueError(f"may cross seeds to at most {MOST_RUNS:,} runs (got {prod(lengths.values()):,})")
        if not self.crossed and len(set(lengths.values()) - {1}) > 1:
            told = ", ".join(f"{source} {length}" for source, length in lengths.items())
            raise ValueError(f"must pair lists of equal length, or of one seed (got {told}); or set crossed: true")
        if len(set(self.runs)) < len(self.runs):
            raise ValueError("every combination of seeds may stand once")
        return self

    @property
    def named(self) -> dict[SeedSource, tuple[int, ...]]:
        """The seeds of the sources that are named."""
        found = {source: getattr(self, source) for source in SEED_SOURCES}
        return {source: seeds for source, seeds in found.items() if seeds is not None}

    @property
    def runs(self) -> tuple[RunSeeds, ...]:
        """The runs, in order; crossed, the last source changes first."""
        lists = [self.named.get(source, (self.others,)) for source in SEED_SOURCES]
        if self.crossed:
            combined = list(product(*lists))
        else:
            count = max(map(len, lists))
            combined = list(zip(*(seeds * (count if len(seeds) == 1 else 1) for seeds in lists), strict=True))
        return tuple(RunSeeds(**dict(zip(SEED_SOURCES, seeds, strict=True))) for seeds in combined)


def _listed(seeds: tuple[int, ...] | SeedDesign) -> tuple[int, ...] | SeedDesign:
    """One form for each design: a list of seeds where the sources share all of them; nothing is crossed where a single
    source varies, and a seed that stands in every run is written once."""
    if isinstance(seeds, tuple):
        return seeds
    shared = [run.plain for run in seeds.runs]
    if None not in shared:
        return tuple(seed for seed in shared if seed is not None)
    once = {str(source): own[:1] if len(set(own)) == 1 else own for source, own in seeds.named.items()}
    crossed = seeds.crossed and sum(len(own) > 1 for own in once.values()) > 1
    return seeds.model_copy(update={**once, "crossed": crossed})


AnySeeds: TypeAlias = Annotated[
    Annotated[tuple[Seed, ...], Field(max_length=MOST_RUNS)] | SeedDesign, AfterValidator(_listed)
]
"""The seeds of a phase: a list for all sources, or a design."""
PhaseSeeds: TypeAlias = Annotated[_Listed | SeedDesign, AfterValidator(_listed)]
"""The same, of a phase that has a run at least."""


def runs_of(seeds: Sequence[int] | SeedDesign) -> tuple[RunSeeds, ...]:
    """The runs of a phase, in order."""
    return seeds.runs if isinstance(seeds, SeedDesign) else tuple(map(RunSeeds.of, seeds))
