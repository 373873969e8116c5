"""The analysis notebooks run from top to bottom on sweeps that are made here, trial by trial without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support import local_source

from raycl.catalog import catalog
from raycl.results.decisions import suggestion_path, winner_path
from raycl.results.packing import pack
from raycl.results.store import ResultsFolder
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import Scalar, TrialSpec
from raycl.sweep.run import run_sweep
from raycl.trial.session import TrialSession

NOTEBOOK = Path(__file__).parents[1] / "analysis" / "01_compare_strategies.ipynb"
TABLES = NOTEBOOK.with_name("02_simulate_searches.ipynb")
EMBEDDINGS = NOTEBOOK.with_name("hypernetwork_embeddings.ipynb")
REGRESSION = NOTEBOOK.with_name("hypernetwork_regression.ipynb")
SHOWN = (EMBEDDINGS, REGRESSION)
"""Stored as they ran on real data."""
TABLE = """
name: tiny
stream: {name: split, dataset: digits, tasks: 3, classes_per_task: 2, scenario: class}
model: {name: mlp, hidden: [20]}
training: {iterations: 6}
strategies:
  naive: {}
  replay: {memory.capacity: {choice: [10, 20, 50]}, training.learning_rate: {loguniform: [1e-4, 1e-1]}}
table: {points: 5, seeds: [0, 1]}
"""
SWEEP = """
name: tiny
stream: {name: split, dataset: digits, tasks: 5, scenario: class}
model: {name: mlp, hidden: [20]}
training: {epochs: 1}
strategies:
  naive: {}
  joint: {}
  replay: {memory.capacity: {choice: [20, 50]}}
search: {trials: 2}
final: {seeds: [10, 11]}
"""


def _learn(results: ResultsFolder, spec: TrialSpec) -> float:
    session = TrialSession(local_source(spec.stream, spec.seed), results.trial(spec))
    progress = session.step()
    while progress.verdict is None:
        progress = session.step()
    session.close()
    assert progress.verdict.value is not None
    return progress.verdict.value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both points of replay searched, then every method over its final seeds."""
    path = tmp_path_factory.mktemp("sweep") / "results"
    sweep = SweepSpec.parse(SWEEP, catalog())
    results = ResultsFolder.create(path, sweep.dumps(), sweep.hash)
    for entry in sweep.entries:
        point: Mapping[str, Scalar] = {}
        if entry.space:
            points = [{"memory.capacity": capacity} for capacity in (20, 50)]
            for index, suggested in enumerate(points):
                results.write_json_once(suggestion_path(entry, index), {"point": suggested, "cutoffs": {}})
            point = max(points, key=lambda at: _learn(results, sweep.trial(entry, at, 0, "search")))
            results.write_json_once(winner_path(entry), {"point": point})
        for seed in (10, 11):
            _learn(results, sweep.trial(entry, point, seed, "final"))
    return path


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_notebook_answers_from_the_files_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCL_RESULTS", str(folder))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    assert "average" in text
    assert all(name in text for name in ("naive", "joint †", "replay"))
    assert "Incomplete" not in text
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2 + 3, "bars, curves, and a heat map per method"
    tables = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("memory.capacity" in table for table in tables)
    assert any("state_bytes" in table for table in tables)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_notebook_of_tables_simulates_searches_on_a_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = SweepSpec.parse(TABLE, catalog())
    assert run_sweep(sweep, tmp_path / "results", backend="here", trackers=()).complete
    pack(tmp_path / "results", tmp_path / "pack")
    monkeypatch.setenv("RAYCL_TABLE", str(tmp_path / "pack"))
    monkeypatch.setenv("RAYCL_REPEATS", "4")
    monkeypatch.setenv("RAYCL_TRIALS", "3")
    notebook = nbformat.read(TABLES, as_version=4)
    NotebookClient(notebook, timeout=120).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    assert "tiny: 3 tasks, seeds 0, 1" in text
    tables = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert sum("first_tasks=2" in table and "replay" in table for table in tables) == 3
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_plane_of_embeddings_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RAYCL_DATASET": "digits", "RAYCL_UPDATES": "30", "RAYCL_POINTS": "3"}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(EMBEDDINGS, as_version=4)
    NotebookClient(notebook, timeout=120).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "after task 5: [" in "".join(output.get("text", "") for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_hypernetwork_keeps_three_curves() -> None:
    notebook = nbformat.read(REGRESSION, as_version=4)
    NotebookClient(notebook, timeout=120).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    lines = "".join(output.get("text", "") for output in outputs).splitlines()
    errors = {
        name: [float(error) for error in told.split(",")]
        for name, told in (line.split(": mean squared error ") for line in lines)
    }
    assert max(errors["hypernetwork"]) < 0.05
    assert max(errors["fine-tuning"]) > 1
    assert errors["fine-tuning"][2] < 0.05, "the last one is learned"
    assert max(errors["hypernetwork"]) < max(errors["EWC on the hypernetwork"])


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_sweep_that_runs_in_a_notebook_has_one_table_there(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    code = f"import raycl\nfinished = raycl.run({str(tmp_path / 'tiny.yaml')!r}, {str(tmp_path / 'results')!r})"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120).execute()
    tables = [output.data["text/html"] for output in notebook.cells[0].outputs if "text/html" in output.get("data", {})]
    (table,) = tables
    assert "elapsed" in table
    assert table.count("2/2") == 3, "of each method both final trials have ended"


def _read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


@pytest.mark.parametrize("path", [NOTEBOOK, TABLES], ids=lambda path: path.stem)
def test_a_notebook_that_needs_a_sweep_is_stored_without_outputs(path: Path) -> None:
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in _read(path).cells)


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.stem)
def test_a_notebook_with_outputs_is_stored_as_it_ran(path: Path) -> None:
    code = [cell for cell in _read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "from top to bottom, once"
    assert not any(
        output.output_type == "error" or output.get("name") == "stderr" for cell in code for output in cell.outputs
    )
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert sum(len([line for line in cell.source.splitlines() if line.strip()]) for cell in code) <= 60
