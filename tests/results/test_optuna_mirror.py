"""The studies for Optuna's dashboard: every suggestion of every entry once, as the sampler was told of it. No Ray."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from sweeping import SWEEP, ledger, parsed, play

from raycl.results.outcomes import Outcome, Record
from raycl.results.trackers.optuna import JOURNAL, StudyMirror
from raycl.spec.sweep import SweepSpec
from raycl.sweep.dispatch import Dispatcher
from raycl.sweep.search import SearchPlan
from raycl.sweep.suggestions import frozen, optuna_space

SHARED = SWEEP.replace(
    "  replay: {", "  again: {strategy: replay, memory.capacity: {choice: [20, 50, 100]}}\n  replay: {"
).replace("seeds: [0]", "seeds: [0, 3]")
Told = dict[str, list[tuple[object, ...]]]


class ByAlias(StudyMirror):
    """The wrong variant: each trial goes to the study of the alias that ran it."""

    def add(self, record: Record) -> None:
        entry = self._sweep.entry(record.spec.alias)
        if record.spec.phase == "search" and record.spec.hash not in self._records:
            self._records[record.spec.hash] = record
            status, value = record.verdict.status, record.verdict.value
            told = frozen(Outcome(record.spec.point, status, value), optuna_space(entry.space))
            told.user_attrs = {"suggestion": len(self._records)}
            self._study(entry).add_trial(told)

    def finish(self) -> None:
        """Nothing is missing."""


def played(folder: Path, kind: type[StudyMirror] = StudyMirror) -> tuple[SweepSpec, list[SearchPlan]]:
    """A search with its mirror; one replay memory fails."""
    sweep = parsed(SHARED)
    book = ledger(sweep, folder)
    mirror = kind(book.results, sweep)
    book.on_record = mirror.add
    plans = [SearchPlan(sweep, entry, book) for entry in sweep.entries]
    play(Dispatcher(plans, book, 3), book.results, max, fails=lambda spec: spec.memory.capacity == 20)
    mirror.finish()
    return sweep, plans


def mirrored(folder: Path, sweep: SweepSpec) -> Told:
    """What each study holds, by entry."""
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    found: Told = {}
    for entry in sweep.entries:
        study = optuna.load_study(study_name=f"{sweep.name}/{entry.key}", storage=storage)
        found[entry.key] = [
            (str(sorted(t.params.items())), t.state.name, t.values, dict(t.intermediate_values))
            for t in sorted(study.trials, key=lambda t: t.user_attrs["suggestion"])
        ]
    return found


def told(plans: list[SearchPlan]) -> Told:
    """What each sampler was told."""
    found: Told = {}
    for plan in plans:
        trials = [frozen(outcome, optuna_space(plan.entry.space)) for outcome in plan.outcomes]
        found[plan.entry.key] = [
            (str(sorted(t.params.items())), t.state.name, t.values, dict(t.intermediate_values)) for t in trials
        ]
    return found


def test_each_study_holds_what_its_sampler_was_told(tmp_path: Path) -> None:
    sweep, plans = played(tmp_path)
    assert mirrored(tmp_path, sweep) == told(plans)
    assert [len(trials) for trials in told(plans).values()] == [5, 3, 3]
    assert {trial[1] for trial in told(plans)["again"]} == {"FAIL", "COMPLETE"}


def test_by_alias_it_would_not(tmp_path: Path) -> None:
    sweep, plans = played(tmp_path, ByAlias)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL)))
    names = {study.study_name for study in optuna.get_all_study_summaries(storage)}
    assert names != {f"{sweep.name}/{entry.key}" for entry in sweep.entries} or mirrored(tmp_path, sweep) != told(plans)


def test_a_new_driver_adds_nothing_twice(tmp_path: Path) -> None:
    sweep, plans = played(tmp_path)
    played(tmp_path)
    assert mirrored(tmp_path, sweep) == told(plans)


def test_a_study_of_an_earlier_raycl_is_made_anew(tmp_path: Path) -> None:
    sweep = parsed(SHARED)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL)))
    old = optuna.create_study(storage=storage, study_name=f"{sweep.name}/replay")
    old.add_trial(optuna.trial.create_trial(value=0.1, user_attrs={"trial": "feed", "seed": 0}))
    sweep, plans = played(tmp_path)
    assert mirrored(tmp_path, sweep) == told(plans)


def test_a_study_of_other_objectives_is_made_anew(tmp_path: Path) -> None:
    """A folder goes on with two objectives; Optuna takes no trial of two values into a study of one."""
    sweep = parsed(SWEEP.replace("search: {", "search: {metric: [average_accuracy, state_bytes], "))
    storage = JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL)))
    old = optuna.create_study(storage=storage, study_name=f"{sweep.name}/replay")
    old.add_trial(optuna.trial.create_trial(value=0.1, user_attrs={"suggestion": 0}))
    book = ledger(sweep, tmp_path)
    mirror = StudyMirror(book.results, sweep)
    book.on_record = mirror.add
    plan = SearchPlan(sweep, sweep.entry("replay"), book)
    play(Dispatcher([plan], book, 3), book.results)
    study = optuna.load_study(study_name=f"{sweep.name}/replay", storage=storage)
    assert len(study.directions) == 2
    assert len(study.trials) == len(plan.outcomes)


def test_a_mirror_that_breaks_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / JOURNAL).mkdir()
    _, plans = played(tmp_path)
    assert [len(plan.outcomes) for plan in plans] == [5, 3, 3]
    assert sum("no Optuna study" in message for message in caplog.messages) == 1
