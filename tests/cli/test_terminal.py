"""Standard output as it may be: without signs, without width, full, or without a reader."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mistakes import SMALLEST
from results.made_results import PROVENANCE, rows, spec
from rich.table import Table

from raycl.addresses import shown
from raycl.cli.terminal import Output, standard_output, written_as
from raycl.errors import REFUSED, OutputError
from raycl.matrix import Verdict
from raycl.results.store import ResultsFolder

RAYCL = Path(sys.executable).with_name("raycl")


def _made(folder: Path) -> ResultsFolder:
    results = ResultsFolder.create(folder, json.dumps({"name": "tiny", "final": {"seeds": [10, 11]}}), "abc")
    for seed in (10, 11):
        store = results.trial(spec(seed=seed))
        attempt = store.begin()
        for row in rows()[1:]:
            store.write_task(attempt, row.task, [row], {"state.json": b"{}"})
        store.finish(Verdict("finished", "", None, 2), PROVENANCE)
    return results


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with something to show."""
    folder = tmp_path_factory.mktemp("made") / "results"
    _made(folder)
    return folder


def raycl(*arguments: str | Path, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command; ``shell`` follows it, as a redirection or a pipe."""
    line = " ".join(f"'{os.fspath(part)}'" for part in (RAYCL, *arguments)) + f" {shell}"
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "RAYCL_RESULTS")}
    repository = {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        env={**kept, **repository, **environment},
        capture_output=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["ascii", "C"],
)
def test_show_works_on_a_terminal_without_the_sign(made: Path, environment: dict[str, str]) -> None:
    done = raycl("show", made, **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode("ascii").splitlines()
    (line,) = [line for line in lines if "|ewc" in line]
    assert "60.00 +/- 0.00" in line
    assert "Mean +/- standard deviation" in done.stdout.decode()
    heading = next(line for line in lines if line.startswith("|strategy"))
    assert heading.index("accuracy %") + len("accuracy %") == line.index("60.00 +/- 0.00") + len("60.00 +/- 0.00")


def test_the_check_finds_signs_that_are_exchanged_after_the_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: only the stream knows its encoding, and cells grow once their columns are measured."""
    straight = _ends_of_columns()
    assert len(set(straight)) == 1
    monkeypatch.delattr("raycl.cli.terminal._Console.render_str")
    assert len(set(_ends_of_columns())) == 2


def _ends_of_columns() -> list[int]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    table = Table("n", "m", box=None)
    table.add_row("1 ± 2", "x")
    table.add_row("12345678", "x")
    sys.stdout, before = stream, sys.stdout
    try:
        standard_output().print(table)
    finally:
        sys.stdout = before
    stream.flush()
    return [len(line.rstrip()) for line in stream.buffer.getvalue().decode().splitlines()[1:]]  # type: ignore[attr-defined]


def test_what_an_encoding_lacks_is_written_otherwise() -> None:
    assert written_as("0.5 ± 0.1", "ascii") == "0.5 +/- 0.1"
    assert written_as("0.5 ± 0.1", "latin-1") == "0.5 ± 0.1"
    assert written_as("caf\udce9", "utf-8") == "caf?"


@pytest.fixture
def unnamed(tmp_path: Path) -> Path:
    """A results folder whose name is no text."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    _made(folder)
    return folder


def test_a_folder_whose_name_is_no_text_is_shown(unnamed: Path) -> None:
    for arguments in (("show", unnamed), ("pack", unnamed, unnamed / "packed")):
        done = raycl(*arguments)
        assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    assert b"60.00" in raycl("show", unnamed).stdout
    results = ResultsFolder.open(unnamed)
    assert len(results.trial_hashes()) == len(results.ended()) == 2
    assert results.files.sizes("parts/cells").keys() == {f"{name}.parquet" for name in results.ended()}
    with results.lease():
        assert results.files.exists("lease.json")
    results.files.delete_folder("parts")
    assert results.files.children("parts") == []


@pytest.mark.slow
def test_a_folder_whose_name_is_no_text_is_told_where_its_name_is_needed(unnamed: Path) -> None:
    done = raycl("sync", unnamed, MLFLOW_TRACKING_URI="")
    assert (done.returncode, done.stdout) == (0, b"nothing is logged\n")
    assert b"has a name that is no text" in done.stderr
    (unnamed / "tiny.yaml").write_text(SMALLEST.replace("tasks", "taks"))
    done = raycl("check", unnamed / "tiny.yaml")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_a_width_of_nothing_is_no_width(made: Path) -> None:
    with_none, usual = raycl("show", made, COLUMNS="0"), raycl("show", made)
    assert (with_none.returncode, with_none.stdout) == (0, usual.stdout)


def importing(*commands: str) -> list[Any]:
    """Commands that import every method, and torch with them: a few seconds each."""
    return [pytest.param(command, marks=pytest.mark.slow) for command in commands]


@pytest.mark.parametrize("command", ["show", "pack", *importing("check", "schema", "ls models")])
def test_a_full_disk_is_one_line(tmp_path: Path, made: Path, command: str) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(SMALLEST)
    given = {"show": (made,), "pack": (made, tmp_path), "check": (file,)}
    done = raycl(*command.split(), *given.get(command, ()), shell="> /dev/full")
    assert (done.returncode, done.stderr.decode().splitlines()) == (
        REFUSED,
        ["error: output cannot be written (No space left on device); send it elsewhere"],
    )


@pytest.mark.parametrize("command", ["show", *importing("schema", "ls strategies")])
def test_a_reader_that_leaves_is_no_error(made: Path, command: str) -> None:
    done = raycl(*command.split(), *([made] if command == "show" else []), shell="| head -1")
    assert (done.returncode, done.stderr) == (0, b"")


def test_output_goes_on_to_nowhere_where_there_is_more_to_do(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(io.StringIO):
        error: OSError = BrokenPipeError(32, "Broken pipe")

        def write(self, text: str) -> int:
            raise self.error

    for goes_on in (False, True):
        output = Output(Broken(), goes_on)
        assert output.write("a") == output.write("b") == 1
        output.flush()
    assert caplog.messages == []
    Broken.error = OSError(28, "No space left on device")
    with pytest.raises(OutputError, match="No space left"):
        Output(Broken()).write("a")
    output = Output(Broken(), goes_on=True)
    output.write("a")
    output.write("b")
    assert [message for message in caplog.messages if "No space left" in message] == caplog.messages != []
    assert Output(None).write("a") == 1


def test_pack_into_a_file_is_one_line(tmp_path: Path, made: Path) -> None:
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        done = raycl("pack", made, target)
        assert done.returncode == REFUSED
        assert done.stderr.decode().startswith(f"error: {target}: must be a folder to write into")
        assert len(done.stderr.splitlines()) == 1


def test_a_variable_that_is_set_to_nothing_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raycl.cli.run_commands import _default_folder

    monkeypatch.setenv("RAYCL_RESULTS", "")
    assert _default_folder("x") == "results/x"
    monkeypatch.setenv("RAYCL_RESULTS", "/mnt/shared/")
    assert _default_folder("x") == "/mnt/shared/x"
    monkeypatch.delenv("RAYCL_RESULTS")
    assert _default_folder("x") == "results/x"


def test_homes_are_found_and_absent_ones_told(made: Path, tmp_path: Path) -> None:
    assert raycl("show", f"~/{made.name}", HOME=str(made.parent)).returncode == 0
    done = raycl("show", "~nobody-of-this-name/results")
    assert done.returncode == REFUSED
    assert done.stderr.decode().startswith("error: ~nobody-of-this-name/results: a leading ~ stands for a home")
    (tmp_path / "tiny.yaml").write_text(SMALLEST)
    done = raycl("run", "~/tiny.yaml", "--data-root", "~no-such-user/data", HOME=str(tmp_path))
    assert (done.returncode, b"Traceback" in done.stderr) == (REFUSED, False)


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("postgresql://me:pa:ss@w@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("https://me:secret@host/path?x=1", "https://me:***@host/path?x=1"),
        ("https://host/path?access_token=secret&x=1", "https://host/path?access_token=***&x=1"),
        ("postgresql://me:a/b?c#d@host/db", "postgresql://me:***@host/db"),
        ("s3://key:se/cret@bucket/x/sweep.json", "s3://key:***@bucket/x/sweep.json"),
        ("http://host:5000/me@work", "http://host:5000/me@work"),
        ("s3://user@bucket/x", "s3://user@bucket/x"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////a/b@c:d/mlflow.db", "sqlite:////a/b@c:d/mlflow.db"),
    ],
)
def test_passwords_are_not_shown(address: str, wanted: str) -> None:
    assert shown(address) == wanted
    assert shown(f"cannot reach {address}: refused") == f"cannot reach {wanted}: refused"
