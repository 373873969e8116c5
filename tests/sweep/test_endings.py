"""What the folder says is left of a sweep is what its plans would run: one definition of done. No Ray."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sweeping import SWEEP, ledger, parsed, pretend

from raycl.cli.live import plain
from raycl.matrix import Verdict
from raycl.results.outcomes import Outcome
from raycl.results.reading import read_trials
from raycl.results.recalled import Told
from raycl.results.standing import Standing, standings
from raycl.results.tables import comparison
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec
from raycl.sweep import status
from raycl.sweep.dispatch import Dispatcher, NothingLeft
from raycl.sweep.job import Job, verdict_of
from raycl.sweep.ledger import Ledger
from raycl.sweep.plan import EntryPlan
from raycl.sweep.status import SweepStatus, Watch

PRUNED = SWEEP.replace("trials: 5, generation: 2", "trials: 6, generation: 2").replace(
    "final:", "pruner: {quantile: 0.9, grace_tasks: 2, min_trials: 2}\nfinal:"
)
NO_FINAL = SWEEP[: SWEEP.index("final:")]
SHARED = SWEEP.replace(
    "  replay: {", "  again: {strategy: replay, memory.capacity: {choice: [20, 50]}}\n  replay: {"
).replace("seeds: [0]", "seeds: [0, 3]")
Fails = Callable[[TrialSpec], bool]
FAILS: dict[str, Fails] = {
    "none": lambda spec: False,
    "naive": lambda spec: spec.strategy == "naive",
    "all finalists": lambda spec: spec.phase == "finalists",
    "all final": lambda spec: spec.phase == "final",
    "half": lambda spec: zlib.crc32(spec.hash.encode()) % 2 == 0,
}


def left(sweep: SweepSpec, folder: Path) -> dict[str, bool]:
    """Whether a new driver would still run something of each entry."""
    book = ledger(sweep, folder)
    return {entry.key: EntryPlan(sweep, entry, book).wanted() is not None for entry in sweep.entries}


def told(sweep: SweepSpec, folder: Path) -> list[Standing]:
    """What the folder's tables say."""
    results = ledger(sweep, folder).results
    return standings(sweep, results, Told(sweep, results, {t["trial"]: t for t in read_trials(results).to_pylist()}))


def summary(standing: Standing) -> tuple[object, ...]:
    """What must not depend on whether rows or tables were read."""
    outcomes = [outcome and (outcome.status, outcome.value, outcome.reason) for outcome in standing.outcomes]
    verdicts = [asked.verdict and asked.verdict.status for asked in standing.trials()]
    return standing.entry.key, standing.ended, standing.failure, outcomes, verdicts


def differences(sweep: SweepSpec, folder: Path, found: list[Standing]) -> list[str]:
    """Entries of which one says that they are done and the other does not."""
    return [standing.entry.key for standing in found if standing.ended == left(sweep, folder)[standing.entry.key]]


@pytest.mark.parametrize("fails", FAILS)
@pytest.mark.parametrize("text", [PRUNED, NO_FINAL, SHARED], ids=["pruned", "no final", "shared"])
def test_tables_and_plans_agree_at_every_moment(tmp_path: Path, text: str, fails: str) -> None:
    sweep, order = parsed(text), random.Random(fails)
    book = ledger(sweep, tmp_path)
    dispatcher = Dispatcher([EntryPlan(sweep, entry, book) for entry in sweep.entries], book, 3)
    for number in range(200):
        found = dispatcher.suggest(f"t{number}")
        if isinstance(found, Job):
            continue
        if not dispatcher.running:
            break
        chosen = order.choice(sorted(dispatcher.running))
        pretend(book.results, dispatcher.running[chosen], fails=FAILS[fails])
        dispatcher.completed(chosen)
        if order.random() < 0.25:
            left(sweep, tmp_path)  # a new driver names winners first
            assert differences(sweep, tmp_path, told(sweep, tmp_path)) == []
    last = told(sweep, tmp_path)
    assert differences(sweep, tmp_path, last) == []
    assert all(standing.ended for standing in last)
    assert comparison(tmp_path).complete
    assert list(map(summary, last)) == list(map(summary, standings(sweep, book.results, book.record)))
    plans = {plan.entry.key: plan.failure for plan in dispatcher.plans}  # type: ignore[attr-defined]
    for standing in last:
        if standing.winner is None:
            assert plans[standing.entry.key] == standing.failure != ""
        else:
            assert plans[standing.entry.key] == ""
            finals = [asked.failed for asked in standing.final]
            assert bool(standing.failure) == any(finals)


def test_a_count_of_final_trials_differs_from_the_plans(tmp_path: Path) -> None:
    """The wrong variant: done is when as many final trials have ended as are planned, whatever the search left."""
    sweep = parsed(SWEEP)
    _played(sweep, tmp_path, FAILS["naive"])
    counted = [replace(one, ended=len(one.trials("final")) >= one.planned["final"]) for one in told(sweep, tmp_path)]
    assert differences(sweep, tmp_path, counted) == ["naive"]


def _played(sweep: SweepSpec, folder: Path, fails: Fails) -> Dispatcher:
    book = ledger(sweep, folder)
    dispatcher = Dispatcher([EntryPlan(sweep, entry, book) for entry in sweep.entries], book, 1)
    number = 0
    while True:
        number += 1
        found = dispatcher.suggest(f"t{number}")
        if not isinstance(found, Job) and not dispatcher.running:
            return dispatcher
        for running in list(dispatcher.running):
            pretend(book.results, dispatcher.running[running], fails=fails)
            dispatcher.completed(running)


def test_the_live_table_keeps_the_failures_of_earlier_phases(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    dispatcher = _played(sweep, tmp_path, lambda spec: spec.strategy == "naive" or spec.memory.capacity == 20)
    shown: list[SweepStatus] = []
    watch = Watch(sweep, dispatcher.ledger, dispatcher.plans, shown.append)  # type: ignore[arg-type]
    watch.show(dispatcher, {})
    naive, replay = shown[-1].entries
    assert (naive.phase, naive.failed, naive.failed_before) == ("final", 0, 5)
    assert (replay.phase, replay.failed, replay.failed_before) == ("final", 0, 1)
    assert plain(naive) == (
        "naive: failed, no suggestion finished: 5 of 5 search trials failed: the loss is not finite"
    )
    assert plain(replay) == "final replay: 2 of 2 done, 1 failed before, best " + plain(replay).split("best ")[1]


def test_a_look_at_a_running_sweep_counts_each_ended_trial_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many looks there are. And what they show is what all verdicts say."""
    sweep = parsed(SWEEP)
    book = ledger(sweep, tmp_path)
    dispatcher = Dispatcher([EntryPlan(sweep, entry, book) for entry in sweep.entries], book, 1)
    shown: list[SweepStatus] = []
    watch = Watch(sweep, book, dispatcher.plans, shown.append)  # type: ignore[arg-type]
    judged: list[str] = []

    def counted(book: Ledger, job: Job) -> Verdict | None:
        verdict = verdict_of(book, job)
        judged.extend([f"{job.spec.alias} {job.spec.hash}"] if verdict else [])
        return verdict

    monkeypatch.setattr(status, "verdict_of", counted)
    for number in range(1, 100):
        found = dispatcher.suggest(f"t{number}")
        if found is NothingLeft:
            break
        if isinstance(found, Job):
            pretend(book.results, found, fails=lambda spec: spec.memory.capacity == 20 and spec.strategy == "replay")
            dispatcher.completed(f"t{number}")
        for _ in range(3):
            watch.show(dispatcher, {})
        for plan, entry in zip(dispatcher.plans, shown[-1].entries, strict=True):
            verdicts = [verdict for verdict in (verdict_of(book, job) for job in plan.jobs()) if verdict]
            values = [verdict.value for verdict in verdicts if verdict.status == "finished" and verdict.value]
            assert (entry.ended, entry.phase, entry.failed) == (
                len(verdicts),
                plan.phase,
                sum(verdict.status == "failed" for verdict in verdicts),
            )
            assert entry.best == max(values, default=None)
    asked = [job for plan in dispatcher.plans for job in plan.jobs()]
    assert len(judged) <= sum(plan.ended_before for plan in dispatcher.plans) + len(asked)  # type: ignore[attr-defined]
    assert len(shown) > 30


def test_an_outcome_of_a_suggestion_fails_with_any_of_its_seeds() -> None:
    curves = [{0: 0.5, 1: 0.25}, {0: 0.75}]
    done = Verdict("finished", "", 0.25, 1)
    failed, pruned = Verdict("failed", "boom", None, 0), Verdict("pruned", "", 0.1, 0)
    assert Outcome.of({}, [done, failed], curves) == Outcome({}, "failed", None, {0: 0.625}, "boom")
    assert Outcome.of({}, [done, pruned], curves) == Outcome({}, "pruned", None, {0: 0.625})
    assert Outcome.of({}, [done, Verdict("finished", "", 0.75, 1)], curves).value == 0.5
