"""Whose trial is whose, which of them give a method's figures, and when a sweep is done."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from results.made_results import HEAD, PROVENANCE, Made

from raycl.errors import FolderInUse, TornFile
from raycl.results import comparison as module
from raycl.results.comparison import Line, failures, lines, owners_of
from raycl.results.decisions import suggestions_folder, winner_path
from raycl.results.outcomes import UNDEFINED
from raycl.results.store import ResultsFolder
from raycl.results.tables import comparison

METHOD = "{strategy: replay, memory.capacity: {choice: [50, 100]}}"
ALIASES = f"{HEAD}strategies: {{first: {METHOD}, second: {METHOD}, third: {METHOD}}}\n"
FINALISTS = "search: {trials: 2, seeds: [0], finalists: {top: 2, seeds: [1]}}\nfinal: {seeds: [10, 11]}\n"


def accuracy(line: Line) -> tuple[float, int] | None:
    """Mean accuracy in per cent to two digits, and over how many trials."""
    spread = line.metrics.get("average_accuracy")
    return None if spread is None else (round(100 * spread.mean, 2), spread.n)


@pytest.fixture
def shared(tmp_path: Path) -> Made:
    """Three names of one method that came to the same two points in different orders; two of them ran one each."""
    made = Made(tmp_path / "shared", ALIASES + "search: {trials: 2, seeds: [0]}\n")
    made.suggest("first", [50, 100])
    made.suggest("second", [100, 50])
    made.suggest("third", [100, 50])
    made.end("first", 50, 0, 20.0)
    made.end("second", 100, 0, 10.69)
    return made


# -- whose trial is whose --------------------------------------------------------------------------------------


def test_names_of_one_method_over_the_same_points_show_the_same_figure(shared: Made) -> None:
    assert {line.alias: accuracy(line) for line in lines(shared.results)} == {
        "first": (20.0, 1),
        "second": (20.0, 1),
        "third": (20.0, 1),
    }
    assert str(comparison(shared.results)).count("20.00 ±") == 3


def test_keyed_by_the_stored_alias_they_do_not(shared: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong variant: a trial counts for the alias that ran it first, as where the sweep cannot be read."""
    monkeypatch.setattr(module, "sweep_of", lambda results: None)
    assert {line.alias: accuracy(line) for line in lines(shared.results)} == {"first": (20.0, 1), "second": (10.69, 1)}


def test_owners_are_all_entries_that_ask_for_a_trial(shared: Made) -> None:
    everyone = ("first", "second", "third")
    names = [shared.spec("first", capacity, 0).hash for capacity in (50, 100)]
    assert owners_of(shared.results) == dict.fromkeys(names, everyone)
    shared.end("third", 50, 7, 99.0)  # `--in-process --seed 7`: nobody asks for it
    assert owners_of(shared.results) == dict.fromkeys(names, everyone)


def test_what_must_be_known_of_a_trial_is_told_of_the_method_that_shows_it(
    shared: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was run by ``first``; by the alias that ran it, nothing would be told of ``third``."""
    monkeypatch.setitem(PROVENANCE, "warnings", ["nothing is left"])
    shared.end("first", 50, 0, 20.0)
    assert shared.line("third").remarks == ("third, seed 0: nothing is left",)


SEEDS = ALIASES + "search: {trials: 2, seeds: [0, 1, 2]}\n"


def test_search_seeds_are_averaged(tmp_path: Path) -> None:
    made = Made(tmp_path / "r", SEEDS)
    made.suggest("first", [50, 100])
    for seed, value in enumerate((10.14, 16.21, 18.00)):
        made.end("first", 50, seed, value)
    made.end("first", 100, 0, 99.0)  # the luckiest trial, of a suggestion that has not ended
    spread = made.line("first").metrics["average_accuracy"]
    assert (round(100 * spread.mean, 2), round(100 * spread.std, 1), spread.n) == (14.78, 4.1, 3)
    assert made.line("first").scored_on == "validation"
    assert "14.78 ± 4.12" in str(comparison(made.results))
    for seed in (1, 2):
        made.end("first", 100, seed, 1.0)
    assert accuracy(made.line("first")) == (33.67, 3)


def test_trials_of_other_seeds_do_not_join_in(tmp_path: Path) -> None:
    made = Made(tmp_path / "r", SEEDS)
    made.suggest("first", [50])
    for seed, value in enumerate((10.0, 20.0, 30.0)):
        made.end("first", 50, seed, value)
    made.end("first", 50, 3, 90.0)  # `--in-process --seed 3 --results`
    made.results.trial(made.spec("first", 100, 4)).begin()  # another one, stopped
    assert accuracy(made.line("first")) == (20.0, 3)
    assert comparison(made.results).begun == 0


def test_the_named_winner_is_shown_over_all_its_validation_seeds(tmp_path: Path) -> None:
    made = Made(tmp_path / "r", ALIASES + FINALISTS)
    made.suggest("first", [50, 100])
    for capacity, first, again in ((50, 30.0, 10.0), (100, 25.0, 24.0)):
        made.end("first", capacity, 0, first)
        made.end("first", capacity, 1, again, "finalists")
    assert accuracy(made.line("first")) == (20.0, 2), "the best suggestion, as no winner is named yet"
    made.win("first", 100)
    line = made.line("first")
    assert (line.scored_on, accuracy(line)) == ("validation", (24.5, 2))
    made.end("first", 100, 10, 50.0, "final")
    made.end("first", 50, 11, 99.0, "final")  # another point's
    assert (made.line("first").scored_on, accuracy(made.line("first"))) == ("test", (50.0, 1))


def test_copies_beside_decisions_are_nobodys(tmp_path: Path) -> None:
    """As programs that keep folders in step lay them there; one may be torn, one may be of another sweep."""
    made = Made(tmp_path / "r", ALIASES + FINALISTS)
    made.suggest("first", [50])
    made.end("first", 50, 0, 30.0)
    before = lines(made.results)
    root, entry = Path(made.results.uri), made.sweep.entry("first")
    (root / "winners").mkdir()
    for folder in (root / "winners", root / "suggestions", root / suggestions_folder(entry)):
        for name in ("first (copy).json", "0000 (copy).json", "other.json", "Thumbs.db"):
            (folder / name).write_text("torn")
    (root / "suggestions" / "other").mkdir()
    (root / "suggestions" / "other" / "0000.json").write_text("torn")
    assert lines(made.results) == before
    (root / winner_path(entry)).write_text("torn")
    with pytest.raises(TornFile):
        lines(made.results)


def test_ties_go_to_the_lower_index(tmp_path: Path) -> None:
    made = Made(tmp_path / "r", ALIASES + "search: {trials: 2, seeds: [0]}\n")
    made.suggest("first", [100, 50])
    specs = [made.end("first", capacity, 0, 20.0) for capacity in (100, 50)]
    assert made.line("first").trials == (specs[0].hash,)


# -- how a method ends -----------------------------------------------------------------------------------------


def ending(made: Made, alias: str = "first") -> tuple[bool, str, list[str]]:
    """Whether a method is done, why it failed, and the notes that name it."""
    line = made.line(alias)
    return line.complete, line.failure, [note for note in comparison(made.results).notes if note.startswith(alias)]


ONE = f"{HEAD}strategies: {{first: {METHOD}}}\n"
BOTH = "search: {trials: 2, seeds: [0]}\nfinal: {seeds: [10, 11]}\n"


def test_a_method_whose_search_trials_all_failed_is_done_and_says_why(tmp_path: Path) -> None:
    made = Made(tmp_path / "r", ONE + BOTH)
    made.suggest("first", [50, 100])
    made.end("first", 50, 0, None, reason="limits: 201,624 bytes of state")
    assert ending(made)[0] is False
    made.end("first", 100, 0, None, reason="limits: 201,624 bytes of state")
    told = "no suggestion finished: 2 of 2 search trials failed: limits: 201,624 bytes of state"
    assert ending(made) == (True, told, [f"first: {told}"])
    table = comparison(made.results)
    assert (table.complete, table.failed) == (True, [f"first: {told}"])
    text = str(table)
    assert "Incomplete" not in text
    assert "failed" in next(line for line in text.splitlines() if line.startswith("first"))
    assert "--retry-failed" in text


def test_a_count_of_final_trials_alone_would_wait_for_ever(tmp_path: Path) -> None:
    """The wrong variant: done is when as many final trials have ended as are planned."""
    made = Made(tmp_path / "r", ONE + BOTH)
    made.suggest("first", [50, 100])
    for capacity in (50, 100):
        made.end("first", capacity, 0, None, reason="too large")
    line = made.line("first")
    assert line.planned == 2
    assert line.complete
    assert not len(line.trials) >= line.planned


def test_some_failures_of_a_search_are_told_and_fail_nothing(tmp_path: Path) -> None:
    made = Made(tmp_path / "r", ONE + BOTH)
    made.suggest("first", [50, 100])
    made.end("first", 50, 0, None, reason="the loss is not finite")
    made.end("first", 100, 0, 20.0)
    made.win("first", 100)
    assert ending(made)[0] is False
    for seed in (10, 11):
        made.end("first", 100, seed, 30.0, "final")
    assert ending(made) == (True, "", ["first: 1 of 2 search trials failed: the loss is not finite"])
    assert comparison(made.results).failed == []
    assert len(made.line("first").failed) == 1


def test_a_search_that_has_ended_without_naming_its_winner_is_not_done(tmp_path: Path) -> None:
    made = Made(tmp_path / "r", ONE + "search: {trials: 2, seeds: [0]}\n")
    made.suggest("first", [50, 100])
    for capacity in (50, 100):
        made.end("first", capacity, 0, 20.0)
    assert ending(made)[0] is False
    made.win("first", 50)
    assert ending(made) == (True, "", [])
    assert made.line("first").planned is None


def test_finalists_that_all_failed(tmp_path: Path) -> None:
    made = Made(tmp_path / "r", ONE + FINALISTS)
    made.suggest("first", [50, 100])
    for capacity in (50, 100):
        made.end("first", capacity, 0, 20.0)
    made.end("first", 50, 1, None, "finalists", reason="a")
    assert ending(made)[0] is False
    made.end("first", 100, 1, None, "finalists", reason="a")
    told = "no finalist finished on all its seeds: 2 of 2 finalists trials failed: a"
    assert ending(made) == (True, told, [f"first: {told}"])


@pytest.mark.parametrize(("failing", "n"), [((10,), "1 of 2"), ((10, 11), "0 of 2")])
def test_final_trials_that_failed(tmp_path: Path, failing: tuple[int, ...], n: str) -> None:
    made = Made(tmp_path / "r", HEAD + "strategies: {first: {strategy: naive}}\nfinal: {seeds: [10, 11]}\n")
    for seed in (10, 11):
        made.end("first", None, seed, None if seed in failing else 40.0, "final", reason="no")
    told = f"{len(failing)} of 2 final trials failed: no"
    assert ending(made) == (True, told, [f"first: {told}"])
    line = made.line("first")
    assert accuracy(line) == (None if len(failing) == 2 else (40.0, 1))
    assert line.scored_on == ("nothing" if len(failing) == 2 else "test")
    assert n in str(comparison(made.results))


def test_a_search_whose_trials_were_all_pruned_or_failed(tmp_path: Path) -> None:
    pruner = "pruner: {scheduler: asha, grace_tasks: 1, reduction_factor: 2}\n"
    made = Made(tmp_path / "r", ONE + BOTH + pruner)
    made.suggest("first", [50, 100])
    made.end("first", 50, 0, 10.0, status="pruned", reason="stopped by ASHA")
    made.end("first", 100, 0, 11.0, status="pruned", reason="stopped by ASHA")
    told = "no suggestion finished: 2 of 2 search trials were pruned"
    assert ending(made)[:2] == (True, told)


def test_a_trial_that_other_cut_offs_pruned_has_to_go_on(tmp_path: Path) -> None:
    """Two entries share it: one has pruned it, the other must see its end."""
    made = Made(tmp_path / "r", ALIASES + BOTH + "pruner: {quantile: 0.5, grace_tasks: 1}\n")
    made.suggest("first", [50, 50], {"1": 0.9})
    made.suggest("second", [50, 50])
    made.end("first", 50, 0, 20.0, status="pruned", reason="below 0.9")
    found = {line.alias: line.complete for line in lines(made.results)}
    assert found == {"first": False, "second": False, "third": False}


def test_a_metric_that_is_undefined_fails_a_search_and_no_final_trial(tmp_path: Path) -> None:
    text = ONE.replace("first:", "one: {strategy: joint}, first:")
    text += "search: {trials: 2, seeds: [0]}\nfinal: {seeds: [10]}\n"
    made = Made(tmp_path / "r", text)
    made.suggest("first", [50, 100])
    for capacity in (50, 100):
        made.end("first", capacity, 0, 20.0, value=None)
    made.end("one", None, 10, 40.0, "final", value=None)
    assert ending(made)[:2] == (True, f"no suggestion finished: 2 of 2 search trials failed: {UNDEFINED}")
    assert ending(made, "one") == (True, "", [])
    assert accuracy(made.line("one")) == (40.0, 1)


def test_barred_methods_are_done_and_have_not_failed(tmp_path: Path) -> None:
    text = ONE.replace("first:", "packnet: {}, first:") + BOTH
    made = Made(tmp_path / "r", f"{text}variants: {{given: {{stream.scenario: task}}, hidden: {{}}}}\n")
    (barred,) = [line for line in lines(made.results) if line.barred]
    assert (barred.key, barred.complete, barred.failure) == ("hidden/packnet", True, "")


def test_a_search_without_a_final_phase_runs_nothing_of_a_method_without_a_space(tmp_path: Path) -> None:
    made = Made(tmp_path / "r", ONE.replace("first:", "one: {strategy: naive}, first:") + "search: {trials: 1}\n")
    assert ending(made, "one")[:2] == (True, "")
    assert ending(made)[0] is False


def test_of_several_reasons_the_most_frequent_is_told(tmp_path: Path) -> None:
    made = Made(tmp_path / "r", ONE + "search: {trials: 2, seeds: [0, 1]}\n")
    made.suggest("first", [50, 100])
    for capacity, seed, reason in ((50, 0, "rare"), (50, 1, "often"), (100, 0, "often"), (100, 1, "often")):
        made.end("first", capacity, seed, None, reason=reason)
    told = "no suggestion finished: 4 of 4 search trials failed: often (and 1 more reason)"
    assert made.line("first").failure == told


# -- failures, and where they lie ------------------------------------------------------------------------------


def test_failures_name_everyone_who_asks_and_the_traceback(tmp_path: Path) -> None:
    made = Made(tmp_path / "r", ALIASES + BOTH)
    made.suggest("first", [50, 100])
    made.suggest("second", [50])
    made.end("second", 50, 0, None, reason="boom", traceback="Traceback ...\nValueError: boom\n")
    nobodys = made.end("third", 50, 77, None, reason="tried")
    asked, lonely = failures(made.results)
    path = Path(made.results.uri, "trials", asked.spec.hash, "traceback.txt")
    assert (asked.entries, asked.reason, asked.traceback) == (("first", "second"), "boom", str(path))
    assert path.read_text() == "Traceback ...\nValueError: boom\n"
    assert (lonely.entries, lonely.spec.hash, lonely.traceback) == ((), nobodys.hash, "")
    assert f"traceback: {path}" in str(comparison(made.results)).replace("\n", "")


def test_no_message_and_no_table_shows_a_password_of_the_folders_address(tmp_path: Path) -> None:
    """Beginning with the traceback's file; the address itself, which opens the folder again, keeps it."""
    made = Made(tmp_path / "r", ALIASES + "search: {trials: 1, seeds: [0]}\n")
    made.suggest("first", [50])
    made.end("first", 50, 0, None, reason="broken", traceback="Traceback ...")
    made.results.files.uri = "s3://key:se/cret@bucket/r"
    told = str(comparison(made.results)) + "".join(failure.traceback for failure in failures(made.results))
    with made.results.lease(), pytest.raises(FolderInUse) as error, made.results.lease():
        pass
    assert "cret" not in told + str(error.value)
    assert "s3://key:***@bucket/r/trials/" in told
    assert made.results.uri == "s3://key:se/cret@bucket/r"


def test_a_sweep_that_cannot_be_read_here_is_shown_by_alias(tmp_path: Path) -> None:
    made = Made(tmp_path / "r", SEEDS)
    for seed, value in enumerate((10.0, 20.0)):
        made.end("first", 50, seed, value)
    made.end("first", 100, 0, 14.0)
    made.end("second", 100, 1, None, reason="boom")
    kept = Path(made.results.uri, "sweep.yaml")
    kept.write_text(kept.read_text().replace("strategy: replay", "strategy: somebody_elses"))
    results = ResultsFolder.open(made.results.uri)
    first, second = lines(results)
    assert (accuracy(first), first.scored_on, first.planned) == ((15.0, 2), "validation", None)
    assert first.metrics["average_accuracy"].std == pytest.approx(statistics.stdev([0.1, 0.2]))
    assert second.told == ("1 of 1 search trials failed: boom",)
    assert owners_of(results) == {}
