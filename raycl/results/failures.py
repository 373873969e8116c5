"""The trials of a sweep that failed, with their reasons and the tracebacks that were stored beside their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raycl.results.standing import Asked
from raycl.results.store import ResultsFolder
from raycl.results.trial_store import traceback_path
from raycl.spec.trial import TrialSpec


@dataclass(frozen=True)
class Failure:
    """A trial that failed.

    Attributes:
        entries: keys of the entries that ask for it.
        traceback: the file, as a person would name it; empty where none was stored.
    """

    spec: TrialSpec
    reason: str
    entries: tuple[str, ...]
    traceback: str = ""


def failures_of(results: ResultsFolder, failed: Sequence[Asked], entries: Sequence[str]) -> list[Failure]:
    """The failures behind some failed trials of the same entries; each trial stands once."""
    distinct = {asked.spec.hash: asked for asked in failed}
    stored = set(results.files.existing([traceback_path(name) for name in distinct])) if distinct else set()
    return [
        Failure(
            asked.spec,
            asked.verdict.reason if asked.verdict else "",
            tuple(entries),
            results.files.name(traceback_path(name)) if traceback_path(name) in stored else "",
        )
        for name, asked in distinct.items()
    ]
