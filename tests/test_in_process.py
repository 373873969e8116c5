"""One trial without Ray, kept in a results folder: it is held to what a driver is held to."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from raycl import cli_run
from raycl.cli import app
from raycl.results import changes
from raycl.results.reading import read_trials
from raycl.results.store import Results
from raycl.streams import source

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
    given = ["--results", str(place / "results"), "--data-root", str(place / "data"), *options]
    result = CliRunner().invoke(app, ["run", str(place / "one.yaml"), "--in-process", *given], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def attempts(place: Path) -> int:
    return len(list((place / "results").glob("trials/*/attempts/*.json")))


def digests(place: Path) -> set[str]:
    return set(read_trials(place / "results")["data"].to_pylist())


def test_a_trial_that_has_finished_is_shown_and_not_run_again(place: Path) -> None:
    first = one(place).output
    again = one(place).output
    assert "it has finished before" in again
    assert again.splitlines()[-6:] == first.splitlines()[-6:]
    assert attempts(place) == 1


def test_other_data_are_refused(place: Path) -> None:
    one(place)
    write_images(place / "data", seed=1)
    for seed in ("0", "3"):
        assert "must hold trials of the same data" in one(place, "--seed", seed, code=2).stderr
    assert attempts(place) == 1


def test_the_check_finds_two_data_sets_in_one_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one(place)
    write_images(place / "data", seed=1)
    monkeypatch.setattr(cli_run, "check_data", lambda stream, known: None)
    one(place, "--seed", "3")
    assert len(digests(place)) == 2


def test_other_code_is_told_and_the_trial_repeated_where_that_is_asked_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one(place)
    one(place, "--strategy", "ewc")
    code = changes.trial_code
    monkeypatch.setattr(changes, "trial_code", lambda spec: {**code(spec), "strategy": "0123456789abcdef"})
    output = one(place).output
    assert "naive: the code of its strategy has changed since 1 trial" in output
    assert "ewc: the code of its strategy has changed since 1 trial" in output
    assert attempts(place) == 2
    assert "has changed" not in one(place, "--rerun-changed").output
    assert attempts(place) == 3, "of naive, and not of ewc, which nobody asked for here"


def test_a_folder_that_is_driven_is_left_alone(place: Path) -> None:
    one(place)
    with Results.open(place / "results").lease():
        assert "in use by a driver" in one(place, "--seed", "1", code=1).stderr
        one(place, "--seed", "1", "--force")


def test_a_trial_that_failed_is_tried_again(place: Path) -> None:
    text = TEXT.replace("epochs: 1", "epochs: 1, optimizer: sgd, learning_rate: 1e30")
    (place / "one.yaml").write_text(text)
    for _ in range(2):
        output = one(place, code=3).output
        assert "failed: " in output
        assert "traceback.txt" in output
    assert attempts(place) == 2


def test_what_would_do_nothing_is_refused(place: Path) -> None:
    assert "--max-concurrent does nothing" in one(place, "--max-concurrent", "2", code=2).output.replace("\n", " ")
