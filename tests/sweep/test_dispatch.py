"""The dispatcher's promises: turns, slots, one run for a shared trial, patience with what is lost, and why it stops.

Plans and ledger are played, so that every moment is the test's own. Each check is also given a dispatcher that breaks
the promise, and must notice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from results.made_results import spec

from raycl.errors import StoreError
from raycl.matrix import Verdict
from raycl.results.outcomes import Record
from raycl.spec.trial import TrialSpec
from raycl.sweep.dispatch import LOST_AFTER, MOST_STALLS, STORAGE_AWAY, Dispatcher, NothingLeft, configuration
from raycl.sweep.job import Job, Plan


@dataclass
class Book:
    """A ledger that knows what the test tells it."""

    ended: set[str] = field(default_factory=set)
    rows: dict[str, int] = field(default_factory=dict)
    reopened: list[str] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)
    away: bool = False

    def record(self, trial: TrialSpec) -> Record | None:
        if self.away:
            raise StoreError("no answer")
        return Record(trial, Verdict("finished", "", 0.5, 0), {0: 0.5}, 1) if trial.hash in self.ended else None

    def ended_meanwhile(self, trial: TrialSpec) -> bool:
        return self.record(trial) is not None

    def reopen(self, trial: TrialSpec) -> None:
        self.reopened.append(trial.hash)

    def refresh(self, trial: TrialSpec) -> None:
        """Nothing is remembered."""

    def prune(self, trial: TrialSpec) -> None:
        self.pruned.append(trial.hash)

    def tasks_learned(self, trial: TrialSpec) -> int:
        return self.rows.get(trial.hash, 0)


@dataclass
class Wanting:
    """A plan that wants some trials until they have ended."""

    key: str
    trials: Sequence[TrialSpec]
    book: Book
    waits: bool = False

    @property
    def entry(self) -> Any:
        return SimpleNamespace(key=self.key)

    def wanted(self) -> list[Job] | None:
        found = [Job(trial, {}) for trial in self.trials if self.book.record(trial) is None]
        return None if not found and not self.waits else found


@dataclass
class Stage:
    """A dispatcher over played plans, with a clock that the test moves."""

    kind: type[Dispatcher] = Dispatcher
    slots: int = 1
    wants: Mapping[str, Sequence[int]] = field(default_factory=lambda: {"a": (1, 2), "b": (3, 4)})
    now: float = 0.0

    def __post_init__(self) -> None:
        self.book = Book()
        plans = [Wanting(key, [spec(seed=seed) for seed in seeds], self.book) for key, seeds in self.wants.items()]
        self.plans: list[Any] = plans
        self.dispatcher = self.kind(plans, self.book, self.slots, clock=lambda: self.now)  # type: ignore[arg-type]

    def launch(self, name: str = "t") -> int | None:
        """The seed of the next trial; None where there is none now."""
        found = self.dispatcher.suggest(name)
        return found.spec.seed if isinstance(found, Job) else None

    def end(self, name: str = "t") -> None:
        self.book.ended.add(self.dispatcher.running[name].spec.hash)
        self.dispatcher.completed(name)

    def lose(self, name: str = "t") -> None:
        self.dispatcher.completed(name)


Check = Callable[[type[Dispatcher]], None]


# -- what is handed out ----------------------------------------------------------------------------------------


def strategies_take_turns(kind: type[Dispatcher]) -> None:
    stage, seeds = Stage(kind, slots=4), []
    for name in "wxyz":
        seeds.append(stage.launch(name))
    assert seeds == [1, 3, 2, 4]


def no_more_run_than_there_are_slots(kind: type[Dispatcher]) -> None:
    stage = Stage(kind, slots=2)
    assert [stage.launch(name) for name in "xyz"] == [1, 3, None]
    stage.end("x")
    assert stage.launch("z") == 2


def a_trial_that_two_plans_want_runs_once(kind: type[Dispatcher]) -> None:
    stage = Stage(kind, slots=4, wants={"a": (1,), "b": (1, 2)})
    assert [stage.launch(name) for name in "xyz"] == [1, 2, None]
    stage.end("x")
    assert stage.launch("z") is None


def what_has_ended_meanwhile_is_not_launched(kind: type[Dispatcher]) -> None:
    stage = Stage(kind, wants={"a": (1, 2)})
    asked = stage.dispatcher.wanted()
    stage.book.ended.add(spec(seed=1).hash)  # a worker that was given up finishes between the question and the launch
    stage.dispatcher.wanted = lambda: asked  # type: ignore[method-assign]
    assert stage.launch() is None
    assert stage.book.reopened == []


def finished_is_said_when_no_plan_wants_more(kind: type[Dispatcher]) -> None:
    stage = Stage(kind, wants={"a": (1,), "b": ()})
    stage.plans[1].waits = True  # for its generation
    assert stage.launch() == 1
    stage.end()
    assert stage.dispatcher.suggest("u") is None
    assert stage.dispatcher.wanted() == []
    stage.plans[1].waits = False
    assert stage.dispatcher.suggest("u") is NothingLeft
    assert stage.dispatcher.wanted() is None


# -- what is lost ----------------------------------------------------------------------------------------------


def a_lost_trial_comes_back_after_a_pause_that_grows(kind: type[Dispatcher]) -> None:
    stage, pauses = Stage(kind, wants={"a": (1,)}), []
    assert stage.launch() == 1
    for _ in range(MOST_STALLS - 1):
        stage.lose()
        began = stage.now
        while stage.launch() is None:
            stage.now += 0.25
        pauses.append(stage.now - began)
    assert pauses == [0.5, 1.5, 3.5, 7.5]
    assert stage.dispatcher.why_halted() == ""


def others_run_while_a_lost_trial_waits(kind: type[Dispatcher]) -> None:
    stage = Stage(kind, wants={"a": (1, 2)})
    assert stage.launch() == 1
    stage.lose()
    assert stage.launch() == 2


def a_trial_without_rows_stops_the_sweep_and_says_why(kind: type[Dispatcher]) -> None:
    stage = Stage(kind, wants={"a": (1,)})
    for _ in range(MOST_STALLS):
        assert stage.launch() == 1
        stage.dispatcher.explain("t", "OSError: no route to host")
        stage.lose()
        stage.now += 100
    assert stage.dispatcher.suggest("u") is NothingLeft
    told = stage.dispatcher.why_halted()
    assert f"trial {spec(seed=1).hash} of ewc (seed 1) was lost {MOST_STALLS} times" in told
    assert told.endswith("OSError: no route to host")


def a_new_row_starts_the_count_anew(kind: type[Dispatcher]) -> None:
    stage = Stage(kind, wants={"a": (1,)})
    for lost in range(3 * MOST_STALLS):
        assert stage.launch() == 1
        if lost % (MOST_STALLS - 1) == 0:
            stage.book.rows[spec(seed=1).hash] = lost + 1
        stage.lose()
        stage.now += 100
    assert stage.dispatcher.why_halted() == ""


def a_trial_that_tune_does_not_run_is_given_up_after_some_looks_in_a_row(kind: type[Dispatcher]) -> None:
    stage = Stage(kind, wants={"a": (1,)})
    assert stage.launch() == 1
    states = ["ERROR"] * (LOST_AFTER - 1) + ["RUNNING"] + ["ERROR"] * LOST_AFTER
    held = []
    for state in states:
        stage.dispatcher.statuses = lambda state=state: {"t": state}
        stage.launch("u")
        held.append("t" in stage.dispatcher.running)
    assert held == [True] * (len(states) - 1) + [False]


# -- storage, ends, reasons ------------------------------------------------------------------------------------


def a_storage_that_is_away_for_a_moment_stops_nothing(kind: type[Dispatcher]) -> None:
    stage = Stage(kind)
    for _ in range(3):
        stage.book.away = True
        assert stage.dispatcher.suggest_patiently("t") is None
        stage.now += STORAGE_AWAY - 1
        assert stage.dispatcher.suggest_patiently("t") is None
        stage.book.away = False
        assert isinstance(stage.dispatcher.suggest_patiently(f"t{stage.now}"), Job)
        stage.end(f"t{stage.now}")
    assert stage.dispatcher.why_halted() == ""


def a_storage_that_stays_away_stops_the_sweep(kind: type[Dispatcher]) -> None:
    stage = Stage(kind)
    stage.book.away = True
    for moment in (5.0, 5 + STORAGE_AWAY, 6 + STORAGE_AWAY):
        stage.now = moment
        assert stage.dispatcher.suggest_patiently("t") is None
        assert bool(stage.dispatcher.halted) is (moment > 5 + STORAGE_AWAY)
    assert stage.dispatcher.why_halted() == f"the results storage was away for {STORAGE_AWAY:.0f} s: no answer"
    assert stage.dispatcher.suggest_patiently("t") is NothingLeft


def an_end_that_cannot_be_looked_up_frees_its_slot(kind: type[Dispatcher]) -> None:
    stage = Stage(kind, wants={"a": (1,)})
    assert stage.launch() == 1
    stage.book.away = True
    stage.lose()
    assert stage.dispatcher.running == {}
    stage.book.away = False
    assert stage.launch() == 1, "it is still wanted"


def unknown_trials_are_nobodys_business(kind: type[Dispatcher]) -> None:
    stage = Stage(kind)
    stage.dispatcher.completed("stranger")
    stage.dispatcher.explain("stranger", "lost")
    stage.dispatcher.prune("stranger")
    assert (stage.book.pruned, stage.dispatcher.why_halted()) == ([], "")
    assert stage.launch() == 1
    stage.dispatcher.prune("t")
    assert stage.book.pruned == [spec(seed=1).hash]


# -- the promises, and dispatchers that break them -------------------------------------------------------------


class Unjust(Dispatcher):
    def _launch(self, trial_id: str, plan: Plan, job: Job) -> None:
        super()._launch(trial_id, plan, job)
        self._turns.clear()


class Crowded(Dispatcher):
    def suggest(self, trial_id: str) -> Job | type[NothingLeft] | None:
        self.slots += 1
        return super().suggest(trial_id)


class Twice(Dispatcher):
    def suggest(self, trial_id: str) -> Job | type[NothingLeft] | None:
        running, self.running = self.running, {}
        found = super().suggest(trial_id)
        self.running = running | self.running
        return found


class Hasty(Dispatcher):
    def wanted(self) -> list[tuple[Plan, Job]] | None:
        return super().wanted() or None  # takes a plan that waits for one that is done


class Careless(Dispatcher):
    def suggest(self, trial_id: str) -> Job | type[NothingLeft] | None:
        (plan, job), *_ = self.wanted() or [(None, None)]
        if plan is None or job is None:
            return NothingLeft
        self._launch(trial_id, plan, job)
        return job


class Restless(Dispatcher):
    def _stalled(self, trial_id: str, job: Job) -> None:
        super()._stalled(trial_id, job)
        self._not_before.clear()


class Endless(Dispatcher):
    def _stalled(self, trial_id: str, job: Job) -> None:
        super()._stalled(trial_id, job)
        self.halted = ""


class Strict(Dispatcher):
    def _stalled(self, trial_id: str, job: Job) -> None:
        stalls = self._stalls.get(job.spec.hash, 0)
        super()._stalled(trial_id, job)
        self._stalls[job.spec.hash] = stalls + 1
        self.halted = "lost" if stalls + 1 >= self.patience else ""


class Impatient(Dispatcher):
    def _look_for_lost(self) -> None:
        before = dict(self._unseen)
        super()._look_for_lost()
        for trial_id, looks in before.items():  # looks add up, also where it was seen in between
            self._unseen[trial_id] = max(looks, self._unseen.get(trial_id, 0))


class Grudging(Dispatcher):
    def suggest_patiently(self, trial_id: str) -> Job | type[NothingLeft] | None:
        since = self._away_since
        found = super().suggest_patiently(trial_id)
        self._away_since = self._away_since or since
        return found


class Waiting(Dispatcher):
    def suggest_patiently(self, trial_id: str) -> Job | type[NothingLeft] | None:
        self._away_since = None
        return super().suggest_patiently(trial_id)


class Holding(Dispatcher):
    def completed(self, trial_id: str) -> None:
        job = self.running.get(trial_id)
        super().completed(trial_id)
        if job is not None and self.ledger.away:  # type: ignore[attr-defined]
            self.running[trial_id] = job


class Meddling(Dispatcher):
    def prune(self, trial_id: str) -> None:
        self.ledger.prune(spec())


PROMISES: dict[Check, type[Dispatcher]] = {
    strategies_take_turns: Unjust,
    no_more_run_than_there_are_slots: Crowded,
    a_trial_that_two_plans_want_runs_once: Twice,
    what_has_ended_meanwhile_is_not_launched: Careless,
    finished_is_said_when_no_plan_wants_more: Hasty,
    a_lost_trial_comes_back_after_a_pause_that_grows: Restless,
    others_run_while_a_lost_trial_waits: Restless,
    a_trial_without_rows_stops_the_sweep_and_says_why: Endless,
    a_new_row_starts_the_count_anew: Strict,
    a_trial_that_tune_does_not_run_is_given_up_after_some_looks_in_a_row: Impatient,
    a_storage_that_is_away_for_a_moment_stops_nothing: Grudging,
    a_storage_that_stays_away_stops_the_sweep: Waiting,
    an_end_that_cannot_be_looked_up_frees_its_slot: Holding,
    unknown_trials_are_nobodys_business: Meddling,
}


@pytest.mark.parametrize("check", PROMISES, ids=lambda check: check.__name__)
def test_it_keeps_its_promises(check: Check) -> None:
    check(Dispatcher)


@pytest.mark.parametrize("check", PROMISES, ids=lambda check: PROMISES[check].__name__)
def test_a_dispatcher_that_breaks_one_is_noticed(check: Check) -> None:
    with pytest.raises(AssertionError):
        check(PROMISES[check])


def test_once_halted_it_hands_out_nothing() -> None:
    stage = Stage(slots=9)
    assert stage.launch() == 1
    stage.dispatcher.halted = "enough"
    assert stage.dispatcher.suggest("u") is NothingLeft
    assert stage.dispatcher.why_halted() == "enough"


def test_what_travels_is_plain_data() -> None:
    told = configuration(Job(spec(), {3: 0.5}, "a"), {"metric": "average_accuracy"})
    assert json.loads(json.dumps(told)) == told
    assert told["cutoffs"] == {"3": 0.5}
    assert TrialSpec.loads(told["spec"]) == spec()
    assert (told["metric"], told["bracket"]) == ("average_accuracy", "a")
