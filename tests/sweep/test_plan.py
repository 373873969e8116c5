"""What a sweep decides to run: suggestions in generations, cut-offs, finalists and winners. No Ray."""

from __future__ import annotations

import json
import math
from pathlib import Path

import optuna
import pytest
from sweeping import HEAD, SWEEP, accuracy, attempts, decisions, ledger, parsed, play, pretend

from raycl.errors import StoreError
from raycl.results.decisions import read_winner, suggestion_path
from raycl.results.standing import standings
from raycl.results.store import ResultsFolder
from raycl.spec import space
from raycl.spec.sweep import SweepSpec
from raycl.spec.sweep_options import PrunerConfig
from raycl.sweep.dispatch import Dispatcher, NothingLeft
from raycl.sweep.finalists import FinalistsPlan
from raycl.sweep.job import Job
from raycl.sweep.ledger import Ledger
from raycl.sweep.plan import EntryPlan, FinalPlan
from raycl.sweep.search import SearchPlan
from raycl.sweep.suggestions import Outcome, cutoffs, frozen, optuna_space

PRUNED = SWEEP.replace("trials: 5, generation: 2", "trials: 9, generation: 3").replace(
    "final:", "pruner: {quantile: 0.9, grace_tasks: 2, min_trials: 2}\nfinal:"
)


def search_plans(sweep: SweepSpec, book: Ledger) -> list[SearchPlan]:
    return [SearchPlan(sweep, entry, book) for entry in sweep.entries if entry.space]


def searched(sweep: SweepSpec, folder: Path, slots: int = 1, order=lambda ids: ids[0], **options) -> list[SearchPlan]:
    book = ledger(sweep, folder)
    plans = search_plans(sweep, book)
    play(Dispatcher(plans, book, slots), book.results, order, **options)
    return plans


class Eager(SearchPlan):
    """The wrong variant: no generation waits, so a suggestion sees whatever has happened to end."""

    def _seen(self, index: int) -> int:
        in_flight = index - len(self._outcomes)
        return len(self._outcomes) if in_flight < 3 else index


def test_a_generation_waits_for_the_one_before(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    book = ledger(sweep, tmp_path)
    plan = search_plans(sweep, book)[0]
    first = plan.wanted()
    assert len(first) == 2
    assert plan.wanted() == first
    pretend(book.results, first[0])
    book.refresh(first[0].spec)
    assert [job.spec.hash for job in plan.wanted()] == [first[1].spec.hash]
    pretend(book.results, first[1])
    book.refresh(first[1].spec)
    assert len(plan.wanted()) == 2
    seen = [suggestion["seen"] for name, suggestion in decisions(tmp_path).items() if "naive" in name]
    assert seen == [0, 0, 2, 2]


FIRST = SWEEP.replace("search: {", "search: {protocol: {first_tasks: 2}, ")
GAUSS = SWEEP.replace("trials: 5, generation: 2", "sampler: gp, trials: 6, generation: 2")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(SWEEP, id="plain"),
        pytest.param(PRUNED, id="pruned"),
        pytest.param(FIRST, id="first tasks"),
        pytest.param(GAUSS, id="gp", marks=pytest.mark.slow),
    ],
)
def test_slots_and_the_order_of_endings_change_nothing(tmp_path: Path, text: str) -> None:
    sweep = parsed(text)
    alone = searched(sweep, tmp_path / "one")
    for number, (slots, order) in enumerate([(2, max), (4, min), (50, max)]):
        other = searched(sweep, tmp_path / str(number), slots, order)
        assert decisions(tmp_path / str(number)) == decisions(tmp_path / "one")
        assert [plan.outcomes for plan in other] == [plan.outcomes for plan in alone]


def test_without_generations_the_order_does_change_suggestions(tmp_path: Path) -> None:
    sweep = parsed(SWEEP.replace("trials: 5, generation: 2", "trials: 8, generation: 2"))
    for name, order in (("first", min), ("last", max)):
        book = ledger(sweep, tmp_path / name)
        plans = [Eager(sweep, sweep.entries[0], book)]
        play(Dispatcher(plans, book, 3), book.results, order)
    assert decisions(tmp_path / "first") != decisions(tmp_path / "last")


def test_a_suggestion_is_read_and_never_computed_again(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    searched(sweep, tmp_path)
    file = tmp_path / "suggestions" / "naive" / "0004.json"
    suggestion = json.loads(file.read_text())
    suggestion["point"] = {"training.learning_rate": 0.005}
    file.write_text(json.dumps(suggestion))
    plan = search_plans(sweep, ledger(sweep, tmp_path))[0]
    assert [job.spec.training.learning_rate for job in plan.wanted()] == [0.005]


def test_a_small_space_is_tried_whole_and_each_point_once(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    plan = searched(sweep, tmp_path, slots=4)[1]
    assert [outcome.point["memory.capacity"] for outcome in plan.outcomes] == [20, 50, 100]
    assert plan.total == 3
    assert [suggestion["seen"] for name, suggestion in decisions(tmp_path).items() if "replay" in name] == [0, 0, 0]


def test_points_that_an_earlier_raycl_stored_twice_share_a_trial_and_all_are_told(tmp_path: Path) -> None:
    """It drew from three capacities by luck: a search that ended stands, and one that began ends with the rest."""
    sweep = parsed(SWEEP)
    for name, before in (("ended", [50, 100, 50, 100, 50]), ("begun", [50, 100, 50])):
        book = ledger(sweep, tmp_path / name)
        for index, capacity in enumerate(before):
            stored = {"index": index, "point": {"memory.capacity": capacity}, "cutoffs": {}}
            book.results.write_json_once(suggestion_path(sweep.entries[1], index), stored)
        plan = searched(sweep, tmp_path / name)[1]
        tried = [outcome.point["memory.capacity"] for outcome in plan.outcomes]
        assert tried == (before if name == "ended" else [*before, 20])
        assert len({job.spec.hash for job in plan.jobs()}) == len(set(tried))
        assert len({outcome.value for outcome in plan.outcomes}) == len(set(tried))
        (standing,) = standings(sweep, book.results, ledger(sweep, tmp_path / name).record)[1:]
        assert len(standing.again) == 2, "the search has ended for readers too"


def test_cutoffs_are_those_computed_by_hand(tmp_path: Path) -> None:
    sweep = parsed(PRUNED)
    plans = searched(sweep, tmp_path, slots=3, order=max)
    pruned = 0
    for plan in plans:
        population: dict[str, dict[int, float]] = {}
        jobs = plan.jobs()
        for start, end in ((0, 2), (2, 5), (5, 8), (8, 9)) if len(jobs) == 9 else ((0, 2), (2, 3)):
            for index in range(start, end):
                stored = decisions(tmp_path)[suggestion_path(plan.entry, index)]["cutoffs"]
                assert {int(task): value for task, value in stored.items()} == (_by_hand(population) if start else {})
            for index in range(start, end):
                curve = {task: round(1000 * accuracy(jobs[index].spec, task)) / 1000 for task in range(5)}
                ends = [t for t in range(4) if curve[t] < jobs[index].cutoffs.get(t, 0.0) - 1e-12]
                population[jobs[index].spec.hash] = {t: v for t, v in curve.items() if t <= min(ends, default=4)}
                assert plan.outcomes[index].status == ("pruned" if ends else "finished")
                pruned += bool(ends)
    assert pruned >= 2


def _by_hand(population: dict[str, dict[int, float]]) -> dict[int, float]:
    expected = {}
    for task in range(1, 5):
        values = sorted(curve[task] for curve in population.values() if task in curve)
        if len(values) >= 2:
            expected[task] = pytest.approx(values[math.ceil(0.9 * len(values)) - 1])
    return expected


def test_ties_survive_the_cutoff_and_few_trials_give_none() -> None:
    config = PrunerConfig(quantile=0.5, grace_tasks=1, min_trials=3)
    assert cutoffs(config, [{0: 0.4}, {0: 0.4}, {0: 0.4}]) == {0: 0.4}
    assert cutoffs(config, [{0: 0.4, 1: 0.1}, {0: 0.5}, {0: 0.6}]) == {0: 0.5}
    assert cutoffs(config, [{0: 0.4}, {0: 0.5}]) == {}


def test_a_shared_trial_is_judged_alike_whoever_ran_it_first(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    verdicts = []
    for number, turns in enumerate((({2: 1.0}, {}), ({}, {2: 1.0}))):
        book = ledger(sweep, tmp_path / str(number))
        spec = sweep.trial(sweep.entries[1], {"memory.capacity": 50}, 0, "search")
        for limits in turns:
            record = book.record(spec)
            if record is None or record.under(limits) is None:
                book.reopen(spec)
                pretend(book.results, Job(spec, limits))
                book.refresh(spec)
        record = book.record(spec)
        assert record is not None
        strict, free = record.under({2: 1.0}), record.under({})
        assert strict is not None
        assert free is not None
        verdicts.append((strict.status, strict.task, strict.value, free.status, free.task, free.value))
    assert verdicts[0] == verdicts[1]
    assert verdicts[0][0::3] == ("pruned", "finished")


def test_winner_has_the_best_mean_over_all_its_seeds(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    plans = searched(sweep, tmp_path)
    book = ledger(sweep, tmp_path)
    searches = search_plans(sweep, book)
    assert all(plan.wanted() is None for plan in searches)
    finalists = [FinalistsPlan(sweep, plan, book) for plan in searches]
    play(Dispatcher(finalists, book, 2), book.results)
    for plan in plans:
        best = sorted(
            {o.point[k]: -(o.value or 0) for o in plan.outcomes for k in o.point}.items(), key=lambda item: item[1]
        )[:2]
        means = {}
        for value, _ in best:
            specs = [sweep.trial(plan.entry, dict.fromkeys(plan.entry.space, value), seed, "search") for seed in (0, 1)]
            rows = [round(1000 * accuracy(spec, 4)) / 1000 for spec in specs]
            means[value] = sum(rows) / 2
        winner = read_winner(book.results.read_json, sweep, plan.entry)
        assert winner is not None
        assert winner["selected_by"] == "validation"
        assert list(winner["point"].values()) == [max(means, key=lambda value: means[value])]
        assert winner["value"] == pytest.approx(max(means.values()))
    final = [FinalPlan(sweep, entry, book) for entry in sweep.entries]
    assert {(job.spec.seed, job.spec.score_on) for plan in final for job in plan.jobs()} == {(10, "test"), (11, "test")}
    winner_file = tmp_path / "winners" / "naive.json"
    before = winner_file.read_bytes()
    assert FinalistsPlan(sweep, searches[0], book).wanted() is None
    assert winner_file.read_bytes() == before


def test_a_point_is_scored_by_its_mean_over_the_search_seeds(tmp_path: Path) -> None:
    sweep = parsed(SWEEP.replace("seeds: [0], finalists: {top: 2, seeds: [1]}", "seeds: [0, 3]"))
    plan = searched(sweep, tmp_path, slots=3)[0]
    assert len(plan.jobs()) == 10
    for index, outcome in enumerate(plan.outcomes):
        values = [round(1000 * accuracy(spec, 4)) / 1000 for spec in plan.specs(index)]
        assert outcome.value == pytest.approx(sum(values) / 2)


def test_failures_are_told_as_failures_and_only_retried_on_demand(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)

    def fails(spec) -> bool:
        return spec.strategy == "naive" and spec.training.learning_rate < 2e-3

    plan = searched(sweep, tmp_path, fails=fails)[0]
    failed = [outcome for outcome in plan.outcomes if outcome.status == "failed"]
    assert failed
    assert set(attempts(tmp_path).values()) == {1}
    told = frozen(failed[0], optuna_space(plan.entry.space))
    assert told.state == optuna.trial.TrialState.FAIL
    assert all(plan.wanted() is None for plan in search_plans(sweep, ledger(sweep, tmp_path)))
    again = ledger(sweep, tmp_path, retry_failed=True)
    plans = search_plans(sweep, again)
    jobs = play(Dispatcher(plans, again, 1), again.results, fails=fails)
    assert len(jobs) == len({job.spec.hash for job in jobs}) == len(failed)


def test_where_every_trial_failed_there_is_no_winner(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    plans = searched(sweep, tmp_path, fails=lambda spec: spec.strategy == "naive")
    book = ledger(sweep, tmp_path)
    assert FinalistsPlan(sweep, plans[0], book).wanted() is None
    assert read_winner(book.results.read_json, sweep, plans[0].entry) is None
    assert FinalPlan(sweep, plans[0].entry, book).total == 0


def test_an_entry_without_a_space_goes_straight_to_the_final_seeds(tmp_path: Path) -> None:
    sweep = parsed(HEAD + "strategies: {naive: {}}\nsearch: {trials: 5}\nfinal: {seeds: [10, 11]}\n")
    book = ledger(sweep, tmp_path)
    plan = FinalPlan(sweep, sweep.entries[0], book)
    assert [job.spec.seed for job in plan.wanted() or ()] == [10, 11]
    assert not (tmp_path / "suggestions").exists()


def test_optuna_is_told_pruned_trials_with_their_curves() -> None:
    known = optuna_space({"a": space.Uniform(0.0, 1.0)})
    told = frozen(Outcome({"a": 0.5}, "pruned", None, {0: 0.3, 1: 0.2}), known)
    assert told.state == optuna.trial.TrialState.PRUNED
    assert told.intermediate_values == {0: 0.3, 1: 0.2}


# -- a storage that is away for a moment -----------------------------------------------------------------------


def flaky(monkeypatch: pytest.MonkeyPatch, method: str, every: int) -> None:
    """Every so many calls of a method of the results folder fail, before anything has happened."""
    original, calls = getattr(ResultsFolder, method), [0]

    def failing(self: ResultsFolder, *arguments: object) -> object:
        calls[0] += 1
        if calls[0] % every == 0:
            raise StoreError("the storage is away")
        return original(self, *arguments)

    monkeypatch.setattr(ResultsFolder, method, failing)


def whole(sweep: SweepSpec, folder: Path) -> list[EntryPlan]:
    """All phases of all entries, with a storage that may be away; returns the plans at their end."""
    book = ledger(sweep, folder)
    plans = [EntryPlan(sweep, entry, book) for entry in sweep.entries]
    dispatcher = Dispatcher(plans, book, 2)
    number = 0
    while (found := dispatcher.suggest_patiently(f"t{number}")) is not NothingLeft:
        if isinstance(found, Job):
            number += 1
        elif dispatcher.running:
            chosen = max(dispatcher.running)
            pretend(ledger(sweep, folder).results, dispatcher.running[chosen])
            dispatcher.completed(chosen)
    return plans


@pytest.mark.parametrize("methods", [["read_json"], ["write_json_once"], ["read_json", "write_json_once"]])
@pytest.mark.parametrize("every", [3, 7])
def test_a_storage_that_is_away_for_a_moment_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: list[str], every: int
) -> None:
    sweep = parsed(PRUNED)
    whole(sweep, tmp_path / "calm")
    with monkeypatch.context() as patch:
        for method in methods:
            flaky(patch, method, every)
        plans = whole(sweep, tmp_path / "flaky")
    assert decisions(tmp_path / "flaky") == decisions(tmp_path / "calm")
    assert [(plan.phase, len(plan.jobs())) for plan in plans] == [("final", 2)] * 2
    assert attempts(tmp_path / "flaky") == attempts(tmp_path / "calm")


def test_a_launch_that_fails_holds_no_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = parsed(SWEEP)
    book = ledger(sweep, tmp_path)
    dispatcher = Dispatcher([EntryPlan(sweep, entry, book) for entry in sweep.entries], book, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "reopen", lambda self, spec: (_ for _ in ()).throw(StoreError("away")))
        assert dispatcher.suggest_patiently("t0") is None
    assert not dispatcher.running
    assert isinstance(dispatcher.suggest_patiently("t1"), Job)


def test_a_trial_that_a_given_up_worker_finished_is_not_run_again(tmp_path: Path) -> None:
    sweep = parsed(SWEEP)
    book = ledger(sweep, tmp_path)
    dispatcher = Dispatcher([EntryPlan(sweep, sweep.entries[0], book)], book, 1, pause=0.0)
    lost = dispatcher.suggest("t0")
    assert isinstance(lost, Job)
    dispatcher.completed("t0")  # Tune gave it up: nothing is stored so far
    pretend(book.results, lost)  # but its worker lives on, and finishes
    following = dispatcher.suggest("t1") or dispatcher.suggest("t1")
    assert isinstance(following, Job)
    assert following.spec.hash != lost.spec.hash
    assert book.results.trial(lost.spec).verdict() is not None
