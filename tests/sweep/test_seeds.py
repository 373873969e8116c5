"""A sweep whose sources of randomness have seeds of their own, run in this process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sweeping import HEAD, attempts, parsed
from typer.testing import CliRunner

from raycl.cli.app import app
from raycl.results.reading import read_trials
from raycl.results.seed_columns import seeds_in
from raycl.results.variance import TOGETHER, variance_components
from raycl.results.view import Results
from raycl.spec.seeds import RunSeeds
from raycl.sweep.data import Sources, StreamKey
from raycl.sweep.run import run_sweep
from raycl.trial.alone import run_trial

ROOT = Path(__file__).parents[2]
SWEEP = (
    HEAD
    + """
strategies:
  naive: {training.learning_rate: {choice: [1e-3, 3e-3]}}
search: {trials: 2, startup: 2, generation: 2, seeds: {model: [1, 2], batches: [3, 4]}, finalists: {top: 2, seeds: [9]}}
final: {seeds: {class_order: [10, 11], model: [20, 21], others: 5, crossed: true}}
"""
)
CROSSED = ["10/5/20/5", "10/5/21/5", "11/5/20/5", "11/5/21/5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("seeds")
    for _ in range(2):
        outcome = run_sweep(parsed(SWEEP), place, backend="here")
        assert outcome.complete, outcome.reason
    assert set(attempts(place).values()) == {1}, "the second run repeats nothing"
    return place


def test_every_phase_runs_its_seeds(folder: Path) -> None:
    found: dict[str, list[str]] = {}
    for trial in read_trials(folder).to_pylist():
        found.setdefault(trial["phase"], []).append(seeds_in(trial).label)
    assert sorted(found["search"]) == ["0/0/1/3", "0/0/1/3", "0/0/2/4", "0/0/2/4"]
    assert found["finalists"] == ["9", "9"]
    assert sorted(found["final"]) == CROSSED
    (line,) = Results(folder).table.lines
    assert line.metrics["average_accuracy"].n == 4


def test_the_order_of_classes_and_the_model_are_told_apart(folder: Path) -> None:
    trials = [trial for trial in Results(folder).trials.to_pylist() if trial["phase"] == "final"]
    found = {part.source: part for part in variance_components(trials)}
    assert list(found) == ["class_order", "model", TOGETHER]
    assert sum(part.share for part in found.values()) == pytest.approx(1.0)


def test_the_page_tells_the_components(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    (code,) = re.findall(
        r"^<!-- variance of a results folder -->\n```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE
    )
    monkeypatch.chdir(folder.parent)
    exec(code.replace("results/my_question", folder.name).replace('"ewc"', '"naive"'), {})
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == ["class_order", "model", TOGETHER]
    assert all("unknown 2 seeds give no interval" in line for line in told[:2])


def test_a_trial_of_a_library_takes_seeds(folder: Path) -> None:
    (stored,) = [trial for trial in read_trials(folder).to_pylist() if seeds_in(trial).label == CROSSED[1]]
    point = {"training.learning_rate": stored["hp.training.learning_rate"]}
    trial = run_trial(parsed(SWEEP), "naive", seed=seeds_in(stored), point=point, phase="final")
    assert trial.spec.hash == stored["trial"]
    assert trial.metrics["average_accuracy"] == stored["average_accuracy"]


def test_runs_that_share_order_and_split_share_their_stream() -> None:
    stream = {"name": "split", "dataset": "digits", "tasks": 5}
    one, *others = (
        StreamKey.of(stream, RunSeeds(class_order=1, split=2, model=model, batches=model), "train") for model in (3, 4)
    )
    assert others == [one]
    sources = Sources(parsed(SWEEP).catalog, None)
    assert sources.get(one) is sources.get(*others)
    assert sources.get(one).layout.split_hash != sources.get(StreamKey.of(stream, 1, "train")).layout.split_hash


def test_check_prints_the_runs(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    told = CliRunner().invoke(app, ["check", str(tmp_path / "sweep.yaml")], env={"COLUMNS": "300"}).output
    assert (
        f"search: 0/0/1/3, 0/0/2/4 (2); search.finalists: 9; final: {', '.join(CROSSED)} (4); in the order "
        "class_order/split/model/batches"
    ) in told
    (tmp_path / "sweep.yaml").write_text(HEAD + "strategies: {naive: {}}\nfinal: {seeds: [1, 2]}\n")
    assert "class_order/" not in CliRunner().invoke(app, ["check", str(tmp_path / "sweep.yaml")]).output
