"""In what two folders differ: settings, code, data and machines by name, and figures as far as seeds support it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from results.made_results import HEAD, Made
from scipy import stats  # type: ignore[import-untyped]
from typer.testing import CliRunner

from raycl.cli.app import app
from raycl.results.contrast import Changed, contrast
from raycl.results.packing import pack
from raycl.results.statistics import Difference

TEXT = f"{HEAD}strategies: {{naive: {{}}, replay: {{}}}}\nfinal: {{seeds: [10, 11, 12]}}\n"
BEFORE = {"naive": (20.0, 21.0, 24.0), "replay": (60.0, 61.0, 63.0)}


def ended(folder: Path, figures: dict[str, tuple[float, ...]], text: str = TEXT, first: int = 10, **more: str) -> str:
    made = Made(folder, text)
    for alias, values in figures.items():
        for place, value in enumerate(values):
            made.end(alias, None, first + place, value, "final", **more)
    return made.results.uri


def test_welch_is_that_of_scipy() -> None:
    values, others = [0.8, 0.82, 0.9, 0.85], [0.7, 0.75, 0.72]
    found = Difference.unpaired(values, others)
    assert found is not None
    known = stats.ttest_ind(values, others, equal_var=False)
    low, high = known.confidence_interval(0.95)
    assert found.p == pytest.approx(known.pvalue)
    assert found.interval.mean == pytest.approx((low + high) / 2)
    assert found.interval.margin == pytest.approx((high - low) / 2)
    assert math.isnan(Difference.unpaired([0.5], others).p)  # type: ignore[union-attr]
    assert Difference.unpaired([], others) is None


def test_a_folder_does_not_differ_from_itself_nor_from_its_pack(tmp_path: Path) -> None:
    folder = ended(tmp_path / "a", BEFORE)
    pack(folder, tmp_path / "kept")
    for other in (folder, str(tmp_path / "kept")):
        found = contrast(folder, other)
        assert (found.settings, found.code, found.machines) == ((), (), ())
        assert [(one.equal, one.better) for one in found.figures] == [(True, None)] * 2
        assert (found.common, found.moved) == (6, 0)
        assert found.alone == ((), ())


def test_settings_code_and_machines_are_named(tmp_path: Path) -> None:
    text = TEXT.replace("replay: {}", "replay: {training.epochs: 2}")
    first = ended(tmp_path / "a", BEFORE)
    made = Made(tmp_path / "b", text)
    found = contrast(first, made.results.uri)
    assert found.settings == (
        Changed("strategies.replay", "{}", "-"),
        Changed("strategies.replay.training.epochs", "-", "2"),
    )
    assert found.machines == (Changed("cpu_capability", "AVX2", "-"), Changed("threads", "1", "-"))
    assert found.code is not None
    assert Changed("torch", "2.0", "-") in found.code
    assert found.alone == (("naive", "replay"), ())
    assert found.figures == ()


def test_figures_are_paired_where_seeds_are_equal(tmp_path: Path) -> None:
    """By hand: the differences of replay are 10, 11, 10.5, so t = 10.5 / (.5 / 3 ** .5) with two degrees of freedom."""
    after = {"naive": (20.5, 20.0, 24.5), "replay": (70.0, 72.0, 73.5)}
    found = contrast(ended(tmp_path / "a", BEFORE), ended(tmp_path / "b", after))
    naive, replay = sorted(found.figures, key=lambda one: one.key)
    assert replay.paired
    assert replay.difference is not None
    assert replay.difference.mean == pytest.approx(0.105)
    assert replay.difference.margin == pytest.approx(4.302653 * 0.005 / 3**0.5, rel=1e-5)
    alone = 2 * stats.t.sf(10.5 / (0.5 / 3**0.5), 2)
    assert replay.p == pytest.approx(2 * alone), "one of two comparisons"
    assert (replay.better, naive.better) == (True, None)
    assert (found.common, found.moved) == (6, 6)


def test_seeds_that_are_not_shared_are_independent(tmp_path: Path) -> None:
    text = TEXT.replace("[10, 11, 12]", "[20, 21, 22]")
    found = contrast(ended(tmp_path / "a", BEFORE), ended(tmp_path / "b", BEFORE, text, 20))
    for one in found.figures:
        assert (one.paired, one.equal, one.better) == (False, False, None)
        assert one.difference is not None
        assert one.difference.mean == pytest.approx(0)
    assert found.common == 0


def test_figures_of_other_questions_are_not_compared(tmp_path: Path) -> None:
    other = ended(tmp_path / "b", BEFORE, TEXT.replace("tasks: 3", "tasks: 4"))
    first = ended(tmp_path / "a", BEFORE)
    found = contrast(first, other)
    assert found.asked_otherwise == ("stream.tasks (3, 4)",)
    assert {one.difference for one in found.figures} == {None}
    told = CliRunner().invoke(app, ["diff", first, other], env={"COLUMNS": "100"})
    assert "The two differ in stream.tasks (3, 4): their figures are not compared." in " ".join(told.output.split())
    assert "B - A" not in told.output


@pytest.mark.parametrize("width", ["60", "80", "200"])
def test_the_command_tells_every_part_and_cuts_no_figure(tmp_path: Path, width: str) -> None:
    after = {"naive": (20.5, 20.0, 24.5), "replay": (70.0, 72.0, 73.5)}
    text = TEXT.replace("replay: {}", "replay: {training.learning_rate: 0.002}")
    folders = ended(tmp_path / "a", BEFORE), ended(tmp_path / "b", after, text)
    done = CliRunner().invoke(app, ["diff", *folders], env={"COLUMNS": width})
    assert done.exit_code == 0
    figures = ("+10.50 ± 1.24", *(("61.33 ± 3.79", "71.83 ± 4.36") if width != "60" else ()))
    for part in ("settings", "code", "data", "machines", "average accuracy %", *figures, "better"):
        assert part in done.output
    assert "not told" in done.output
    assert "…" not in done.output
    wrong = CliRunner().invoke(app, ["diff", folders[0], str(tmp_path / "none")])
    assert (wrong.exit_code, len(wrong.stderr.splitlines())) == (2, 1)
