"""What a newcomer gets wrong: each ends in one line that tells the rule and the remedy, and nothing stored is lost."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mistakes import TINY, contents, misused, raycl, refused, tried, truncate

from raycl.catalog import catalog
from raycl.errors import METHODS_FAILED, STOPPED
from raycl.results.store import ResultsFolder
from raycl.spec.sweep import SweepSpec

METHODS = TINY[TINY.index("strategies") : TINY.index("search:")]


@pytest.fixture
def unharmed(finished: Path) -> Iterator[Path]:
    """A finished results folder in which a test may change nothing."""
    before = contents(finished)
    yield finished
    assert contents(finished) == before


# -- the sweep file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("final:", "finale:", "9:1: finale: unknown key; did you mean 'final'?"),
        ("epochs: 1", "epoch: 1", "4:28: training.epoch: unknown key; did you mean 'epochs'?"),
        ("final:", "name: again\nfinal:", "9:1: name: duplicate key, first given at 1:1"),
        ("naive: {}", "ewc: {}", "7:3: strategies.ewc: duplicate key, first given at 6:3"),
    ],
)
def test_unknown_and_duplicate_keys(file: Path, unharmed: Path, old: str, new: str, line: str) -> None:
    file.write_text(TINY.replace(old, new))
    assert refused("check", file, code=2) == f"{file}:{line}"
    assert refused(*tried(file, "--results", unharmed), code=2) == f"{file}:{line}"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("[1, 100]", "[100, 1]", "7:31: strategies.ewc.penalty: low must lie below high (got [100, 1])"),
        ("[1, 100]", "[0, 1]", "7:32: strategies.ewc.penalty: a logarithmic range must begin above 0 (got 0)"),
        ("loguniform: [1, 100]", "uniform: [-1, 1]", "7:29: strategies.ewc.penalty: must be at least 0 (got -1.0)"),
        ("loguniform: [1, 100]", "choice: []", "7:27: strategies.ewc.penalty: must hold at least one value (got [])"),
        ("epochs: 1", "epochs: 0", "4:36: training.epochs: must be at least 1 (got 0)"),
        ("[10]}\ntr", "[0]}\ntr", "3:29: model.hidden.0: must be at least 1 (got 0)"),
        ("seeds: [10]", "seeds: [-1]", "9:17: final.seeds.0: must be at least 0 (got -1)"),
        ("seeds: [10]", f"seeds: [{2**63}]", f"9:17: final.seeds.0: must be below {2**63} (got {2**63})"),
    ],
)
def test_impossible_bounds(file: Path, old: str, new: str, line: str) -> None:
    file.write_text(TINY.replace(old, new))
    assert refused("check", file, code=2) == f"{file}:{line}"


def test_a_method_in_a_scenario_it_cannot_do(file: Path, unharmed: Path) -> None:
    file.write_text(TINY.replace("naive: {}", "packnet: {}"))
    told = refused(*tried(file, "--results", unharmed), code=2)
    assert told == (
        f"{file}:6:3: strategies.packnet: this method cannot do scenario 'class', only task; "
        "remove it or change the stream"
    )


def test_variants_that_bar_every_method_leave_nothing_to_try(file: Path) -> None:
    variants = "variants: {a: {stream.scenario: class}, b: {stream.scenario: domain}}\n"
    file.write_text(TINY.replace(METHODS, "strategies:\n  packnet: {}\n") + variants)
    assert "a sweep must have a method that its streams allow (got none)" in refused(*tried(file))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"name: [tiny\nmodel: }{", ":2:6: syntax: while parsing a flow sequence expected ',' or ']', but got ':'"),
        (b"\tname: tiny", ":1:1: syntax: while scanning for the next token found character '\\t'"),
        (b"\x89PNG\r\n\x1a\n", ": file: must be UTF-8 text: invalid start byte"),
        (b"", ":1:1: file: must hold a mapping of keys, such as name: my_sweep"),
        (b"# a comment\n", ":1:1: file: must hold a mapping of keys, such as name: my_sweep"),
        (b"- naive\n- ewc\n", ":1:1: file: must hold a mapping of keys, such as name: my_sweep"),
    ],
    ids=["not yaml", "tab", "binary", "empty", "comment", "list"],
)
def test_what_is_no_sweep_file(file: Path, text: bytes, told: str) -> None:
    file.write_bytes(text)
    assert refused("check", file, code=2).startswith(f"{file}{told}")


def test_paths_that_hold_no_file(tmp_path: Path, file: Path) -> None:
    for path, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "absent.yaml", "No such file or directory"),
        (file / "below", "Not a directory"),
    ):
        assert refused("check", path, code=2) == f"{path}: file: cannot be read: {why}"
        assert refused(*tried(path), code=2) == f"{path}: file: cannot be read: {why}"


def test_strategies_as_a_list_and_an_unknown_one(file: Path) -> None:
    file.write_text(TINY.replace(METHODS, "strategies: [naive, ewc]\n"))
    told = refused("check", file, code=2)
    assert told.endswith('must name at least one method as a key, such as naive: {} (got ["naive", "ewc"])')
    file.write_text(TINY.replace("naive", "niave"))
    assert "strategies.niave: unknown strategy; did you mean 'naive'? (known: naive, " in refused("check", file, code=2)


@pytest.mark.parametrize(
    "command", [("check",), ("run", "--in-process"), ("run", "--backend", "here"), ("run",)], ids=" ".join
)
def test_a_model_too_small_for_the_images_runs_nothing(file: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    file.write_text(TINY.replace("name: mlp, hidden: [10]", "name: cnn, channels: [4, 4, 4, 4]"))
    options = ("--results", tmp_path / "results") if "run" in command and "--in-process" not in command else ()
    told = refused(command[0], file, *command[1:], *options, code=2)
    assert told == (
        f"{file}:3:30: model.channels: images of 8 x 8 pixels can be halved fewer times; "
        "give fewer channels or pad the images (got [4, 4, 4, 4])"
    )
    assert not (tmp_path / "results").exists()


def test_a_method_s_own_model_is_built_too(file: Path) -> None:
    file.write_text(
        TINY.replace("name: mlp, hidden: [10]", "name: cnn, channels: [4]").replace(
            "naive: {}", "naive: {model.channels: [4, 4, 4, 4]}"
        )
    )
    assert refused("check", file, code=2).startswith(f"{file}:6:27: strategies.naive.model.channels: images of 8 x 8")


def test_a_model_beyond_all_memory(file: Path) -> None:
    file.write_text(TINY.replace("[10]}\ntr", f"[{10**12}, {10**12}]}}\ntr"))
    result = raycl("check", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        f"{file}:3:{column}: model.hidden.{layer}: must be at most 65536 (got {10**12})"
        for layer, column in ((0, 29), (1, 44))
    ]
    file.write_text(TINY.replace("[10]}\ntr", "[65536, 65536]}\ntr"))  # 17 GB, which some machine may have
    result = raycl("check", file)
    assert result.exit_code == 0
    assert "mlp, more than 50,000,000 parameters" in result.stdout
    assert "strategies.naive: is not built here" in " ".join(result.stdout.split())


def test_what_methods_refuse_is_told_before_anything_runs(file: Path) -> None:
    """Every refusal of every method, each at its place."""
    file.write_text(
        """
name: refusals
stream: {name: split, dataset: digits, tasks: 5, scenario: class, normalize: mean_std}
model: {name: mlp, hidden: [24]}
training: {epochs: 1, active_logits: all}
memory: {capacity: 5}
strategies:
  naive: {}
  hypernetwork: {}
  hypernetwork_replay: {}
  icarl: {training.active_logits: seen}
final: {seeds: [10]}
"""
    )
    for command in (("check", file), ("run", file)):
        result = raycl(*command)
        assert (result.exit_code, result.stdout) == (2, "")
        generated, capacity = result.stderr.splitlines()
        assert generated.startswith(f"{file}:5:38: training.active_logits: a generated network has its own task's head")
        assert capacity.startswith(f"{file}:6:20: memory.capacity: must be at least the number of classes")
    file.write_text(file.read_text().replace("capacity: 5", "capacity: 10").replace("  hypernetwork: {}\n", ""))
    for command in (("check", file), ("run", file)):
        result = raycl(*command)
        assert (result.exit_code, result.stdout) == (2, "")
        (pixels,) = result.stderr.splitlines()
        assert pixels.startswith(f"{file}:3:78: stream.normalize: the generator draws pixels in [0, 1]")


# -- the command line ------------------------------------------------------------------------------------------


def test_names_and_options_that_do_not_fit(file: Path) -> None:
    assert refused("ls", "strategies", "nosuch").startswith("error: unknown strategy 'nosuch' (known: naive, ")
    assert "limits, evaluation, metrics, sweeps, results (got 'nosuch')" in misused("ls", "nosuch")
    assert "--strategy and --seed choose the trial of --in-process; add it" in misused("run", file, "--seed", "3")
    assert "'--seed'" in misused(*tried(file, "--seed", "-1"))
    assert "'--seed'" in misused(*tried(file, "--seed", str(2**63)))
    assert "'--max-concurrent'" in misused("run", file, "--max-concurrent", "0")
    assert refused(*tried(file, "--strategy", "niave")) == (
        "error: this sweep runs no 'niave'; did you mean 'naive'? (it runs: naive, ewc)"
    )


def test_a_method_that_fails_does_not_exit_with_0(file: Path) -> None:
    file.write_text(TINY.replace("epochs: 1", "epochs: 1, optimizer: sgd, learning_rate: 1e30"))
    result = raycl(*tried(file))
    assert result.exit_code == METHODS_FAILED
    assert "failed: naive: losses and parameters must stay finite" in result.stdout
    assert "lower training.learning_rate" in " ".join(result.stdout.split())


# -- data ------------------------------------------------------------------------------------------------------


def test_a_missing_data_set(file: Path, tmp_path: Path, unharmed: Path) -> None:
    for dataset, place in (("mnist", "MNIST/raw"), ("'parquet:birds'", "birds/train*.parquet")):
        file.write_text(TINY.replace("digits", dataset))
        told = refused(*tried(file, "--data-root", tmp_path / "none"))
        assert str(tmp_path / "none" / place) in told
        assert "put " in told
        assert "belongs to sweep" in refused(*tried(file, "--data-root", tmp_path / "none", "--results", unharmed))


def test_a_data_root_that_is_a_file(file: Path) -> None:
    data = file.with_name("data")
    data.write_text("")
    file.write_text(TINY.replace("digits", "mnist"))
    told = refused(*tried(file, "--data-root", data))
    assert told.startswith(f"error: MNIST was not found (looked in {data}/MNIST/raw); put torchvision's files there")


def write_idx(path: Path, values: np.ndarray) -> None:
    """A file of MNIST's format."""
    head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(head + values.astype(np.uint8).tobytes())


@pytest.mark.parametrize("left", [None, 0, 3, 16, 500])
def test_a_corrupt_mnist_file(file: Path, tmp_path: Path, left: int | None) -> None:
    file.write_text(TINY.replace("digits", "mnist"))
    raw = tmp_path / "data/MNIST/raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        write_idx(raw / f"{split}-images-idx3-ubyte", np.zeros((60, 28, 28)))
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.arange(60) % 10)
    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(b"<html>404 Not Found</html>" if left is None else images.read_bytes()[:left])
    before = contents(raw)
    told = refused(*tried(file, "--data-root", tmp_path / "data"))
    assert told.startswith(f"error: MNIST cannot be read from {raw} (")
    assert "remove that folder and fetch it again" in told
    assert contents(raw) == before


# -- the results folder ----------------------------------------------------------------------------------------


def test_a_folder_of_another_sweep(file: Path, unharmed: Path) -> None:
    file.write_text(TINY.replace("name: tiny", "name: other").replace("epochs: 1", "epochs: 2"))
    told = refused(*tried(file, "--results", unharmed))
    assert f"results folder {unharmed} belongs to sweep 'tiny', and" in told
    assert "naive: training.epochs (2, before 1)" in told
    assert told.endswith("for anything else choose another one")
    assert refused("run", file, "--results", unharmed) == told


@pytest.mark.parametrize("kind", ["trials", "cells"])
def test_a_truncated_parquet_result_is_named_and_written_again(file: Path, finished: Path, kind: str) -> None:
    before = contents(finished)
    (part,) = (finished / "parts" / kind).iterdir()
    truncate(part)
    torn = contents(finished)
    if kind == "trials":  # no final trial has ended, so the table needs no cells
        told = refused("show", finished)
        assert told.startswith(f"error: {part}: not a complete Parquet result (")
        assert "`raycl resume` on the results folder repairs it" in told
    assert contents(finished) == torn
    sweep = SweepSpec.parse(TINY, catalog(), "tiny.yaml")
    ResultsFolder.create(finished, sweep.dumps(), sweep.hash).repair()  # as `raycl run` and `raycl resume` begin
    assert contents(finished) == before
    assert raycl("show", finished).exit_code == 0


def test_no_write_permission(file: Path, tmp_path: Path) -> None:
    """Below a file nobody may write, root included."""
    blocked = tmp_path / "blocked"
    blocked.write_text("mine")
    told = refused(*tried(file, "--results", blocked / "results"))
    assert told == (
        f"error: {blocked}/results/sweep.json: cannot be read or written (Not a directory); "
        "choose another folder, or repair this one"
    )
    assert refused("run", file, "--results", blocked / "results") == told
    assert blocked.read_text() == "mine"


def test_permission_taken_from_a_folder_in_use(file: Path, unharmed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, data: bytes) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", denied)
    told = refused(*tried(file, "--results", unharmed))
    assert told.startswith(f"error: {unharmed}/sweep.json: no permission (")
    assert told.endswith("choose another folder")


def test_an_address_without_a_folder(file: Path) -> None:
    assert "no file system takes this URI" in refused(*tried(file, "--results", "nosuch://bucket/x"))
    assert "cannot be read or written" in refused(*tried(file, "--results", "s3://"))


def test_a_tracking_server_that_is_down(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = contents(finished)
    told = refused("sync", finished, code=STOPPED)
    assert told.startswith(f"error: MLflow at {uri} cannot be used (API request to {uri}")
    assert told.endswith("results are on disk, run `raycl sync` later")
    assert before.items() <= contents(finished).items()
    assert contents(finished).keys() - before.keys() <= {"folder.json"}, "the folder's own name, once"
