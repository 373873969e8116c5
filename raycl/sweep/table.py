"""Tables of everything: every point of a space-filling design with every seed, of which nothing is selected.

The points of an entry are drawn as a search without results would draw them, and written down where a search writes its
suggestions, before their trials start. So a table grows: more points continue the design, more seeds the points.
"""

from __future__ import annotations

from raycl.spec.sweep import Entry, SweepSpec
from raycl.spec.trial import SweepPhase
from raycl.sweep.job import Job, Known, LimitCheck
from raycl.sweep.ledger import Ledger
from raycl.sweep.plan import EntryPlan
from raycl.sweep.search import blind_suggestions
from raycl.sweep.suggestions import Suggester


class TablePlan(Known):
    """The design of one entry: Sobol points, no point twice, and all of a space that has no more.

    A point that is over a limit stays in the design, and is not run.
    """

    phase: SweepPhase = "table"

    def __init__(self, sweep: SweepSpec, entry: Entry, ledger: Ledger, broken: LimitCheck) -> None:
        assert sweep.table is not None
        self.entry = entry
        suggester = Suggester(entry.space, sweep.table.design, entry.key)
        design = blind_suggestions(suggester, entry, ledger, sweep.laid_out(entry), broken)
        jobs = [
            Job(sweep.trial(entry, stored["point"], seed, self.phase), {}, refused=stored.get("refused", ""))
            for stored in design
            for seed in sweep.table.runs
        ]
        super().__init__(ledger, jobs)


class TableEntryPlan(EntryPlan):
    """All that one entry of a table has to run: a single phase, which nothing follows."""

    def __init__(self, sweep: SweepSpec, entry: Entry, ledger: Ledger, broken: LimitCheck) -> None:
        super().__init__(sweep, entry, ledger, broken)
        self._stage = TablePlan(sweep, entry, ledger, broken)
