"""What `raycl plot` and `raycl report` write, and that a run ends with the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from results.made_results import HEAD, Made
from typer.testing import CliRunner

from raycl.catalog import catalog
from raycl.cli.app import app
from raycl.spec.sweep import SweepSpec

SWEEP = """
name: tiny
stream: {name: split, dataset: digits, tasks: 2, classes_per_task: 2, scenario: class}
model: {name: mlp, hidden: [8]}
training: {iterations: 2}
strategies: {naive: {}}
final: {seeds: [10]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = Made(tmp_path / "r", f"{HEAD}strategies: {{naive: {{}}}}\nfinal: {{seeds: [10]}}\n")
    made.end("naive", None, 10, 20.0, "final")
    return tmp_path / "r"


def raycl(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def test_plot_writes_one_picture(folder: Path, tmp_path: Path) -> None:
    assert raycl("plot", folder, "final", "-o", tmp_path / "x.pdf") == (0, f"{tmp_path / 'x.pdf'}\n")
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("matrices", "-o", "x.pdf"), "did you mean 'matrix'?"),
        (("matrices", "-o", "x.pdf"), "  accuracy      average accuracy over the tasks learned so far"),
        (("slices", "-o", "x.pdf"), "nothing to draw as slices: no search trial has finished; add search"),
        (("final", "-o", "x.gif"), "a picture's file ends with .pdf, .svg, .png"),
        (("final", "-o", "x.pdf", "--only", "naiv"), "did you mean 'naive'?"),
    ],
)
def test_plot_says_what_there_is(folder: Path, arguments: tuple[str, ...], told: str) -> None:
    code, output = raycl("plot", folder, *arguments)
    assert (code, told in output) == (2, True), output


def test_report_writes_one_page(folder: Path, tmp_path: Path) -> None:
    code, output = raycl("report", folder, "-o", tmp_path / "x.html")
    assert (code, output.startswith(f"{tmp_path / 'x.html'}: 0.")) == (0, True)
    assert "<h2>The answer</h2>" in (tmp_path / "x.html").read_text()
    code, output = raycl("report", folder, "-o", tmp_path / "absent" / "x.html")
    assert (code, "cannot be written" in output) == (2, True)


@pytest.mark.parametrize("report", [True, False])
def test_a_run_ends_with_the_report_unless_its_file_leaves_it_out(tmp_path: Path, report: bool) -> None:
    (tmp_path / "x.yaml").write_text(SWEEP + ("" if report else "report: false\n"))
    place = tmp_path / "r"
    code, output = raycl("run", tmp_path / "x.yaml", "--results", place, "--backend", "here")
    assert code == 0, output
    assert (place / "report.html").exists() == report
    assert (f"report   {place / 'report.html'}" in output) == report


def test_whether_there_is_a_report_names_no_trial() -> None:
    plain, without = (SweepSpec.parse(SWEEP + more, catalog()) for more in ("", "report: false\n"))
    assert plain.hash == without.hash
    assert (plain.report, without.report) == (True, False)


def test_the_key_takes_true_or_false(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(SWEEP + "report: page.html\n")
    code, output = raycl("check", tmp_path / "x.yaml")
    assert (code, "report: must be true or false (got 'page.html')" in output) == (2, True), output
