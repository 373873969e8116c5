"""The table's columns and notes: what a terminal has room for, in which order, and what is said of the differences."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from results.made_results import HEAD, PROVENANCE, Made, row
from rich.console import Console
from typer.testing import CliRunner

from raycl.cli.app import app
from raycl.matrix import Verdict
from raycl.results.decisions import suggestion_path, winner_path
from raycl.results.layout import SPARED, columns
from raycl.results.tables import Comparison, comparison

METHOD = "{strategy: replay, memory.capacity: {choice: [50, 100, 200]}}"
TEXT = (
    f"{HEAD}strategies: {{naive: {{}}, first: {METHOD}, second: {METHOD}, third: {METHOD}}}\n"
    "search: {trials: 3, seeds: [0]}\nfinal: {seeds: [10, 11, 12]}\n"
)
VALIDATION = {"first": (50, 60.0), "second": (100, 70.0), "third": (200, 80.0)}
TEST: Mapping[str, tuple[float, ...]] = {
    "naive": (20.0, 21.0, 24.0),
    "first": (90.0, 91.0, 92.5),
    "second": (68.0, 72.0, 71.0),
    "third": (69.0, 70.0, 72.0),
}


def made(folder: Path, text: str = TEXT) -> Made:
    """The best on validation data is the third, which is not told apart from the second; the first is better."""
    found = Made(folder, text)
    for alias, (capacity, value) in VALIDATION.items():
        if f"{alias}: {METHOD}" in text:
            found.suggest(alias, [capacity] * 3)
            found.end(alias, capacity, 0, value)
            found.win(alias, capacity)
    for alias, values in TEST.items():
        point = VALIDATION[alias][0] if f"{alias}: {METHOD}" in text else None
        for seed, value in zip((10, 11, 12), values, strict=True):
            found.end(alias, point, seed, value, "final")
    return found


def printed(table: Comparison, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width, color_system=None, legacy_windows=False).print(table)
    return text.getvalue()


def test_methods_are_ordered_by_validation_and_what_was_not_searched_stands_behind(tmp_path: Path) -> None:
    table = comparison(made(tmp_path / "r").results)
    assert [line.alias for line in table.lines] == ["third", "second", "first", "naive"]
    rows = {row["alias"]: row for row in table.to_arrow().to_pylist()}
    assert [row["in_group"] for row in rows.values()] == [True, True, False, False]
    assert {row["baseline"] for row in rows.values()} == {"third"}
    assert (rows["first"]["baseline_chosen_by"], rows["first"]["comparisons"]) == ("validation", 3)
    assert rows["first"]["difference_mean"] == pytest.approx(0.2083, abs=1e-4)
    assert rows["first"]["difference_seeds"] == 3
    assert rows["first"]["p_value"] < 0.05 < rows["second"]["p_value"]
    assert rows["third"]["difference_mean"] is None
    assert rows["third"]["average_accuracy_margin"] == pytest.approx(0.015275 * 4.302653 / 3**0.5, rel=1e-4)
    assert rows["naive"]["winner"] is None


def test_what_was_not_searched_stands_behind_however_good_it_is(tmp_path: Path) -> None:
    found = made(tmp_path / "r", TEXT.replace("{naive: {}, ", "{joint: {}, naive: {}, "))
    for seed, value in ((10, 98.0), (11, 99.0), (12, 97.0)):
        found.end("joint", None, seed, value, "final")
    assert [line.alias for line in comparison(found.results).lines] == ["third", "second", "first", "joint", "naive"]


def test_a_note_names_the_group_the_correction_and_what_is_better(tmp_path: Path) -> None:
    notes = comparison(made(tmp_path / "r").results).notes
    assert notes[1].startswith("Bold: the best on validation data, by which methods are ordered, and what is not told ")
    assert notes[2] == "Baseline: third (3 comparisons); not told apart: second; better: first."


def test_the_group_is_bold(tmp_path: Path) -> None:
    table = comparison(made(tmp_path / "r").results)
    text = io.StringIO()
    Console(file=text, width=200, force_terminal=True, legacy_windows=False, _environ={}).print(table)
    bold = [name for name in TEST if re.search(rf"\x1b\[1m *{name} ", text.getvalue())]
    assert bold == ["second", "third"]


def test_a_baseline_that_the_file_names(tmp_path: Path) -> None:
    found = made(tmp_path / "r", TEXT.replace("12]}", "12], baseline: naive}"))
    table = comparison(found.results)
    assert {row["baseline"] for row in table.to_arrow().to_pylist()} == {"naive"}
    assert table.notes[1].startswith("Bold: the baseline that was named, and what is not told apart from it")
    assert table.notes[2] == "Baseline: naive (3 comparisons); all others are told apart; better: third, second, first."
    empty = Made(tmp_path / "s", TEXT.replace("12]}", "12], baseline: naive}"))
    empty.suggest("first", [50] * 3)
    empty.end("first", 50, 0, 60.0)
    empty.win("first", 50)
    empty.end("first", 50, 10, 60.0, "final")
    assert "No comparison: the baseline naive has no test figures." in comparison(empty.results).notes


def test_a_baseline_that_the_command_names(tmp_path: Path) -> None:
    folder = made(tmp_path / "r", TEXT.replace("12]}", "12], baseline: naive}")).results.uri
    shown = CliRunner().invoke(app, ["show", folder, "--baseline", "second"])
    assert "Baseline: second (3 comparisons); " in shown.output
    wrong = CliRunner().invoke(app, ["show", folder, "--baseline", "secnd"])
    assert (wrong.exit_code, len(wrong.stderr.splitlines())) == (2, 1)
    assert "a baseline must be a method of the sweep (got 'secnd'); did you mean 'second'? (known: " in wrong.stderr


def test_where_nothing_was_searched_a_note_says_what_the_order_is_worth(tmp_path: Path) -> None:
    text = TEXT.replace(METHOD, "{strategy: replay, memory.capacity: 50}")
    for number, alias in enumerate(("first", "second", "third")):
        text = text.replace(
            f"{alias}: {{strategy: replay, memory.capacity: 50}}",
            f"{alias}: {{strategy: replay, memory.capacity: {50 + number}}}",
        )
    table = comparison(made(tmp_path / "r", text.replace("search: {trials: 3, seeds: [0]}\n", "")).results)
    assert [line.alias for line in table.lines] == ["first", "second", "third", "naive"]
    assert table.notes[1].startswith("Bold: the best on these test data, as there are no validation figures, and what")
    assert "Baseline: first (6 comparisons); " in table.notes[2]


def test_seeds_that_are_not_shared_and_too_few_of_them_are_told(tmp_path: Path) -> None:
    found = Made(tmp_path / "r", f"{HEAD}strategies: {{naive: {{}}, replay: {{}}}}\nfinal: {{seeds: [10, 11, 12]}}\n")
    for seed, value in ((10, 60.0), (11, 61.0), (12, 63.0)):
        found.end("replay", None, seed, value, "final")
    found.end("naive", None, 10, 20.0, "final")
    notes = comparison(found.results).notes
    assert "Seeds shared with replay: naive 1." in notes
    told = "Baseline: replay (1 comparison); not told apart: naive; too few seeds, or equal ones, to test: naive."
    assert told in notes


@pytest.mark.parametrize(("crossed", "told"), [("true", True), ("false", False)])
def test_crossed_seeds_are_no_independent_runs(tmp_path: Path, crossed: str, told: bool) -> None:
    design = f"{{model: [1, 2], batches: [3, 4], crossed: {crossed}}}"
    found = Made(tmp_path / "r", f"{HEAD}strategies: {{naive: {{}}, replay: {{}}}}\nfinal: {{seeds: {design}}}\n")
    for number, run in enumerate(found.sweep.final.runs):
        for entry in found.sweep.entries:
            store = found.results.trial(found.sweep.trial(entry, {}, run, "final"))
            store.write_task(store.begin(), 2, [row(2, [40.0 + number] * 3)], {})
            store.finish(Verdict("finished", "", 0.4, 2), PROVENANCE)
    table = comparison(found.results)
    assert {row["difference_seeds"] for row in table.to_arrow().to_pylist()} == {None, 4 if told else 2}
    assert any(note.startswith("Seeds are crossed, so that runs share some;") for note in table.notes) is told


@pytest.mark.parametrize("width", [48, 60, 80, 100, 128, 200])
def test_no_width_cuts_a_figure_and_winners_stand_somewhere(tmp_path: Path, width: int) -> None:
    table = comparison(made(tmp_path / "r").results)
    text = printed(table, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert "70.33 ± 1.53" in text
    assert "± 3.79" in text or width < 60
    assert text.count("memory.capacity 200") >= 1
    assert ("Winners: " in text) is (width < 128)


def test_columns_go_one_after_another(tmp_path: Path) -> None:
    """What is spared first says least of which method keeps more."""
    table = comparison(made(tmp_path / "r").results)
    names = [column.name for column in columns(table.lines, table.baselines)]
    assert set(SPARED) - set(names) == {"pooled_average_incremental_accuracy", "intransigence"}
    assert {"average_accuracy", "n"}.isdisjoint(SPARED)


def test_a_list_that_won_is_no_markup(tmp_path: Path) -> None:
    text = f"{HEAD}strategies: {{first: {{strategy: naive, model.hidden: {{choice: [[20], [30], [40]]}}}}}}\n"
    found = Made(tmp_path / "r", text + "search: {trials: 3, seeds: [0]}\nfinal: {seeds: [10]}\n")
    entry, point = found.sweep.entry("first"), {"model.hidden": "[30]"}
    found.results.write_json_once(suggestion_path(entry, 0), {"point": point, "cutoffs": {}})
    found.results.write_json_once(winner_path(entry), {"point": point})
    for seed, phase in ((0, "search"), (10, "final")):
        trial = found.sweep.trial(entry, point, seed, phase)
        store = found.results.trial(trial)
        store.write_task(store.begin(), 2, [row(2, [40.0] * 3)], {})
        store.finish(Verdict("finished", "", 0.4, 2), PROVENANCE)
    for width in (60, 128):
        assert "model.hidden [30]" in printed(comparison(found.results), width)
