"""The comparison for other programs: raw numbers, and tables that are ready to print."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from results.test_layout import made

from raycl.cli.arguments import FORMAT_NAMES
from raycl.results.printed import FORMATS, as_csv, as_json, as_latex, as_markdown, latex_escaped
from raycl.results.several import compared_folders
from raycl.results.tables import Comparison


@pytest.fixture
def table(tmp_path: Path) -> Comparison:
    return compared_folders([made(tmp_path / "r").results.uri])


def test_the_command_knows_every_format() -> None:
    assert set(FORMAT_NAMES) == FORMATS.keys()


def test_csv_has_raw_numbers_under_full_names(table: Comparison) -> None:
    rows = {row["alias"]: row for row in csv.DictReader(io.StringIO(as_csv(table)))}
    whole = {row["alias"]: row for row in table.to_arrow().to_pylist()}
    assert float(rows["first"]["average_accuracy_mean"]) == whole["first"]["average_accuracy_mean"], "to the last digit"
    assert rows["third"]["winner.memory.capacity"] == "200"
    assert rows["naive"]["winner.memory.capacity"] == rows["third"]["difference_mean"] == ""
    assert rows["third"]["in_group"] == "True"
    assert "winner.memory.capacity" not in as_csv(replace(table, points=False))


def test_json_has_the_same_numbers_and_points_as_objects(table: Comparison) -> None:
    rows = {row["alias"]: row for row in json.loads(as_json(table))}
    whole = table.to_arrow().to_pylist()
    assert [row["average_accuracy_mean"] for row in rows.values()] == [row["average_accuracy_mean"] for row in whole]
    assert rows["third"]["winner"] == {"memory.capacity": 200}
    assert rows["naive"]["winner"] is None
    assert "winner" not in json.loads(as_json(replace(table, points=False)))[0]


def test_markdown_is_a_table_with_its_legend(table: Comparison) -> None:
    lines = as_markdown(table).splitlines()
    assert lines[0].startswith("| strategy | average accuracy % | ± 95 % | to baseline % | p | ")
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert lines[2].startswith("| **third** | **70.33 ± 1.53** | ± 3.79 |  |  | ")
    assert lines[4].startswith("| first | 91.17 ± 1.26 | ± 3.13 | +20.83 ± ")
    assert lines[2].endswith(" memory.capacity 200 |")
    assert "Baseline: third (3 comparisons)" in lines[-1]


def test_latex_has_the_rules_of_booktabs_and_escapes_what_it_must(table: Comparison) -> None:
    renamed = [replace(line, alias=f"{line.alias}_50%&co") for line in table.lines]
    text = as_latex(replace(table, lines=renamed))
    assert text.count("\\toprule") == text.count("\\midrule") == text.count("\\bottomrule") == 1
    half = [replace(line, place="other") for line in renamed[1:]]
    assert as_latex(replace(table, lines=[renamed[0], *half])).count("\\midrule") == 2, "one between families"
    assert r"\textbf{third\_50\%\&co} & \textbf{70.33 $\pm$ 1.53} & $\pm$ 3.79 &" in text
    body = text[text.index("\\toprule") : text.index("\\bottomrule")].splitlines()
    assert len({line.count(" & ") for line in body if line.endswith("\\\\")}) == 1
    assert "winner" not in body[1]
    assert "memory.capacity 200" in as_latex(replace(table, points=True))


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b", r"a\_b"),
        ("50 %", r"50 \%"),
        (r"\x", r"\textbackslash{}x"),
        ("-3.35 ± 1.61", r"$-$3.35 $\pm$ 1.61"),
        ("<0.001", "$<$0.001"),
        ("split-mnist 1e-05", "split-mnist 1e-05"),
        ("{~^#$&}", r"\{\textasciitilde{}\textasciicircum{}\#\$\&\}"),
        ("joint †", r"joint $^\dagger$"),
    ],
)
def test_signs_of_latex(text: str, escaped: str) -> None:
    assert latex_escaped(text) == escaped


@pytest.mark.slow
def test_latex_compiles(table: Comparison, tmp_path: Path) -> None:
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("pdflatex is not installed; apt-get install texlive-latex-recommended")
    odd = [replace(line, alias=f"{line.alias}_50%&#$~^{{}}\\<>", upper_bound=True) for line in table.lines]
    tables = [as_latex(table), as_latex(replace(table, lines=odd, points=True))]
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    (tmp_path / "t.tex").write_text(head + "\n".join(tables) + "\\end{document}\n")
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 0
