"""What has changed under a results folder and stands in no trial's name: the code of installed methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

import raycl
from raycl.errors import RayclError
from raycl.results.decisions import forget_winners, suggestions_folder
from raycl.results.store import ResultsFolder
from raycl.spec.choosing import chooses
from raycl.spec.points import active, acts
from raycl.spec.setting import Registries
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec
from raycl.trial.provenance import trial_code


@dataclass(frozen=True)
class ChangedCode:
    """Trials of one method that have ended, whose code is not what it was.

    Attributes:
        parts: what differs, of those of :func:`raycl.trial.trainer.trial_code`.
        trials: their specifications.
    """

    strategy: str
    parts: tuple[str, ...]
    trials: tuple[TrialSpec, ...]

    def __str__(self) -> str:
        count = len(self.trials)
        return (
            f"{self.strategy}: the code of its {' and '.join(self.parts)} has changed since {count} "
            f"trial{'' if count == 1 else 's'} of this folder ended; they are kept as they are, and stand beside new "
            "ones; --rerun-changed repeats them"
        )


def changed_code(trials: pa.Table, sweep: SweepSpec) -> list[ChangedCode]:
    """The methods of a folder whose ended trials come from other code than this process would run, in order of names.

    Only trials that the sweep asks for: those of an earlier revision, or of another class that was registered at run
    time, have names of their own, and stand beside no new ones.

    Parts of raycl are compared under one version of it: a release that changes numbers says so by a revision, which
    names other trials. Parts of other packages are compared whatever their versions. Trials of before the code was
    recorded say nothing.

    Args:
        trials: of :func:`raycl.results.reading.read_trials`.
    """
    if not {"code", "raycl"} <= set(trials.column_names):
        return []
    found: dict[tuple[str, tuple[str, ...]], list[TrialSpec]] = {}
    for row in trials.select(["code", "raycl", "spec"]).to_pylist():
        spec = TrialSpec.loads(row["spec"])
        parts = differing_code(row["code"], row["raycl"], spec, sweep.catalog)
        if parts and _asked(sweep, spec):
            found.setdefault((spec.strategy, parts), []).append(spec)
    return [ChangedCode(strategy, parts, tuple(specs)) for (strategy, parts), specs in sorted(found.items())]


def _asked(sweep: SweepSpec, spec: TrialSpec) -> bool:
    """Whether a sweep would give a trial the name that it has."""
    entries = (entry for entry in sweep.entries if (entry.variant, entry.alias) == (spec.variant, spec.alias))
    entry = next(entries, None)
    if entry is None or entry.barred:
        return False
    if spec.choosing is not None:
        return chooses(sweep, entry) and spec.choosing.protocol == sweep.as_it_goes
    if active(entry.space, spec.point) != spec.point:
        return False
    if any(acts(found, spec.point) for path, found in entry.space.items() if path not in spec.point):
        return False
    return sweep.trial(entry, spec.point, spec.run_seeds, spec.phase).hash == spec.hash


def differing_code(code: str | None, version: str | None, spec: TrialSpec, known: Registries) -> tuple[str, ...]:
    """The parts of a trial whose code is not what it was, by what a row says of its code and of raycl's version."""
    if not code:
        return ()
    try:
        now = trial_code(spec, known)
    except (RayclError, ImportError):  # a method that is not here any more runs no trial either
        return ()
    before = dict(part.split(":") for part in code.split())
    outside = {
        "strategy": known.strategies.package(spec.strategy) is not None,
        "model": known.models.package(spec.model["name"]) is not None,
        "stream": known.streams.package(spec.stream["name"]) is not None,
    }
    same_version = version == raycl.__version__
    compared = [part for part in now if same_version or outside.get(part)]
    return tuple(part for part in compared if before.get(part, now[part]) != now[part])


def forget(changed: Iterable[ChangedCode], sweep: SweepSpec, results: ResultsFolder) -> Sequence[str]:
    """Make a folder ready to repeat changed trials; what they decided, suggestions and winners, is decided anew.

    Returns:
        The keys of the entries that are searched again.
    """
    strategies = set()
    for change in changed:
        strategies.add(change.strategy)
        for spec in change.trials:
            results.trial(spec).restart()
    touched = [entry for entry in sweep.entries if entry.strategy in strategies and not entry.barred]
    for entry in touched:
        forget_winners(results, entry)
        results.files.delete_folder(suggestions_folder(entry))
    return [entry.key for entry in touched]
