"""``raycl show`` as a person and as a program use it: what goes to which stream, and what is refused in one line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from mistakes import misused, raycl, refused
from results.made_results import Made
from results.test_contrast import BEFORE, TEXT, ended
from results.test_layout import made

from raycl.cli.arguments import FORMAT_NAMES
from raycl.results.packing import pack


@pytest.mark.parametrize("form", FORMAT_NAMES)
def test_formats_print_nothing_but_the_data(tmp_path: Path, form: str) -> None:
    folder = ended(tmp_path / "half", {"naive": (20.0, 21.0)})
    done = raycl("show", folder, "--format", form)
    assert done.exit_code == 0
    assert "Incomplete: naive 2 of 3, replay 0 of 3. `raycl resume` continues." in done.stderr
    assert "Incomplete" not in done.stdout
    if form == "json":
        assert [row["complete"] for row in json.loads(done.stdout)] == [False, False]
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(done.stdout)))
        assert [float(row["average_accuracy_mean"] or 0) for row in rows] == [(0.2 + 0.21) / 2, 0]


def test_signs_of_the_data_are_not_taken_for_marks(tmp_path: Path) -> None:
    text = TEXT.replace("replay: {}", "'replay': {strategy: replay}").replace(
        "naive: {}", "naive: {}, smile: {strategy: naive}"
    )
    folder = Made(tmp_path / "r", text).results.uri
    assert "[" not in raycl("show", folder, "--format", "csv").stdout
    assert json.loads(raycl("show", folder, "--format", "json").stdout)[0]["winner"] is None


def test_a_folder_and_its_pack_stand_in_one_table(tmp_path: Path) -> None:
    folder = made(tmp_path / "r").results.uri
    pack(folder, tmp_path / "kept")
    done = raycl("show", folder, tmp_path / "kept", "--strategy", "first", "--strategy", "naive", "--sort", "name")
    names = [line.split() for line in done.stdout.splitlines() if " first " in line or " naive " in line]
    assert [row[-1] if len(row) < 3 else row[1] for row in names if row[0].startswith("/")][:1] == ["first"]
    assert "third (" not in done.stdout.split("Mean ±")[0]
    assert "memory.capacity 50" in done.stdout
    assert "memory.capacity" not in raycl("show", folder, "--no-points").stdout.split("Winners within")[0]


def test_what_is_no_results_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = ended(tmp_path / "a", BEFORE)
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "trials.parquet").write_bytes(b"PAR1 no PAR1")
    for command in (("show", folder), ("diff", folder)):
        assert "sweep.json is missing" in refused(*command, tmp_path / "empty")
        assert "sweep.json is missing" in refused(*command, tmp_path / "absent")
        assert "no complete Parquet file" in refused(*command, tmp_path / "foreign")
    assert "sweep.json is missing" in refused("winner", tmp_path / "empty", "naive")
    assert "did you mean 'naive'?" in refused("winner", folder, "naivee")
    table = Made(tmp_path / "t", TEXT.replace("final: {seeds: [10, 11, 12]}", "table: {points: 2}"))
    assert "a table of everything selects nothing" in refused("show", folder, table.results.uri)
    assert "a table of everything selects nothing" in refused("show", table.results.uri, "--format", "csv")
    assert "must be one of table, csv, json, markdown, latex (got 'xml')" in misused("show", folder, "--format", "xml")
    assert "leave it" in misused("show", folder, "--failures", "--sort", "name")


def test_a_pack_of_another_installation_is_shown_by_the_names_in_its_trials(tmp_path: Path) -> None:
    folder = ended(tmp_path / "a", BEFORE)
    head = tmp_path / "a" / "sweep.yaml"
    head.write_text(head.read_text().replace("replay: {}", "replay: {}, mine: {strategy: not_installed_here}"))
    rows = list(csv.DictReader(io.StringIO(raycl("show", folder, "--format", "csv").stdout)))
    assert [row["alias"] for row in rows] == ["replay", "naive"]
    assert raycl("diff", folder, folder).exit_code == 0
