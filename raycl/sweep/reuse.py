"""Finished trials of other results folders, taken by their hash instead of being run again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

import pyarrow as pa

from raycl.results.objectives import costs_of_rows
from raycl.results.reading import read_trials
from raycl.results.store import ResultsFolder
from raycl.spec.setting import Registries
from raycl.spec.trial import TrialSpec
from raycl.sweep.changes import differing_code

log = logging.getLogger(__name__)


class Elsewhere:
    """The trials that some folders have finished.

    Args:
        folders: asked in this order.
        costs: what must have been counted of a trial, beside its accuracies.
    """

    def __init__(self, folders: Sequence[ResultsFolder], catalog: Registries, costs: Sequence[str] = ()) -> None:
        self._folders = folders
        self._catalog = catalog
        self._costs = costs

    @cached_property
    def _ended(self) -> Sequence[tuple[ResultsFolder, frozenset[str]]]:
        return [(folder, frozenset(folder.ended())) for folder in self._folders]

    def trials(self) -> Sequence[pa.Table]:
        """The trials tables of the folders: what is taken must have learned from the data that are there now."""
        return [read_trials(folder) for folder in self._folders]

    def bring(self, spec: TrialSpec, into: ResultsFolder) -> bool:
        """Copy a trial that has finished elsewhere, with all that it was asked for and by the code of today.

        Returns:
            Whether it is there now.
        """
        for folder, ended in self._ended:
            if spec.hash in ended and self._fits(spec, folder):
                _copy(spec, folder, into)
                return True
        return False

    def _fits(self, spec: TrialSpec, folder: ResultsFolder) -> bool:
        store = folder.trial(spec)
        verdict = store.verdict()
        if verdict is None or verdict.status != "finished":
            return False
        if spec.keep_checkpoint and not folder.files.children(f"trials/{spec.hash}/ckpt"):
            return False
        if self._costs and not set(self._costs) <= costs_of_rows(store.rows()).keys():
            return False
        came_from = store.provenance()
        changed = differing_code(came_from.get("code"), came_from.get("raycl"), spec, self._catalog)
        if changed:
            log.warning(
                "%s: trial %s is not reused: its %s has other code", folder.uri, spec.hash, " and ".join(changed)
            )
        return not changed


def _copy(spec: TrialSpec, folder: ResultsFolder, into: ResultsFolder) -> None:
    """The verdict comes last, and is written anew with the parts of the data set."""
    below, store = f"trials/{spec.hash}", folder.trial(spec)
    verdict, came_from = store.verdict(), store.provenance()
    for name in folder.files.sizes(below):
        data = folder.files.read(f"{below}/{name}")
        if data is not None and name not in ("verdict.json", "spec.json"):
            into.files.write(f"{below}/{name}", data)
    into.files.write(f"{below}/spec.json", (spec.dumps() + "\n").encode())
    if verdict is not None:
        into.trial(spec).finish(verdict, {**came_from, "reused_from": folder.uri})
