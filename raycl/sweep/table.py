"""Tables of everything: every point of a space-filling design with every seed, of which nothing is selected.

The points of an entry are drawn as a search without results would draw them, and written down where a search writes its
suggestions, before their trials start. So a table grows: more points continue the design, more seeds the points.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna

from raycl.results.decisions import suggestion_path
from raycl.spec.points import Point
from raycl.spec.sweep import Entry, SweepSpec
from raycl.spec.trial import SweepPhase
from raycl.sweep.job import Job, LimitCheck, verdict_of
from raycl.sweep.ledger import Ledger
from raycl.sweep.plan import EntryPlan
from raycl.sweep.suggestions import Suggester, sampler_seed


class TablePlan:
    """The design of one entry: Sobol points, no point twice, and all of a space that has no more.

    A point that is over a limit stays in the design, and is not run.
    """

    phase: SweepPhase = "table"

    def __init__(self, sweep: SweepSpec, entry: Entry, ledger: Ledger, broken: LimitCheck) -> None:
        assert sweep.table is not None
        self.entry = entry
        self._ledger = ledger
        self._jobs: list[Job] = []
        design, points = sweep.table.design, list[Point]()
        suggester = Suggester(entry.space, design, entry.key)
        for index in range(sweep.laid_out(entry)):
            path = suggestion_path(entry, index)
            stored = ledger.results.read_json(path)
            if stored is None:
                drawn = suggester.draw(index, (), points)
                told = {"index": index, "point": drawn.point, "how": drawn.how}
                told |= {"refused": reason} if (reason := broken(drawn.point)) else {}
                told |= {"sampler_seed": sampler_seed(design, entry.key, index), "optuna": optuna.__version__}
                stored = ledger.results.write_json_once(path, told)
            points.append(stored["point"])
            specs = [sweep.trial(entry, stored["point"], seed, self.phase) for seed in sweep.table.runs]
            self._jobs += [Job(spec, {}, refused=stored.get("refused", "")) for spec in specs]

    @property
    def total(self) -> int:
        return len(self._jobs)

    def jobs(self) -> Sequence[Job]:
        return self._jobs

    def wanted(self) -> Sequence[Job] | None:
        return [job for job in self._jobs if verdict_of(self._ledger, job) is None] or None


class TableEntryPlan(EntryPlan):
    """All that one entry of a table has to run: a single phase, which nothing follows."""

    def __init__(self, sweep: SweepSpec, entry: Entry, ledger: Ledger, broken: LimitCheck) -> None:
        super().__init__(sweep, entry, ledger, broken)
        self._stage = TablePlan(sweep, entry, ledger, broken)
