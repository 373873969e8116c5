"""Where runs are logged: one server for many folders, folders of any name, and files that will never do."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from results.made_results import PROVENANCE, mirrored, rows, spec

from raycl.errors import InfrastructureError
from raycl.matrix import Verdict
from raycl.results.store import ResultsFolder
from raycl.results.trackers import mlflow as tracking
from raycl.results.trackers.mlflow import sync, tracking_uri, ui_command
from raycl.results.trackers.mlflow_address import beside, unusable


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = ResultsFolder.create(tmp_path_factory.mktemp("mlflow"), '{"name": "none"}', "h")
    tracking._make_database(results)
    return Path(results.uri) / "mlflow.db"


@pytest.fixture
def server(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracking store that several folders share."""
    home = tmp_path / "server"
    home.mkdir()
    shutil.copy(empty_database, home / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", beside(home))
    monkeypatch.chdir(home)  # where MLflow keeps the artifacts of experiments
    return beside(home)


def _folder(place: Path, name: str = "tiny", seeds: tuple[int, ...] = (10, 11), shift: int = 0) -> ResultsFolder:
    results = ResultsFolder.create(place, json.dumps({"name": name, "final": {"seeds": [10, 11]}}), "abc")
    for seed in seeds:
        store = results.trial(spec(seed=seed))
        if store.verdict() is None:
            attempt = store.begin()
            for row in rows(shift)[1:]:
                store.write_task(attempt, row.task, [row], {"state.json": b"{}"})
            store.finish(Verdict("finished", "", None, 2), PROVENANCE)
    return results


def _runs(uri: str, name: str = "tiny") -> dict[str, Any]:
    """Active runs by their id."""
    client = tracking._client(uri)
    found = client.search_runs([one.experiment_id for one in client.search_experiments() if one.name == name])
    return {run.info.run_id: run for run in found}


def test_two_folders_of_one_sweep_leave_each_others_runs_alone(server: str, tmp_path: Path) -> None:
    _alone(server, _folder(tmp_path / "a"), _folder(tmp_path / "b"))


def _alone(server: str, first: ResultsFolder, second: ResultsFolder) -> None:
    assert sync(first) == 2
    of_first = set(_runs(server))
    assert sync(second) == 2
    both = _runs(server)
    assert of_first < both.keys()
    assert len(both) == 2 * 3
    assert sync(first) == sync(second) == 0
    assert _runs(server).keys() == both.keys()
    parents = {run.data.tags["raycl.folder"]: id for id, run in both.items() if "raycl.kind" in run.data.tags}
    assert parents.keys() == {first.identity, second.identity}
    children = [run.data.tags for run in both.values() if "raycl.trial" in run.data.tags]
    assert all(tags["mlflow.parentRunId"] == parents[tags["raycl.folder"]] for tags in children)


def test_the_check_finds_folders_that_go_by_the_sweep(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: a folder is called as its sweep."""
    monkeypatch.setattr(ResultsFolder, "identity", property(lambda self: self.sweep_hash))
    with pytest.raises(AssertionError):
        _alone(server, _folder(tmp_path / "a"), _folder(tmp_path / "b"))


def test_an_identity_is_made_once(tmp_path: Path) -> None:
    first, second = _folder(tmp_path / "a"), _folder(tmp_path / "b")
    assert first.identity == ResultsFolder.open(tmp_path / "a").identity != second.identity
    identity = first.identity
    (tmp_path / "a").rename(tmp_path / "c")
    assert ResultsFolder.open(tmp_path / "c").identity == identity
    assert json.loads((tmp_path / "c" / "folder.json").read_text()) == {"id": identity}


def test_a_renamed_sweep_is_not_logged_twice(server: str, tmp_path: Path) -> None:
    assert sync(_folder(tmp_path / "a")) == 2
    renamed = _folder(tmp_path / "a", name="renamed", seeds=(10, 11, 12))
    assert sync(renamed) == 1
    assert sync(renamed) == 0
    assert len(_runs(server)) == 4
    assert _runs(server, "renamed") == {}
    (parent,) = [run for run in _runs(server).values() if "raycl.kind" in run.data.tags]
    assert parent.info.run_name == "renamed"


def test_runs_of_earlier_versions_are_this_folders_where_its_results_are_in_them(server: str, tmp_path: Path) -> None:
    """Those had no tag of a folder."""
    first, second = _folder(tmp_path / "a"), _folder(tmp_path / "b", shift=1)
    sync(first)
    client = tracking._client(server)
    for run in _runs(server):
        client.delete_tag(run, "raycl.folder")
    before = set(_runs(server))
    assert sync(first) == 0
    assert set(_runs(server)) == before
    assert {run.data.tags["raycl.folder"] for run in _runs(server).values()} == {first.identity}
    for run in _runs(server):
        client.delete_tag(run, "raycl.folder")
    assert sync(second) == 2
    assert before < set(_runs(server))


def test_an_experiment_deleted_elsewhere_is_told_as_what_it_is(
    server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = _folder(tmp_path / "a")
    sync(results)
    client = tracking._client(server)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    client.delete_experiment(experiment)
    with pytest.raises(
        InfrastructureError, match=rf"was deleted; restore it .*--experiment-id {experiment}.*mlflow gc"
    ):
        sync(results)
    assert not mirrored(results, spec(seed=10))
    assert sum("was deleted; restore it" in message for message in caplog.messages) == 1
    client.restore_experiment(experiment)
    assert sync(results) == 0


def test_a_deleted_parent_is_made_again_and_keeps_its_children(server: str, tmp_path: Path) -> None:
    results = _folder(tmp_path / "a")
    sync(results)
    client = tracking._client(server)
    (parent,) = [id for id, run in _runs(server).items() if "raycl.kind" in run.data.tags]
    client.delete_run(parent)
    assert sync(results) == 0
    (again,) = [id for id, run in _runs(server).items() if "raycl.kind" in run.data.tags]
    assert again != parent
    children = [run for run in _runs(server).values() if "raycl.trial" in run.data.tags]
    assert [run.data.tags["mlflow.parentRunId"] for run in children] == [again] * 2


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a b#c", "a@b:c", "é"])
def test_a_folder_of_any_name_holds_its_own_runs(
    tmp_path: Path, name: str, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    results = _folder(tmp_path / name)
    shutil.copy(empty_database, tmp_path / name / "mlflow.db")
    assert sync(results) == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]  # and no folder of the escaped name
    with sqlite3.connect(tmp_path / name / "mlflow.db") as database:
        assert database.execute("select count(*) from runs").fetchone() == (3,)
    assert (tmp_path / name / "mlartifacts").is_dir()


def test_the_check_finds_addresses_that_are_glued_together(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: the path after three slashes, as it is."""
    for module in (tracking, tracking.tracking_uri.__globals__):
        glued: Callable[[Path], str] = lambda folder: f"sqlite:///{folder / 'mlflow.db'}"  # noqa: E731
        if isinstance(module, dict):
            monkeypatch.setitem(module, "beside", glued)
        else:
            monkeypatch.setattr(module, "beside", glued)
    with pytest.raises((AssertionError, InfrastructureError)):
        test_a_folder_of_any_name_holds_its_own_runs(tmp_path, "a?b", empty_database, monkeypatch)


def _cut(database: Path) -> None:
    database.write_bytes(database.read_bytes()[:50_000])


def _no_database(database: Path) -> None:
    database.write_bytes(b"something else" * 1000)


def _other_version(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("update alembic_version set version_num = '0123456789ab'")


@pytest.mark.parametrize("harm", [_cut, _no_database, _other_version])
def test_a_file_that_will_never_do_is_named_and_deleted(
    tmp_path: Path,
    empty_database: Path,
    harm: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    results, database = _folder(tmp_path / "a"), tmp_path / "a" / "mlflow.db"
    shutil.copy(empty_database, database)
    harm(database)
    with pytest.raises(InfrastructureError) as told:
        sync(results)
    assert f"MLflow's file {database} is damaged or of another version of MLflow" in str(told.value)
    assert f"delete it, and `raycl sync {tmp_path / 'a'}` writes it again" in str(told.value)
    with caplog.at_level(logging.WARNING, "raycl"):
        assert not mirrored(results, spec(seed=10))
    assert sum(f"{database} is damaged" in message for message in caplog.messages) == 1
    shutil.copy(empty_database, database)  # as deleting it does, without the seconds
    assert sync(results) == 2


def test_what_passes_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    results = _folder(tmp_path / "a", seeds=())
    for error in ("database is locked", "attempt to write a readonly database", "database or disk is full"):
        told = unusable(results, str(tracking_uri(results)), RuntimeError(f"(sqlite3.OperationalError) {error}"))
        assert "run `raycl sync` later" in told
        assert "delete it" not in told


def test_no_password_is_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from raycl.cli.run import sync_results

    results = _folder(tmp_path / "a", seeds=(10,))
    for uri in ("http://me:hidden-word@127.0.0.1:9", "postgresql://me:hidden-word@127.0.0.1:9/runs"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert "hidden-word" not in ui_command(results)
        with pytest.raises(InfrastructureError) as told:
            sync(results)
        assert "hidden-word" not in str(told.value)
        mirrored(results, spec(seed=10))
    monkeypatch.setattr("raycl.results.trackers.mlflow.sync", lambda folder: 0)
    sync_results(results.uri)
    printed = capsys.readouterr()
    assert "hidden-word" not in caplog.text + printed.out + printed.err
    assert "me:***@127.0.0.1" in printed.out
    assert ui_command(results) == f"raycl ui {tmp_path / 'a'}"
