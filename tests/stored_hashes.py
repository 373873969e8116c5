"""The names of trials and sweeps of every shipped sweep file, as the first results had them and as they are now.

``tests/stored/hashes.json`` holds both. After a change that raises a revision, or that edits a sweep file,

    python tests/stored_hashes.py

writes the list again; what it changes there is what the change touches, and belongs into the same commit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raycl.catalog import catalog
from raycl.spec.blocks import corner_points, point_path
from raycl.spec.entry import Entry
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec, trial_fields

ROOT = Path(__file__).parents[1]
STORED = Path(__file__).parent / "stored" / "hashes.json"
FILES = sorted([*(ROOT / "sweeps").rglob("*.yaml"), *(ROOT / "docs").glob("*.yaml")])


def first_name(sweep: SweepSpec, trial: TrialSpec, entry: Entry) -> str:
    """The trial's hash without whatever has changed since the first results."""
    blocks = sweep.blocks[entry.key]
    middle = entry.middle
    values = {path: found.decode(middle[point_path(path)]) for path, found in blocks.space.items()}
    fields = trial_fields(blocks.resolve(sweep.catalog, values), sweep.catalog)
    return TrialSpec.loads(trial.model_copy(update={**fields, "revisions": {}, "code": ""}).dumps()).hash


def why(sweep: SweepSpec, trial: TrialSpec, entry: Entry) -> dict[str, Any]:
    """What has changed: revisions by part, and options that the method publishes otherwise."""
    blocks = sweep.blocks[entry.key]
    plain = blocks.resolve(sweep.catalog, corner_points(blocks.space)[0][0])
    return {**trial.revisions, **plain.departures()}


def collect() -> dict[str, Any]:
    """File -> the sweep's hash, and of each entry the hash of one trial: first, now, and why they differ."""
    found: dict[str, Any] = {}
    for file in FILES:
        sweep = SweepSpec.load(file, catalog())
        trials = {}
        for entry in (entry for entry in sweep.entries if not entry.barred):
            phase = "final" if sweep.final else "table" if sweep.table else "search"
            trial = sweep.trial(entry, entry.middle, 0, phase)
            reasons = why(sweep, trial, entry)
            first = first_name(sweep, trial, entry)
            trials[entry.key] = [first, *([trial.hash, reasons] if reasons else [])]
        found[file.relative_to(ROOT).as_posix()] = {"sweep": sweep.hash, "trials": trials}
    return found


if __name__ == "__main__":
    lines = json.dumps(collect(), separators=(",", ":")).replace('},"s', '},\n"s').replace('],"', '],\n "')
    STORED.write_text(lines + "\n")
