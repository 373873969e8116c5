"""The seeds of a trial in the trials table: one column for the run, and one for each source of its randomness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycl.spec.seeds import SEED_SOURCES, RunSeeds
from raycl.spec.trial import TrialSpec

SEED_COLUMNS = tuple(f"seed_{source}" for source in SEED_SOURCES)


def seed_values(spec: TrialSpec) -> dict[str, int | None]:
    """The values of ``seed``, null where the sources differ, and of :data:`SEED_COLUMNS`."""
    runs = spec.run_seeds
    return {"seed": runs.plain, **dict(zip(SEED_COLUMNS, runs.values, strict=True))}


def with_seeds(trials: pa.Table) -> pa.Table:
    """The trials table with the seeds of every source also where it was written before they were told apart.

    Args:
        trials: has all columns, of which those that came later may be null.
    """
    for name in SEED_COLUMNS:
        place = trials.schema.get_field_index(name)
        trials = trials.set_column(place, trials.field(place), pc.coalesce(trials[name], trials["seed"]))
    return trials


def seeds_in(trial: Mapping[str, Any]) -> RunSeeds:
    """The seeds of a row of the trials table: of trials that pair, equal."""
    return RunSeeds(**{source: trial[name] for source, name in zip(SEED_SOURCES, SEED_COLUMNS, strict=True)})
