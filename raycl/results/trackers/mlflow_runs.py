"""Which runs on a tracking server are those of a results folder. No MLflow here: a client is given."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from raycl.addresses import shown
from raycl.errors import InfrastructureError
from raycl.results.store import ResultsFolder


class FolderRuns:
    """The experiment of a results folder, the sweep's own run in it, and the runs of its trials; other folders may hold
    the same sweep.

    Attributes:
        experiment, parent: ids of the first two, which are made where there are none.

    Args:
        uri: the server's, for messages.
        place: where a new experiment keeps its files; None: where the server says.

    Raises:
        InfrastructureError: the experiment was deleted.
    """

    def __init__(self, client: Any, results: ResultsFolder, uri: str, place: str | None) -> None:
        self._client = client
        self._results, self._folder = results, results.identity
        self._uri = uri
        self._place = place
        self._new = False  # whether no earlier version of raycl can have logged anything there
        self.experiment, self.parent = self._find()

    def own(self, condition: str, seal: str) -> Iterator[Any]:
        """This folder's runs; among those that no folder claims, the one that its results were logged in."""
        yield from self.having(condition)
        if not self._new:
            yield from self._adopted([self.experiment], f"{condition} and tags.`raycl.logged` = '{seal}'")

    def having(self, condition: str) -> Iterator[Any]:
        """Those that fulfil a condition, in MLflow's language, among what this folder has logged."""
        yield from self._of_folder([self.experiment], condition)

    def create(self, name: str, tags: dict[str, str], began: float) -> str:
        """A new run of this folder; its id."""
        tags = {**tags, "raycl.sweep": self._results.sweep_hash, "raycl.folder": self._folder}
        run = self._client.create_run(self.experiment, start_time=int(1000 * began), tags=tags, run_name=name)
        return str(run.info.run_id)

    def _find(self) -> tuple[str, str]:
        """The experiment and the sweep's own run: those of this folder, whatever the sweep was called before.

        Raises:
            InfrastructureError: the experiment was deleted.
        """
        named = self._client.get_experiment_by_name(self._results.name)
        active = named is not None and named.lifecycle_stage == "active"
        parent = next(self._parents([named.experiment_id]), None) if active else None
        if parent is None:
            others = [one.experiment_id for one in self._client.search_experiments()]
            parent = next(self._parents(others, adopts=False), None)
        if parent is not None:
            if parent.info.run_name != self._results.name:
                self._client.update_run(parent.info.run_id, name=self._results.name)
            return str(parent.info.experiment_id), str(parent.info.run_id)
        if named is not None and not active:
            raise InfrastructureError(
                f"MLflow's experiment {self._results.name!r} at {shown(self._uri)} was deleted; restore it (`mlflow "
                f"experiments restore --experiment-id {named.experiment_id}`), or remove it for good (`mlflow gc`), "
                "then run `raycl sync`"
            )
        self._new = named is None
        self.experiment = self._make_experiment() if named is None else str(named.experiment_id)
        return self.experiment, self.create(self._results.name, {"raycl.kind": "sweep"}, time.time())

    def _make_experiment(self) -> str:
        return str(self._client.create_experiment(self._results.name, artifact_location=self._place))

    def _parents(self, experiments: Sequence[str], adopts: bool = True) -> Iterator[Any]:
        condition = "tags.`raycl.kind` = 'sweep'"
        yield from self._of_folder(experiments, condition)
        if adopts:
            yield from self._adopted(experiments, condition)

    def _of_folder(self, experiments: Sequence[str], condition: str) -> Iterator[Any]:
        yield from self._search(experiments, f"tags.`raycl.folder` = '{self._folder}' and {condition}")

    def _adopted(self, experiments: Sequence[str], condition: str) -> Iterator[Any]:
        """Runs of earlier versions, which knew the sweep and not the folder."""
        for run in self._search(experiments, f"tags.`raycl.sweep` = '{self._results.sweep_hash}' and {condition}"):
            if "raycl.folder" not in run.data.tags:
                self._client.set_tag(run.info.run_id, "raycl.folder", self._folder)
                yield run

    def _search(self, experiments: Sequence[str], condition: str) -> Iterator[Any]:
        if experiments:
            yield from self._client.search_runs(list(experiments), condition, max_results=50)
