"""Where Ray is, or may be started: told in seconds."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import time
from pathlib import Path

import pytest
import ray

from raycl.distributed import address as addresses
from raycl.distributed import cluster
from raycl.distributed.address import BELOW, LONGEST_SOCKET, knock, ray_folder, target
from raycl.distributed.environment import environment
from raycl.errors import REFUSED, InfrastructureError, PathError, exit_code
from raycl.sweep.signals import Interrupted, Interruption


def _closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_what_is_given_goes_before_the_variable_and_nothing_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "there:1")
    assert (target(None), target(""), target("here:1"), target("local")) == ("there:1", "there:1", "here:1", None)
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert target(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert target(None) is None


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "localhost:{}", "ray://127.0.0.1:{}"])
def test_a_dead_cluster_is_told_at_once(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself tried for a quarter of an hour."""
    dead = form.format(_closed_port())
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was started to wait"))
    monkeypatch.setenv("RAY_ADDRESS", dead)
    began = time.monotonic()
    with pytest.raises(InfrastructureError, match=r"cannot be reached: Connection refused; start it, .*unset RAY_ADDR"):
        cluster.connected("tests", None).__enter__()
    assert time.monotonic() - began < 15


def test_the_address_that_auto_stands_for_is_tried_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that was killed leaves its address in Ray's folder."""
    monkeypatch.setattr(addresses.services, "find_gcs_addresses", set)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(InfrastructureError, match="the Ray cluster at auto cannot be found"):
        knock("auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{_closed_port()}")
    with pytest.raises(InfrastructureError, match=r"the Ray cluster at auto \([\d.]+:\d+\) cannot be reached"):
        knock("auto")


def test_a_port_that_swallows_everything_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(place: tuple[str, int], timeout: float) -> socket.socket:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", never)
    with pytest.raises(InfrastructureError, match="timed out"):
        knock("10.255.255.1:6379", patience=0.1)


def test_a_live_port_is_let_pass_and_nonsense_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        knock(f"127.0.0.1:{server.getsockname()[1]}")
    for nonsense in ("host", "ray://host", "host:port", "::::", "host:99999"):
        with pytest.raises(PathError, match="is HOST:PORT") as error:
            knock(nonsense)
        assert nonsense in str(error.value)
        assert exit_code(error.value) == REFUSED, "the same command can never go on"
    with pytest.raises(InfrastructureError) as told:
        knock(f"ray://me:hidden@127.0.0.1:{_closed_port()}")
    assert "hidden" not in str(told.value)


def test_rays_usual_folder_is_kept_where_it_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="rc", dir="/tmp") as short:
        for name in ("RAY_TMPDIR", "TMPDIR"):
            with environment({"RAY_TMPDIR": None, "TMPDIR": None, name: short}), ray_folder() as folder:
                assert folder == f"{short}/ray"
    with (
        environment({"RAY_TMPDIR": "", "TMPDIR": ""}),
        ray_folder() as folder,
    ):  # set to nothing: not a folder "ray" here
        assert Path(folder).is_absolute()


def test_a_long_path_or_one_that_cannot_be_written_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    long = tmp_path / ("x" * 100)
    for unsuitable in (long, tmp_path / "file", Path("/proc")):
        with environment({"RAY_TMPDIR": None, "TMPDIR": str(unsuitable)}), ray_folder() as folder:
            assert len(folder) + BELOW <= LONGEST_SOCKET
            assert Path(folder).is_dir()
            assert not Path(folder).is_relative_to(unsuitable)
        assert not Path(folder).exists()


def test_without_any_folder_one_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(addresses, "SHORT", (str(tmp_path / "absent"),))
    with (
        environment({"RAY_TMPDIR": "/proc", "TMPDIR": None}),
        pytest.raises(InfrastructureError, match=r"at most 40 bytes .got /proc/ray, .*RAY_TMPDIR"),
    ):
        ray_folder().__enter__()


@pytest.mark.ray
def test_ray_starts_under_the_longest_path_that_is_taken_and_leaves_no_token_to_another_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sockets are where the count of bytes says. Ray remembers the token in the process; a driver that still asks for
    it loses its actors at once."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with tempfile.TemporaryDirectory(prefix="rc", dir="/tmp") as base:
        longest = Path(base, "x" * (LONGEST_SOCKET - BELOW - len(base) - len("//ray")))
        longest.mkdir()
        with environment({"RAY_TMPDIR": str(longest), "RAY_ADDRESS": ""}), cluster.connected("tests", None):
            sockets = [path for path in longest.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
            assert sockets
            assert LONGEST_SOCKET - 15 < max(len(os.fsencode(path)) for path in sockets) <= LONGEST_SOCKET
            assert "RAY_AUTH_TOKEN" in os.environ
    assert not {"RAY_AUTH_TOKEN", "RAY_AUTH_MODE"} & set(os.environ)

    class Echo:
        def answer(self) -> int:
            return 1

    with environment({"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": ""}), cluster.connected("tests", None):
        named = ray.remote(num_cpus=0)(Echo).options(name="echo").remote()
        assert ray.get(named.answer.remote(), timeout=60) == 1


def test_while_nothing_runs_the_first_signal_is_enough() -> None:
    state = Interruption()
    state.at_once = True
    with pytest.raises(Interrupted, match="SIGINT"):
        state._handle(2, None)
    state = Interruption()
    state._handle(2, None)
    assert state.signal == "SIGINT"
