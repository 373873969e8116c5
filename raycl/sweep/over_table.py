"""A search over a table of everything: its suggestions are points of the table, and its trials have ended before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raycl.matrix import Verdict
from raycl.results.landscapes import Landscape
from raycl.results.outcomes import Outcome, Record
from raycl.spec.points import Point
from raycl.spec.sweep import SweepSpec
from raycl.spec.sweep_options import SearchConfig
from raycl.spec.trial import TrialSpec
from raycl.sweep.job import Job
from raycl.sweep.search import SearchPlan
from raycl.sweep.suggestions import How, Suggester, Suggestion


class NearestSearch(SearchPlan):
    """A search that suggests points of a table."""

    def __init__(self, sweep: SweepSpec, method: Landscape, answers: Answers) -> None:
        super().__init__(sweep, method.entry, answers)
        assert sweep.search is not None
        self._suggester = NearestSuggester(method, sweep.search, tuple(sweep.first_points(method.entry)))

    @property
    def trials(self) -> Sequence[Sequence[Job]]:
        """The jobs of each suggestion."""
        return self._jobs


class NearestSuggester(Suggester):
    """Suggests points of a table: each suggestion is moved to the nearest one that is not used."""

    def __init__(self, method: Landscape, search: SearchConfig, first: Sequence[tuple[Point, How]]) -> None:
        self._method = method
        moved: list[tuple[Point, How]] = []
        for point, how in first[: len(method.points)]:
            moved.append((self._moved(point, [own for own, _ in moved]), how))
        super().__init__(method.entry.space, search, method.entry.key, moved)

    def draw(self, index: int, seen: Sequence[Outcome] = (), earlier: Sequence[Mapping[str, Any]] = ()) -> Suggestion:
        drawn = super().draw(index, seen, earlier)
        return replace(drawn, point=self._moved(drawn.point, earlier))

    def _moved(self, point: Mapping[str, Any], used: Sequence[Mapping[str, Any]]) -> Point:
        return dict(self._method.points[self._method.nearest(point, used)])


class _Unwritten:
    """Suggestions of a simulated search are made, and not kept."""

    def read_json(self, relative: str) -> dict[str, Any] | None:
        return None

    def write_json_once(self, relative: str, value: Mapping[str, Any]) -> dict[str, Any]:
        return dict(value)


class Answers:
    """The trials of a method, in place of a ledger: each stops after the tasks by which it is judged."""

    def __init__(self, method: Landscape, judged: int, metric: str) -> None:
        self._method, self._judged, self._metric = method, judged, metric
        self._known: dict[tuple[int, str], tuple[Verdict, Mapping[int, float]]] = {}

    @property
    def results(self) -> _Unwritten:
        return _Unwritten()

    def record(self, spec: TrialSpec) -> Record | None:
        place = self._method.index(spec.point), spec.seed_label
        if place not in self._known:
            self._known[place] = self.ended(*place)
        return Record(spec, *self._known[place], self._judged)

    def ended(self, index: int, seeds: str) -> tuple[Verdict, Mapping[int, float]]:
        """How the trial of a point of the table has ended with the seeds of a label, and its curve till then."""
        found = self._method.measured.get((index, seeds))
        if found is None:
            return Verdict("failed", "the table lacks this trial"), {}
        curve = {task: value for task, value in found.curve(self._metric).items() if task < self._judged}
        if found.reason and found.tasks_done < self._judged:
            return Verdict("failed", found.reason, None, found.tasks_done - 1), curve
        return Verdict("finished", "", curve.get(self._judged - 1), self._judged - 1), curve
