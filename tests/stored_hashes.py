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
from raycl.spec.blocks import corner_points
from raycl.spec.published import departures
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec

ROOT = Path(__file__).parents[1]
STORED = Path(__file__).parent / "stored" / "hashes.json"
FILES = sorted([*(ROOT / "sweeps").rglob("*.yaml"), *(ROOT / "docs").glob("*.yaml")])


def first_name(trial: TrialSpec, open_options: dict[str, Any]) -> str:
    """The trial's hash without whatever has changed since the first results."""
    blocks: dict[str, dict[str, Any]] = {}
    for path, value in open_options.items():
        block, _, name = path.partition(".")
        blocks.setdefault(block, {})[name] = value
    update: dict[str, Any] = {"revisions": {}, "code": ""}
    for block, values in blocks.items():
        held = getattr(trial, block)
        update[block] = {**held, **values} if isinstance(held, dict) else held.model_copy(update=values)
    return TrialSpec.loads(trial.model_copy(update=update).dumps()).hash


def collect() -> dict[str, Any]:
    """File -> the sweep's hash, and of each entry the hash of one trial: first, now, and why they differ."""
    found: dict[str, Any] = {}
    for file in FILES:
        sweep = SweepSpec.load(file, catalog())
        trials = {}
        for entry in (entry for entry in sweep.entries if not entry.barred):
            trial = sweep.trial(entry, entry.middle, 0, "final" if sweep.final else "search")
            blocks = sweep.blocks[entry.key]
            plain = blocks.resolve(sweep.catalog, corner_points(blocks.space)[0][0])
            shared = {name: getattr(plain, name) for name in ("model", "training", "memory")}
            published = departures(blocks.strategy, plain.stream.scenario, shared)
            left_open = {path: getattr(shared[path.partition(".")[0]], path.partition(".")[2]) for path in published}
            why = {**trial.revisions, **published}
            trials[entry.key] = [first_name(trial, left_open), *([trial.hash, why] if why else [])]
        found[file.relative_to(ROOT).as_posix()] = {"sweep": sweep.hash, "trials": trials}
    return found


if __name__ == "__main__":
    lines = json.dumps(collect(), separators=(",", ":")).replace('},"s', '},\n"s').replace('],"', '],\n "')
    STORED.write_text(lines + "\n")
