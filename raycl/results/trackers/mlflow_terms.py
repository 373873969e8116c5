"""What MLflow's runs are called, and say of a trial: names, tags, parameters, data. No MLflow here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from raycl.results.decisions import suggestion_path
from raycl.results.store import ResultsFolder
from raycl.spec.entry import entry_key
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec

LAYOUT = "2"
"""Of names, tags and metrics; runs of another one are written anew."""
SEPARATOR = " · "
SEARCHED, FIXED = "searched/", "fixed/"
MOST_DIGEST = 36
"""Characters of a data set's digest, as servers have it."""


class Suggestions:
    """The numbers of points in the order in which a search suggested them; each file is read once."""

    def __init__(self, results: ResultsFolder, sweep: SweepSpec | None) -> None:
        self._results = results
        self._entries = {entry.key: entry for entry in sweep.entries} if sweep else {}
        self._known: dict[str, dict[str, int]] = {}
        self._next: dict[str, int] = {}

    def number(self, spec: TrialSpec) -> int | None:
        """The first suggestion that a trial answers, as its file is called; None where nothing suggested it."""
        entry = self._entries.get(entry_key(spec.variant, spec.alias))
        if entry is None or not spec.point or spec.phase == "table":
            return None
        known, point = self._known.setdefault(entry.key, {}), _canonical(spec.point)
        while point not in known:
            index = self._next.get(entry.key, 0)
            stored = self._results.read_json(suggestion_path(entry, index))
            if stored is None:
                return None
            known.setdefault(_canonical(stored["point"]), index)
            self._next[entry.key] = index + 1
        return known[point]


def run_name(spec: TrialSpec, number: int | None, keys: str = "") -> str:
    """``replay · search 03 · seed 0``.

    Args:
        keys: the methods that share the trial, where it is not its own alone.
    """
    numbered = spec.phase in ("search", "finalists") and number is not None
    phase = f"{spec.phase} {number:02d}" if numbered else spec.phase
    return SEPARATOR.join((keys or entry_key(spec.variant, spec.alias), phase, f"seed {spec.seed_label}"))


def tags_of(spec: TrialSpec, number: int | None) -> dict[str, str]:
    """What runs are filtered and grouped by."""
    names = ("phase", "alias", "strategy", "variant", "score_on", "train_on")
    found = {f"raycl.{name}": str(getattr(spec, name)) for name in names}
    found |= {"raycl.seed": spec.seed_label, "raycl.point": _canonical(spec.point)}
    found |= {} if number is None else {"raycl.suggestion": str(number)}
    return {name: text for name, text in found.items() if text}


def parameters_of(spec: TrialSpec) -> dict[str, str]:
    """Hyperparameters, the searched ones apart from those that the sweep file fixes; one text for one value."""
    return {
        (SEARCHED if path in spec.point else FIXED) + path: _text(value)
        for path, value in spec.hyperparameters().items()
    }


def data_set(spec: TrialSpec, provenance: Mapping[str, Any]) -> dict[str, str]:
    """The fields of MLflow's data set: the stream, with the fingerprint of what is train, validation and test."""
    stream = spec.stream
    name = f"{stream.get('dataset', stream.get('name'))} {stream.get('name')} {stream.get('scenario', '')}".strip()
    return {
        "name": name,
        "digest": str(provenance.get("split_hash") or "unknown")[:MOST_DIGEST],
        "source_type": "raycl",
        "source": json.dumps({"stream": stream, "seed": spec.seed_label}, sort_keys=True),
        "profile": json.dumps({"num_tasks": provenance.get("num_tasks"), "data": provenance.get("data")}),
    }


def _canonical(point: Mapping[str, Any]) -> str:
    return json.dumps(dict(point), sort_keys=True)


def _text(value: str | int | float | bool) -> str:
    """One text for one value, whichever way it was read."""
    return value[:6000] if isinstance(value, str) else json.dumps(value)
