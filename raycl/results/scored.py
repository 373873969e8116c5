"""How often test data were looked at: every score on them is a chance to choose by it, whoever does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from raycl.results.reading import Folder, read_trials
from raycl.results.seed_columns import seeds_in

SPLITS = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("split_hash", "stream", "dataset")),
        pa.field("seeds", pa.list_(pa.string())),
        *(pa.field(name, pa.int32()) for name in ("scored", "methods")),
    ]
)
"""A row for each split: its fingerprint (null in results that have none: a split is then what one stream and seed
give), the seeds of the runs that have it, how many trials were scored on its test rows, and of how many learners."""


def times_scored(folder: Folder) -> pa.Table:
    """How often each split of the test data was scored in a results folder, of schema :data:`SPLITS`.

    Trials of former winners count, and those of a table, and those that failed after a task: their scores were seen.

    Raises:
        TornFile: a part is damaged or missing; ``raycl resume`` repairs it.
    """
    return splits_of(read_trials(folder).to_pylist())


def splits_of(trials: Iterable[Mapping[str, Any]]) -> pa.Table:
    """:func:`times_scored`, of rows of the trials table."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for trial in trials:
        spec = json.loads(trial["spec"])
        if "test" in (trial["scored_on"], spec.get("also_on")) and trial["tasks_done"]:
            seeds = seeds_in(trial)
            stream = json.dumps([spec["stream"], seeds.class_order, seeds.split], sort_keys=True)
            found.setdefault(trial["split_hash"] or stream, []).append(trial)
    return pa.Table.from_pylist([_split(own) for own in found.values()], schema=SPLITS)


def _split(trials: list[Mapping[str, Any]]) -> dict[str, Any]:
    specs = [json.loads(trial["spec"]) for trial in trials]
    learners = {
        json.dumps([spec[key] for key in ("strategy", "options", "model", "training", "memory")], sort_keys=True)
        for spec in specs
    }
    return {
        "split_hash": trials[0]["split_hash"],
        "stream": specs[0]["stream"]["name"],
        "dataset": specs[0]["stream"].get("dataset"),
        "seeds": list(dict.fromkeys(seeds_in(trial).label for trial in trials)),
        "scored": len(trials),
        "methods": len(learners),
    }


def merged(tables: Iterable[pa.Table]) -> pa.Table:
    """The counts of several folders as those of one; of methods the most that one of them has."""
    found: dict[Any, dict[str, Any]] = {}
    for row in (row for table in tables for row in table.to_pylist()):
        known = found.setdefault(row["split_hash"] or len(found), {**row, "scored": 0, "methods": 0})
        known |= {"scored": known["scored"] + row["scored"], "methods": max(known["methods"], row["methods"])}
    return pa.Table.from_pylist(list(found.values()), schema=SPLITS)


def told(splits: pa.Table, folders: int = 1) -> list[str]:
    """The table in a sentence; none where no test data were seen."""
    counts = splits["scored"].to_pylist()
    if not counts:
        return []
    where = f"over {len(counts)} splits, at most {max(counts)} on each" if len(counts) > 1 else "over one split"
    return [f"Scores on test data in {'this folder' if folders == 1 else 'these folders'}: {sum(counts)}, {where}."]
