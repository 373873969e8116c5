"""A folder goes on with a changed sweep file, and refuses what would make its trials others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from sweeping import HEAD, SWEEP, attempts, decisions, parsed, play

from raycl.errors import FolderInUse, StoreError
from raycl.results.comparison import lines
from raycl.results.decisions import read_winner
from raycl.results.growth import grow
from raycl.results.store import ResultsFolder
from raycl.spec.sweep import SweepSpec
from raycl.sweep.dispatch import Dispatcher
from raycl.sweep.ledger import Ledger
from raycl.sweep.plan import EntryPlan
from raycl.sweep.run import run_sweep


def opened(sweep: SweepSpec, folder: Path) -> ResultsFolder:
    return ResultsFolder.create(folder, sweep.dumps(), sweep.hash, lambda held: grow(held, sweep))


def ran(text: str, folder: Path) -> tuple[ResultsFolder, int]:
    """Everything that a folder lacks, pretended; and how many trials that were."""
    sweep = parsed(text)
    book = Ledger(opened(sweep, folder))
    jobs = play(Dispatcher([EntryPlan(sweep, entry, book) for entry in sweep.entries], book, slots=3), book.results)
    return book.results, len(jobs)


def shown(folder: Path) -> dict[str, tuple[int | None, int]]:
    return {line.key: (line.planned, len(line.trials)) for line in lines(ResultsFolder.open(folder))}


@pytest.mark.parametrize(
    ("old", "new", "more"),
    [
        ("seeds: [10, 11]", "seeds: [10, 11, 12]", [2]),
        ("seeds: [10, 11]", "seeds: [11]", [0]),
        ("top: 2, seeds: [1]", "top: 2, seeds: [1, 2]", range(4, 9)),
        ("trials: 5", "trials: 8", range(3, 9)),
        ("seeds: [0]", "seeds: [0, 5]", range(8, 15)),
        ("strategies:\n", "strategies:\n  ewc: {}\n", [2]),
        ("loguniform: [1e-4, 1e-2]", "loguniform: [1e-5, 1e-1]", [0]),
        ("generation: 2", "generation: 3, sampler: random", [0]),
    ],
)
def test_a_larger_file_goes_on_and_repeats_nothing(tmp_path: Path, old: str, new: str, more: Sequence[int]) -> None:
    ran(SWEEP, tmp_path)
    before, tried = decisions(tmp_path), attempts(tmp_path)
    assert old in SWEEP
    _, count = ran(SWEEP.replace(old, new), tmp_path)
    assert count in more
    now = decisions(tmp_path)
    assert {path: now[path] for path in before} == before, "nothing that was decided changes"
    assert {name: attempts(tmp_path)[name] for name in tried} == tried, "no trial runs again"
    assert all(planned == done for planned, done in shown(tmp_path).values())
    assert json.loads((tmp_path / "history" / "0000.json").read_text())["text"] == SWEEP
    assert ran(SWEEP.replace(old, new), tmp_path)[1] == 0


def test_the_same_history_of_files_gives_the_same_table(tmp_path: Path) -> None:
    longer = SWEEP.replace("trials: 5", "trials: 8").replace("seeds: [10, 11]", "seeds: [10, 12]")
    for name in ("one", "two"):
        ran(SWEEP, tmp_path / name)
        ran(longer, tmp_path / name)
    assert decisions(tmp_path / "one") == decisions(tmp_path / "two")


def test_a_longer_search_may_name_another_winner_and_the_former_stays(tmp_path: Path) -> None:
    """The winner of few trials is not that of many; going back to the old file shows the old one again."""
    few = SWEEP.replace("trials: 5", "trials: 2").replace("finalists: {top: 2, seeds: [1]}", "defaults: false")
    many = few.replace("trials: 2", "trials: 14")
    folder, _ = ran(few, tmp_path)
    first = {entry.key: read_winner(folder.read_json, parsed(few), entry) for entry in parsed(few).entries}
    folder, _ = ran(many, tmp_path)
    later = {entry.key: read_winner(folder.read_json, parsed(many), entry) for entry in parsed(many).entries}
    assert first["naive"]["point"] != later["naive"]["point"]
    assert first["naive"]["value"] < later["naive"]["value"]
    back, count = ran(few, tmp_path)
    assert count == 0
    assert {entry.key: read_winner(back.read_json, parsed(few), entry) for entry in parsed(few).entries} == first
    assert len(list((tmp_path / "history").iterdir())) == 2


def test_a_winner_that_says_nothing_of_its_choice_is_of_the_file_before(tmp_path: Path) -> None:
    """As an earlier raycl wrote them."""
    folder, _ = ran(SWEEP, tmp_path)
    for path in (tmp_path / "winners").iterdir():
        record = json.loads(path.read_text())
        del record["basis"]
        path.write_text(json.dumps(record))
    sweep, longer = parsed(SWEEP), parsed(SWEEP.replace("trials: 5", "trials: 8"))
    entry = sweep.entries[0]
    assert read_winner(folder.read_json, sweep, entry) is not None
    folder = opened(longer, tmp_path)
    assert read_winner(folder.read_json, longer, longer.entries[0]) is None, "its search is longer by now"
    assert read_winner(folder.read_json, sweep, entry) is not None


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("iterations: 20", "iterations: 30", "naive: training.iterations (30, before 20)"),
        ("hidden: [24]", "hidden: [25]", "naive: model.hidden ([25], before [24])"),
        ("tasks: 5", "tasks: 2", "naive: stream.tasks (2, before 5)"),
        ("capacity: 50", "capacity: 50, combine: mean", 'replay: memory.combine ("mean", before "union")'),
        ("search: {", "search: {protocol: {first_tasks: 2}, ", "search.protocol differs"),
        (
            "search: {",
            "search: {metric: [average_accuracy, gradient_examples], ",
            "search.metric (gradient_examples, which nobody counted in trials of this folder)",
        ),
        ("final: {", "final: {train_on: train_and_validation, ", "naive: train_on"),
        ("final: {", "resources: {cpus: 2}\nfinal: {", "naive: resources.cpus (2, before 1)"),
        ("[20, 50, 100]", "[20, 50]", "replay: memory.capacity (choice(20, 50), but 100 was tried)"),
        ("{choice: [20, 50, 100]}", "50", "replay: memory.capacity (was searched)"),
    ],
)
def test_what_changes_a_trial_is_refused_by_its_key_and_loses_nothing(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    ran(SWEEP, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert old in SWEEP
    with pytest.raises(StoreError) as error:
        opened(parsed(SWEEP.replace(old, new)), tmp_path)
    assert told.replace('"', "'") in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


DEPENDENT = (
    HEAD
    + """
strategies:
  ewc:
    mode: {choice: [separate, online]}
    online_decay: {uniform: [0.8, 0.99], when: {mode: online}}
search: {trials: 4, generation: 2, startup: 4}
final: {seeds: [10]}
"""
)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("}", "online_decay (uniform(0.8, 0.99), but it was not searched at {'mode': 'separate'})"),
        (", when: {mode: [online, separate]}}", "but it was not searched at {'mode': 'separate'})"),
        (", when: {mode: separate}}", "online_decay (uniform(0.8, 0.99), when mode is separate, but it was"),
    ],
)
def test_points_that_another_condition_would_leave_half_named_are_told(tmp_path: Path, given: str, told: str) -> None:
    ran(DEPENDENT, tmp_path)
    assert ran(DEPENDENT.replace("trials: 4", "trials: 6"), tmp_path)[1] in (2, 3)
    with pytest.raises(StoreError) as error:
        opened(parsed(DEPENDENT.replace(", when: {mode: online}}", given)), tmp_path)
    assert told in str(error.value).replace('"', "'")


def test_several_objectives_go_on_where_one_was(tmp_path: Path) -> None:
    folder, _ = ran(SWEEP, tmp_path)
    several = SWEEP.replace("search: {", "search: {metric: [average_accuracy, state_bytes], ")
    folder, count = ran(several, tmp_path)
    assert 0 < count <= 2 * 2 * 2, "finalists beside the former ones, and final trials of theirs"
    for entry in parsed(several).entries:
        winner = read_winner(folder.read_json, parsed(several), entry)
        assert winner is not None
        assert "pareto" in winner
        former = read_winner(folder.read_json, parsed(SWEEP), entry)
        assert former is not None
        assert "pareto" not in former


def test_a_folder_that_is_being_driven_keeps_its_file(tmp_path: Path) -> None:
    sweep, longer = parsed(SWEEP), parsed(SWEEP.replace("trials: 5", "trials: 8"))
    with opened(sweep, tmp_path).lease(), pytest.raises(FolderInUse):
        run_sweep(longer, tmp_path, backend="here")
    assert (tmp_path / "sweep.yaml").read_text() == SWEEP
    assert ResultsFolder.open(tmp_path).sweep_hash == sweep.hash


def test_a_sweep_with_none_of_the_methods_is_another_sweep(tmp_path: Path) -> None:
    ran(SWEEP, tmp_path)
    with pytest.raises(StoreError, match="it has none of their methods"):
        opened(parsed(HEAD + "strategies: {si: {}}\nfinal: {seeds: [10]}\n"), tmp_path)


def test_a_method_that_is_left_out_is_left_out_of_the_table(tmp_path: Path) -> None:
    ran(SWEEP, tmp_path)
    trials = len(attempts(tmp_path))
    _, count = ran(SWEEP.replace("  replay: {memory.capacity: {choice: [20, 50, 100]}}\n", ""), tmp_path)
    assert count == 0
    assert list(shown(tmp_path)) == ["naive"]
    assert len(attempts(tmp_path)) == trials, "its trials stay"
    assert ran(SWEEP, tmp_path)[1] == 0
    assert set(shown(tmp_path)) == {"replay", "naive"}


MARKED = HEAD.replace("iterations: 20", "epochs: 1").replace("batch_size: 32, ", "")
MARKED += """
strategies: {naive: {training.batch_size: {choice: [16, 32, 64]}}}
search: {trials: 4, generation: 2, startup: 2, seeds: [0]}
final: {seeds: [10, 11]}
"""


@pytest.mark.parametrize(
    ("old", "new", "first", "more"),
    [
        ("choice: [16, 32, 64]", "choice: [16, 32, 64, 1]", 5, 1),
        ("choice: [16, 32, 64]", "choice: [16, 1, 32, 64]", 5, 1),
        ("choice: [16, 32, 64]", "choice: [16, 32, 64, 128]", 5, 1),
        ("choice: [16, 32, 64]", "choice: [1, 16, 32, 64, 128, 256]", 5, 1),
        ("lograndint: [2, 64]", "lograndint: [1, 99]", 6, 0),
    ],
)
def test_values_that_join_a_space_leave_its_points_where_they_are(
    old: str, new: str, first: int, more: int, tmp_path: Path
) -> None:
    """A batch of one names other trials than the first raycl's: suggestions of such a space have another place."""
    given = MARKED.replace("choice: [16, 32, 64]", old)
    ran(given, tmp_path)
    before, tried = decisions(tmp_path), attempts(tmp_path)
    assert len(tried) >= first
    _, count = ran(given.replace(old, new), tmp_path)
    assert {name: attempts(tmp_path)[name] for name in tried} == tried
    (entry,) = parsed(given.replace(old, new)).entries
    told = decisions(tmp_path)
    points = [told[path]["point"] for path in sorted(told) if path.startswith(f"suggestions/{entry.stored_as}/")]
    former = [before[path]["point"] for path in sorted(before) if path.startswith("suggestions/")]
    assert points[: len(former)] == former, "and later ones are suggested beside them"
    assert len(points) == len(former) + more
    assert count >= more
    assert ran(given.replace(old, new), tmp_path)[1] == 0
    with suppress(StoreError):  # points that were tried since lie outside
        assert ran(given, tmp_path)[1] == 0, "the former file finds what it had"


def test_the_mutant_that_looks_for_them_under_the_new_name_alone_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, now = (parsed(text).entries[0] for text in (MARKED, MARKED.replace("32, 64", "32, 64, 1")))
    assert before.stored_as != now.stored_as
    monkeypatch.setattr("raycl.results.growth.carry_suggestions", lambda *given: None)
    with pytest.raises(AssertionError):
        test_values_that_join_a_space_leave_its_points_where_they_are(
            "lograndint: [2, 64]", "lograndint: [1, 99]", 6, 0, tmp_path
        )
