"""The comparison: the right trials, the right spread, and nothing hidden."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from results.made_results import PROVENANCE, row, rows, spec
from rich.console import Console

from raycl.catalog import catalog
from raycl.matrix import AccuracyMatrix, TaskRow, Verdict
from raycl.results.decisions import suggestion_path, winner_path
from raycl.results.layout import human_bytes
from raycl.results.reading import matrices, read_cells, read_trials, stored_sizes
from raycl.results.statistics import Spread
from raycl.results.store import ResultsFolder
from raycl.results.tables import compared_matrices, comparison
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec

SWEEP = """
name: tiny
stream: {name: permuted, dataset: digits, tasks: 3, scenario: class}
model: {name: mlp, hidden: [20]}
strategies:
  naive: {}
  plain: {strategy: naive}
  joint: {}
  replay: {training.learning_rate: {loguniform: [0.001, 0.01]}}
search: {trials: 2}
final: {seeds: [10, 11, 12]}
"""


@pytest.fixture
def sweep() -> SweepSpec:
    return SweepSpec.parse(SWEEP, catalog())


@pytest.fixture
def planned(tmp_path: Path, sweep: SweepSpec) -> ResultsFolder:
    return ResultsFolder.create(tmp_path / "planned", sweep.dumps(), sweep.hash)


def _end(
    results: ResultsFolder, trial: TrialSpec, shift: int = 0, joint: bool = False, value: float | None = None
) -> None:
    store = results.trial(trial)
    attempt = store.begin()
    for one in [row(2, [80 + shift] * 3)] if joint else rows(shift)[1:]:
        store.write_task(attempt, one.task, [one], {})
    store.finish(Verdict("finished", "", value, 2), PROVENANCE | {"upper_bound": joint})


def _by_alias(results: ResultsFolder) -> dict[str, Any]:
    return {line.alias: line for line in comparison(results).lines}


def test_mean_sample_deviation_and_count_over_final_seeds(results: ResultsFolder, record: Callable[..., Any]) -> None:
    for seed, shift in ((10, 0), (11, 3), (12, 9)):
        record(spec(seed=seed), rows(shift))
    record(spec(seed=0, phase="search", score_on="validation"), rows(30), value=0.9)
    (line,) = comparison(results).lines
    accuracies = [0.60, 0.63, 0.69]
    found = line.metrics["average_accuracy"]
    assert found.mean == pytest.approx(0.64)
    assert found.std == pytest.approx(statistics.stdev(accuracies))
    assert found.n == 3
    assert line.metrics["forgetting"].mean == pytest.approx(0.3)
    assert line.metrics["forgetting"].std == pytest.approx(0, abs=1e-12)
    assert (line.seconds.mean, line.memory.mean, line.parameters.mean) == (4.0, 4500.0, 1000.0)
    assert "64.00 ± 4.58" in str(comparison(results))


def test_one_value_has_no_deviation() -> None:
    spread = Spread.of([0.5, None, math.nan])
    assert spread is not None
    assert (spread.mean, spread.n) == (0.5, 1)
    assert math.isnan(spread.std)
    assert Spread.of([None]) is None


def test_lines_follow_the_sweep_and_share_trials_that_came_to_the_same_point(
    planned: ResultsFolder, sweep: SweepSpec
) -> None:
    for seed in (10, 11, 12):
        _end(planned, sweep.trial(sweep.entry("naive"), {}, seed, "final"), shift=seed - 10)
        _end(planned, sweep.trial(sweep.entry("joint"), {}, seed, "final"), joint=True)
    found = _by_alias(planned)
    assert found["plain"].trials == found["naive"].trials
    assert len(found["plain"].trials) == 3
    assert found["joint"].upper_bound
    assert "forgetting" not in found["joint"].metrics
    assert not found["replay"].complete
    text = str(comparison(planned))
    assert "Incomplete: replay 0 of 3" in text
    assert "joint †" in text
    assert [line.alias for line in comparison(planned).lines] == ["joint", "naive", "plain", "replay"]
    assert {key: len(group) for key, group in compared_matrices(planned).items()} == {
        "joint": 3,
        "naive": 3,
        "plain": 3,
    }


def test_a_search_alone_shows_its_best_validation_trial_and_says_so(planned: ResultsFolder, sweep: SweepSpec) -> None:
    entry = sweep.entry("replay")
    for index, (rate, shift) in enumerate(((0.002, 1), (0.005, 7), (0.009, 14))):
        point = {"training.learning_rate": rate}
        if index < sweep.search.trials:  # the third trial is nobody's: `--in-process` ran it
            planned.write_json_once(suggestion_path(entry, index), {"point": point, "cutoffs": {}})
        _end(planned, sweep.trial(entry, point, 0, "search"), shift, value=0.6 + shift / 100)
    line = _by_alias(planned)["replay"]
    assert line.scored_on == "validation"
    assert line.metrics["average_accuracy"].mean == pytest.approx(0.67)
    assert "replay (v)" in str(comparison(planned))
    assert "on validation data" in str(comparison(planned))
    planned.write_json_once(winner_path(entry), {"point": {"training.learning_rate": 0.005}})
    winner = {"training.learning_rate": 0.005}
    _end(planned, sweep.trial(entry, winner, 10, "final"), shift=2)
    _end(planned, sweep.trial(entry, {"training.learning_rate": 0.002}, 11, "final"), shift=9)
    line = _by_alias(planned)["replay"]
    assert (line.scored_on, line.metrics["average_accuracy"].mean) == ("test", pytest.approx(0.62))
    assert "1 of 3" in str(comparison(planned))


def test_failures_mixed_machines_and_open_trials_are_shown(results: ResultsFolder, record: Callable[..., Any]) -> None:
    record(spec(seed=10), rows(), cpu_capability="AVX2")
    record(spec(seed=11), rows(), cpu_capability="AVX512")
    record(spec(seed=12), [], status="failed", reason="loss is not finite")
    results.trial(spec(seed=13)).begin()
    text = str(comparison(results))
    assert "1 of 3 final trials failed: loss is not finite" in text
    assert "ewc ‡" in text
    assert "AVX512" in text
    assert "begun and not ended: 1" in text
    assert not comparison(results).complete


def test_barred_methods_and_variants(tmp_path: Path) -> None:
    variants = "variants:\n  hidden: {}\n  given: {stream.scenario: task}\n"
    sweep = SweepSpec.parse(SWEEP.replace("joint: {}", "packnet: {}") + variants, catalog())
    results = ResultsFolder.create(tmp_path / "v", sweep.dumps(), sweep.hash)
    for entry in (entry for entry in sweep.entries if entry.alias == "naive"):
        _end(results, sweep.trial(entry, {}, 10, "final"), shift=5 if entry.variant == "given" else 0)
    found = comparison(results).lines
    assert [line.variant for line in found] == ["hidden"] * 4 + ["given"] * 4
    naive = [line.metrics["average_accuracy"].mean for line in found if line.alias == "naive"]
    assert naive == [pytest.approx(0.6), pytest.approx(0.65)]
    barred = {line.variant: line for line in found if line.alias == "packnet"}
    assert barred["given"].barred is None
    assert barred["hidden"].barred
    assert found[3] is barred["hidden"], "last"
    assert "hidden/packnet: n/a, " in str(comparison(results))


def test_the_table_fits_the_terminal(results: ResultsFolder, record: Callable[..., Any], capsys: Any) -> None:
    record(spec(), rows())
    for width, shown in ((90, False), (120, True)):
        Console(width=width).print(comparison(results))
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= width
        assert ("backward" in out) is shown


def test_a_terminal_too_narrow_goes_without_columns_and_cuts_no_figure(
    results: ResultsFolder, record: Callable[..., Any], capsys: Any
) -> None:
    record(spec(), rows())
    for width, shown in ((90, True), (50, False)):
        Console(width=width).print(comparison(results))
        out = capsys.readouterr().out
        assert ("memory" in out) is shown
        assert "accuracy %" in out
        assert "…" not in out


def test_arrow_and_matrices(results: ResultsFolder, record: Callable[..., Any]) -> None:
    record(spec(), rows())
    (line,) = comparison(results).to_arrow().to_pylist()
    assert line["average_accuracy_mean"] == pytest.approx(0.6)
    assert line["average_accuracy_std"] is None
    assert matrices(results)[spec().hash].metrics()["forward_transfer"] == pytest.approx(0.1)
    assert read_cells(results).num_rows == 12
    assert len(comparison(results).to_pandas()) == 1


def test_an_empty_folder_is_a_table_too(results: ResultsFolder) -> None:
    assert comparison(results).lines == ()
    assert str(comparison(results)).startswith("tiny")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (1_800_000, "1.8 MB"), (123e6, "123 MB")]
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize("seeds", ["[10, 11, 12]", "{class_order: [10], model: [1, 2, 3]}"])
def test_intransigence_refers_to_cumulative_training_of_the_same_seeds(tmp_path: Path, seeds: str) -> None:
    text = SWEEP.replace("  joint: {}\n", "  cumulative: {}\n").replace("  plain: {strategy: naive}\n", "")
    assert "final: {seeds: [10, 11, 12]}" in text
    text = text.replace("final: {seeds: [10, 11, 12]}", f"final: {{seeds: {seeds}}}")
    sweep = SweepSpec.parse(text, catalog())
    results = ResultsFolder.create(tmp_path / "referred", sweep.dumps(), sweep.hash)
    shifts = {"naive": (0, 3, 9), "cumulative": (5, 10, 12)}
    for entry in sweep.entries:
        for run, shift in zip(sweep.final.runs if sweep.final else (), shifts.get(entry.alias, ()), strict=False):
            _end(results, sweep.trial(entry, {}, run, "final"), shift)
    found = _by_alias(results)
    gaps = [0.05, 0.07, 0.03]
    assert found["naive"].metrics["intransigence"].mean == pytest.approx(statistics.fmean(gaps))
    assert found["naive"].metrics["intransigence"].std == pytest.approx(statistics.stdev(gaps))
    assert "intransigence" not in found["cumulative"].metrics
    assert "gence %" in str(comparison(results))
    (row_,) = [r for r in comparison(results).to_arrow().to_pylist() if r["alias"] == "naive"]
    assert row_["intransigence_mean"] == pytest.approx(statistics.fmean(gaps))


def _two_references(tmp_path: Path, first: str, other: str) -> dict[str, Any]:
    """Naive beside two cumulative entries: ``short`` has one epoch and .02 more than naive, ``long`` two and .09."""
    own = {"short": "{strategy: cumulative}", "long": "{strategy: cumulative, training.epochs: 2}"}
    entries = f"  {first}: {own[first]}\n  {other}: {own[other]}\n"
    text = SWEEP.replace("  joint: {}\n", entries).replace("  plain: {strategy: naive}\n", "")
    sweep = SweepSpec.parse(text, catalog())
    results = ResultsFolder.create(tmp_path / first, sweep.dumps(), sweep.hash)
    for alias, shift in (("naive", 0), ("short", 2), ("long", 9)):
        _end(results, sweep.trial(sweep.entry(alias), {}, 10, "final"), shift)
    return {**_by_alias(results), "text": str(comparison(results))}


def test_of_two_cumulative_entries_the_first_in_the_file_is_the_reference_and_is_named(tmp_path: Path) -> None:
    """The last that was read, whichever that was, gave .02 or .09 under one heading."""
    for first, other, gap, second in (("short", "long", 0.02, -0.07), ("long", "short", 0.09, 0.07)):
        found = _two_references(tmp_path, first, other)
        assert found["naive"].metrics["intransigence"].mean == pytest.approx(gap)
        assert found["naive"].reference == first
        assert found[other].metrics["intransigence"].mean == pytest.approx(second)
        assert "intransigence" not in found[first].metrics
        assert f"Intransigence: against the diagonal of {first}, cumulative training" in found["text"]


def _sized(results: ResultsFolder, record: Callable[..., Any], sizes: tuple[int, int, int]) -> Any:
    """Only the task just learned is known, at 95 %, in tasks of so many examples."""
    known = np.diag([95 * size // 100 for size in sizes])
    record(spec(), [TaskRow(task, known[task], np.array(sizes)) for task in range(3)])
    (line,) = comparison(results).lines
    return line


def test_pooled_accuracies_stand_beside_the_average_where_tasks_are_unequal(
    results: ResultsFolder, record: Callable[..., Any]
) -> None:
    line = _sized(results, record, (60, 20, 20))
    assert line.metrics["average_accuracy"].mean == pytest.approx(0.95 / 3)
    assert line.metrics["pooled_accuracy"].mean == pytest.approx(0.19)
    steps = [57 / 60, 19 / 80, 19 / 100]
    assert line.metrics["pooled_average_incremental_accuracy"].mean == pytest.approx(statistics.fmean(steps))
    text = str(comparison(results))
    assert "19.00 ±" in text
    assert "45.92 ±" in text
    assert "weighs every task alike" in text
    (found,) = comparison(results).to_arrow().to_pylist()
    assert found["pooled_accuracy_mean"] == pytest.approx(0.19)
    (stored,) = read_trials(results).to_pylist()
    assert stored["pooled_accuracy"] == pytest.approx(0.19)


def test_equal_tasks_have_no_column_more(results: ResultsFolder, record: Callable[..., Any]) -> None:
    line = _sized(results, record, (100, 100, 120))
    assert "pooled_accuracy" not in line.metrics
    assert "pooled" not in str(comparison(results))


def test_a_table_of_equal_tasks_builds_no_matrix(
    results: ResultsFolder, record: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thousand tasks each has a million cells, and a table has a line for each method."""
    record(spec(), rows())
    np.testing.assert_array_equal(stored_sizes(results, spec().hash), matrices(results)[spec().hash].sizes)
    built: list[int] = []
    monkeypatch.setattr(AccuracyMatrix, "from_counts", lambda correct, total: built.append(len(total)))
    assert len(comparison(results).lines) == 1
    assert built == []
