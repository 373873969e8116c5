"""What ``raycl ui`` does: MLflow's pages of a results folder, on this machine, till Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raycl.addresses import shown
from raycl.cli.terminal import tell
from raycl.errors import InfrastructureError
from raycl.results.reading import opened
from raycl.results.trackers.mlflow import shown_runs, tracking_uri
from raycl.results.trackers.mlflow_summary import page

HOST = "127.0.0.1"
START_SECONDS = 300.0
"""MLflow's server takes ten seconds to start on a quiet machine, and many times that on a busy one."""
STOP_SECONDS = 5.0


def serve(folder: str, port: int, browse: bool) -> None:
    """Serve the runs of a folder, say where, and wait for Ctrl-C.

    Args:
        port: 0 for a free one.
        browse: open the page in a browser too.

    Raises:
        InfrastructureError: nothing is logged, or the server does not start.
    """
    results = opened(folder)
    experiment, key = shown_runs(results)
    uri = str(tracking_uri(results))
    if uri.startswith("http"):
        tell(page(shown(uri.rstrip("/")), experiment, key))
        return
    for ends in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ends, signal.default_int_handler)  # however it is ended, the server ends with it
    with suppress(KeyboardInterrupt), served(uri, port or free_port()) as server:
        address = page(server, experiment, key)
        tell(f"{address}\nCtrl-C ends the server of {shown(uri)}")
        if browse:
            webbrowser.open(address)
        signal.pause()


@contextmanager
def served(uri: str, port: int) -> Iterator[str]:
    """MLflow's server over a store, for as long as the block lasts; gives its address.

    One worker: pages of one person need no more. Its middleware answers requests to this machine's own name alone.

    Raises:
        InfrastructureError: it does not start.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "server.log"
        with log.open("wb") as told:
            server = subprocess.Popen(
                command, env=environment, cwd=place, stdout=told, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            _wait(server, f"http://{HOST}:{port}", log)
            yield f"http://{HOST}:{port}"
        finally:
            _stop(server)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < ends:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2):
            return
        time.sleep(0.2)
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise InfrastructureError(
        f"MLflow's server does not start ({''.join(last)[:200]}); give another --port, or try again"
    )


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and all that it has started, which is a group of its own."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, how)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
