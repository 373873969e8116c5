"""The command line, against the methods of this installation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from raycl.catalog import catalog
from raycl.cli.app import app
from raycl.cli.ls import REGISTRIES
from raycl.spec.source import read
from raycl.spec.sweep import SweepSpec

SWEEPS = sorted(Path(__file__).parents[2].glob("sweeps/*.yaml"))
TINY = """\
name: tiny
stream: {name: split, dataset: digits, tasks: 5, scenario: class, train_per_task: 40}
model: {name: mlp, hidden: [20]}
training: {batch_size: 32, epochs: 1}
memory: {capacity: 20}
strategies:
  naive: {}
  replay: {memory.capacity: {choice: [10, 20]}}
search: {trials: 4, generation: 2, startup: 2}
final: {seeds: [10, 11]}
"""


def raycl(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(part) for part in arguments], env={"COLUMNS": "160"})
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_check_tells_what_each_shipped_sweep_would_run(path: Path) -> None:
    spec = SweepSpec.load(path, catalog())
    output = raycl("check", path).output
    for entry in spec.entries:
        assert entry.alias in output
        assert all(name in output for name in entry.space)
    assert f"at most {spec.most_at_once} trials" in output
    assert str(sum(spec.runs(entry).total for entry in spec.entries)) in output
    assert f"{spec.stream.tasks} tasks, {spec.stream.scenario}-incremental" in output


def test_check_counts_trials_actors_and_memory(tiny: Path) -> None:
    output = raycl("check", tiny).output
    assert [
        line.split()[-4:] for line in output.splitlines() if line.strip().startswith(("naive", "replay", "all"))
    ] == [
        ["0", "0", "2", "2"],
        ["2", "0", "2", "4"],
        ["2", "0", "4", "6"],
    ]
    assert "2 points, all of them" in output
    assert "replay actors: 1 per trial of replay" in output
    assert "replay up to 1.3 kB per trial" in output  # 20 images of 8 x 8 pixels
    assert "at most 2 trials, 1 CPU each" in output
    assert f"warning: {tiny}:" in output
    told = " ".join(output.split())  # the file's path may be long, and break the line
    assert "strategies.replay.memory.capacity: choice(10, 20) buys accuracy by size" in told


def test_check_says_which_cells_are_measured(tiny: Path) -> None:
    def told(more: str) -> str:
        path = tiny.with_name("asking.yaml")
        path.write_text(tiny.read_text() + more)
        return " ".join(raycl("check", path).output.split("measured")[1].split("actors")[0].split())

    assert told("") == "search: the last row alone; final: all rows, each whole"
    every = told("evaluation: {search: all, every: 2}\n")
    assert every == "search: every 2 tasks, and the whole last row; final: every 2 tasks, and the whole last row"


def test_check_names_the_methods_that_compute_in_bfloat16(tiny: Path) -> None:
    def told(line: str) -> str:
        path = tiny.with_name("asking.yaml")
        path.write_text(tiny.read_text().replace("batch_size: 32", f"batch_size: 32{line}"))
        output = raycl("check", path).output
        return " ".join(output.split("precision ")[1].split("at once")[0].split()) if "precision " in output else ""

    assert told("") == told(", precision: float32") == ""
    assert told(", precision: bf16") == "bf16 in updates and predictions of all methods; all else in float32"
    searched = "replay: {memory.capacity: 10, training.precision: {choice: [float32, bf16]}}"
    tiny.write_text(tiny.read_text().replace("replay: {memory.capacity: {choice: [10, 20]}}", searched))
    assert told("") == "bf16 in updates and predictions of replay at some points; all else in float32"


def test_check_exits_with_2_and_every_error_on_stderr(tiny: Path) -> None:
    tiny.write_text(TINY.replace("tasks: 5", "tasks: 0").replace("naive", "niave").replace("epochs", "epoch"))
    result = raycl("check", tiny, code=2)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line.removeprefix(f"{tiny}:").split(": ")[:2] for line in lines] == [
        ["2:47", "stream.tasks"],
        ["4:28", "training.epoch"],
        ["7:3", "strategies.niave"],
    ]
    assert "unknown strategy; did you mean 'naive'? (known: naive, joint, " in lines[2]


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    result = raycl("check", tmp_path / "absent.yaml", code=2)
    assert result.stderr == f"{tmp_path / 'absent.yaml'}: file: cannot be read: No such file or directory\n"


def test_a_model_too_small_for_the_images_is_found_without_data(tiny: Path) -> None:
    tiny.write_text(TINY.replace("name: mlp, hidden: [20]", "name: cnn, channels: [4, 4, 4, 4, 4, 4]"))
    assert "Traceback" not in raycl("check", tiny, code=2).stderr


def test_other_errors_exit_with_2_and_one_line(tmp_path: Path) -> None:
    result = raycl("show", tmp_path / "nothing", code=2)
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", REGISTRIES)
def test_ls_lists_every_entry_and_shows_each(kind: str) -> None:
    names = getattr(catalog(), kind).names()
    listed = raycl("ls", kind).output
    for name in names:
        assert name in listed
        shown = raycl("ls", kind, name).output
        options = getattr(getattr(catalog(), kind).get(name), "Config", None)
        assert all(field in shown for field in (options.model_fields if options else ()))


def test_ls_shows_what_a_person_needs_to_know_of_a_method() -> None:
    shown = raycl("ls", "strategies", "ewc").output
    for told in ("Kirkpatrick", "task, domain, class", "separate | online", ">= 0", "penalty: {loguniform: [1, "):
        assert told in shown
    assert "error: unknown strategy 'ewcc'; did you mean 'ewc'?" in raycl("ls", "strategies", "ewcc", code=2).stderr
    assert "must be one of" in raycl("ls", "methods", code=2).stderr


def test_every_usual_search_space_is_valid_where_the_method_may_run() -> None:
    for name in catalog().strategies.names():
        strategy = catalog().strategies.get(name)
        if not strategy.Config.search_space:
            continue
        scenario = sorted(strategy.scenarios)[0]
        text = TINY.replace("scenario: class", f"scenario: {scenario}").replace("naive: {}", f"{name}: search")
        text = text.replace("  replay: {mem", "  other: {strategy: replay, mem")
        space = SweepSpec.parse(text, catalog()).entries[0].space
        assert set(strategy.Config.search_space) <= set(space)


def test_the_schema_takes_the_shipped_sweeps_and_no_typo() -> None:
    validator: Any = jsonschema.Draft202012Validator(json.loads(raycl("schema").output))
    for path in SWEEPS:
        data = read(path).data
        assert not list(validator.iter_errors(data))
        data["strategies"]["ewc"] = {"penaty": 1}
        assert list(validator.iter_errors(data))


def test_one_trial_in_process(tiny: Path, tmp_path: Path) -> None:
    output = raycl("run", tiny, "--in-process", "--strategy", "replay", "--seed", "3").output
    assert "replay  seed 3, memory.capacity 10" in output
    assert "task 5 of 5" in output
    kept = raycl("run", tiny, "--in-process", "--results", tmp_path / "r", code=2).stderr
    assert "--backend here runs the sweep here" in kept.replace("\n", " ").replace("│", " ")
    unknown = raycl("run", tiny, "--in-process", "--strategy", "replai", code=2).stderr
    assert "did you mean 'replay'?" in unknown
    assert "add it" in raycl("run", tiny, "--seed", "3", code=2).stderr


def test_a_missing_data_set_is_one_line(tiny: Path, tmp_path: Path) -> None:
    tiny.write_text(TINY.replace("digits", "mnist"))
    result = raycl("run", tiny, "--in-process", "--data-root", tmp_path / "none", code=2)
    assert result.stderr.startswith("error: ")
    assert str(tmp_path / "none") in result.stderr


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, raycl.cli; sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'pydantic', 'mlflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "raycl run quickstart" in raycl("--help").output
    assert raycl("--version").output.startswith("raycl ")


def test_a_matrix_that_fits_no_terminal_is_told_in_metrics(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("name: split", "name: permuted").replace("tasks: 5", "tasks: 13"))
    told = raycl("run", tiny, "--in-process").stdout
    assert "average accuracy" in told
    assert "after each task, on each task" not in told
