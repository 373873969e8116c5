"""A sweep in this process, as a person starts it: it is held to all that a sweep on Ray is held to."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from raycl.cli.app import app
from raycl.results.reading import read_trials
from raycl.results.store import ResultsFolder
from raycl.results.trackers.mlflow import MLflowMirror
from raycl.streams import source
from raycl.sweep import changes, data

TEXT = """
name: one
stream: {name: split, dataset: "parquet:bars", tasks: 2, scenario: class, validation_fraction: 0.2}
model: {name: mlp, hidden: [8]}
training: {epochs: 1, batch_size: 8}
strategies:
  naive: {}
  ewc: {}
final: {seeds: [10]}
"""


def write_images(root: Path, seed: int) -> None:
    """Four classes, a bright row each, with noise that the seed decides."""
    noise, folder = np.random.default_rng(seed), root / "bars"
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", 40), ("test", 20)):
        labels, encoded = np.arange(rows) % 4, []
        for label in labels:
            pixels = noise.integers(0, 40, (8, 8)).astype(np.uint8)
            pixels[2 * label] += 200
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            encoded.append(file.getvalue())
        table = pa.table({"image": pa.array(encoded, pa.binary()), "label": pa.array(labels, pa.int64())})
        pq.write_table(table, folder / f"{split}.parquet")
    source._loaded.clear()  # a process reads a data set once, and a command is a process


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with data and a sweep file."""
    write_images(tmp_path / "data", seed=0)
    (tmp_path / "one.yaml").write_text(TEXT)
    return tmp_path


def one(place: Path, *options: str, code: int = 0) -> Result:
    given = ["--backend", "here", "--results", str(place / "results"), "--data-root", str(place / "data"), *options]
    result = CliRunner().invoke(app, ["run", str(place / "one.yaml"), *given], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def attempts(place: Path) -> int:
    return len(list((place / "results").glob("trials/*/attempts/*.json")))


def digests(place: Path) -> set[str]:
    return set(read_trials(place / "results")["data"].to_pylist())


def more_seeds(place: Path) -> None:
    """A folder of which one trial is left to run."""
    first = min((place / "results" / "trials").iterdir())
    shutil.rmtree(first)


@pytest.fixture(autouse=True)
def _no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MLflowMirror, "add", lambda self, record: None)  # it takes seconds for each folder


def test_a_sweep_that_has_finished_is_shown_and_not_run_again(place: Path) -> None:
    first = one(place).output
    again = one(place).output
    assert first.splitlines()[-8:] == again.splitlines()[-8:]
    assert attempts(place) == 2


def test_other_data_are_refused(place: Path) -> None:
    one(place)
    more_seeds(place)
    write_images(place / "data", seed=1)
    assert "must hold trials of the same data" in one(place, code=2).stderr
    assert attempts(place) == 1


def test_the_check_finds_two_data_sets_in_one_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one(place)
    more_seeds(place)
    write_images(place / "data", seed=1)
    monkeypatch.setattr(data, "check_data", lambda stream, known: None)
    one(place)
    assert len(digests(place)) == 2


def test_other_code_is_told_and_repeated_where_that_is_asked_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one(place)
    code = changes.trial_code
    other = {"strategy": "0123456789abcdef"}
    monkeypatch.setattr(changes, "trial_code", lambda spec, known: code(spec, known) | other)
    output = one(place).output
    assert "naive: the code of its strategy has changed since 1 trial" in output
    assert "ewc: the code of its strategy has changed since 1 trial" in output
    assert attempts(place) == 2
    assert "has changed" not in one(place, "--rerun-changed").output
    assert attempts(place) == 4


def test_a_folder_that_is_driven_is_left_alone(place: Path) -> None:
    one(place)
    with ResultsFolder.open(place / "results").lease():
        assert "in use by a driver" in one(place, code=1).stderr
        one(place, "--force")


def test_what_needs_ray_is_refused_with_the_remedy(place: Path) -> None:
    assert "max_concurrent: must be 1 on backend `here`" in one(place, "--max-concurrent", "2", code=2).stderr
    text = TEXT.replace("naive: {}", "naive: {training.learning_rate: {uniform: [0.1, 0.2]}}")
    (place / "one.yaml").write_text(text + "search: {trials: 2}\npruner: {scheduler: asha}\n")
    told = one(place, code=2).stderr
    assert "pruner.scheduler: compares trials that run at the same time" in told
    assert "take backend `ray`" in told
    assert not (place / "results").exists()


def test_an_unknown_backend_is_named_with_the_known_ones(place: Path) -> None:
    told = one(place, "--backend", "hare", code=2).stderr
    assert "unknown backend 'hare'" in told
    assert "did you mean 'here'?" in told
