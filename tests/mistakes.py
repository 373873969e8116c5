"""Running the command line on small sweeps that something is wrong with, and what such a run left."""

from __future__ import annotations

import hashlib
from pathlib import Path

from support import local_source
from typer.testing import CliRunner, Result

from raycl.catalog import catalog
from raycl.cli.app import app
from raycl.results.store import ResultsFolder
from raycl.results.trial_store import TrialStore
from raycl.spec.sweep import SweepSpec
from raycl.trial.session import TrialSession

TASKS = 3
HEAD = """\
name: tiny
stream: {name: split, dataset: digits, tasks: 3, classes_per_task: 2, scenario: class, train_per_task: 20}
model: {name: mlp, hidden: [10]}
training: {batch_size: 32, epochs: 1}
"""
SMALLEST = HEAD + "strategies: {naive: {}}\nfinal: {seeds: [10]}\n"
TINY = (
    HEAD
    + """\
strategies:
  naive: {}
  ewc: {penalty: {loguniform: [1, 100]}}
search: {trials: 2, generation: 1, startup: 1}
final: {seeds: [10]}
"""
)


def raycl(*arguments: str | Path) -> Result:
    """Run a command and return what it did; a traceback is no answer to anything."""
    result = CliRunner().invoke(app, [str(part) for part in arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


def refused(*arguments: str | Path, code: int = 2) -> str:
    """The single line with which a command refuses."""
    result = raycl(*arguments)
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    assert result.stdout.strip() in ("", "naive  seed 0")
    return line


def misused(*arguments: str | Path) -> str:
    """What the command line's own parser says in its box, on one line."""
    result = raycl(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return " ".join(result.stderr.split())


def tried(file: Path, *options: str | Path) -> tuple[str | Path, ...]:
    """A run in this process; what is saved takes a whole sweep."""
    return ("run", file, *(("--backend", "here") if "--results" in options else ("--in-process",)), *options)


def contents(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def truncate(path: Path, by: int = 20) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def opened(folder: Path) -> tuple[TrialSession, TrialStore]:
    """The trial that ``--in-process`` runs, to be stopped between two tasks."""
    sweep = SweepSpec.parse(TINY, catalog(), "tiny.yaml")
    trial = sweep.trial(sweep.entries[0], {}, 0, "search")
    store = ResultsFolder.create(folder, sweep.dumps(), sweep.hash).trial(trial)
    return TrialSession(local_source(trial.stream, trial.seed), store), store


def learned(folder: Path, tasks: int) -> Path:
    """A results folder with the first tasks of that trial; with all of them it has ended."""
    session, _ = opened(folder)
    for _ in range(tasks):
        session.step()
    session.close()
    return folder
