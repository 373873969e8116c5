"""The table of a running sweep on terminals of many sizes: no figure is cut, and times and warnings stay in sight."""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from raycl.cli.live import LiveTable
from raycl.sweep.status import EntryStatus, SweepStatus
from raycl.sweep.status_table import GO_FIRST, StatusTable, standing

RUNNING = EntryStatus(
    "small_memory/replay",
    "search",
    5,
    total=100,
    done=13,
    running=2,
    waiting=3,
    pruned=1,
    failed=4,
    tasks=(1, 0),
    best=0.812,
)
ENTRIES = (
    RUNNING,
    EntryStatus("small_memory/derpp", "final", 5, total=10, done=10, best=0.9312),
    EntryStatus("small_memory/packnet", "search", 5, barred="needs the task id at test"),
    EntryStatus("small_memory/ewc", "final", 5, failed_before=3, failure="no winner: boom"),
    *(EntryStatus(f"large_memory/method_{number:02d}", "search", 5, total=10) for number in range(36)),
)
STATUS = SweepStatus(ENTRIES, elapsed=65, remaining=3700)
WARNINGS = (
    "the first of them",
    "the results storage does not answer: a reason that is longer than any terminal is wide, surely",
)


def drawn(
    width: int, height: int | None, status: SweepStatus = STATUS, warnings: tuple[str, ...] = WARNINGS
) -> list[str]:
    """The lines on a terminal of a size."""
    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None, legacy_windows=False)
    console.print(StatusTable("demo", status, 0.0, warnings, height))
    return [line.rstrip() for line in text.getvalue().splitlines()]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("height", [15, 50, 200])
def test_everything_that_matters_is_in_sight(width: int, height: int) -> None:
    lines = drawn(width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[0] == "demo"
    row = next(line for line in lines if line.startswith("small") and "81.20 %" in line)
    assert "13/100" in row
    assert any("93.12 %" in line for line in lines) == (height > 15), "complete entries are folded first"
    assert any(line.startswith("1:05 elapsed, about 1:01:40 to go") for line in lines[-2:])
    assert lines[-1].startswith("warning: the results")
    assert lines[-1].endswith("(1 more above)")
    assert not any("…" in line for line in lines[:-1] if not line.startswith("and "))


def test_what_is_urgent_is_shown_and_the_rest_is_counted() -> None:
    lines = drawn(80, 10, warnings=())
    assert [line.split()[0] for line in lines[2:8]] == [
        "small_memory/replay",
        "small_memory/ewc",
        *(f"large_memory/method_{number:02d}" for number in range(4)),
    ]
    assert lines[8] == "and 34 more: 32 to come, 1 complete, 1 n/a"
    assert len(lines) == 10


def test_columns_go_one_by_one_and_those_of_nothing_are_left_out() -> None:
    every = ["strategy", "phase", "done", "running", "waiting", "pruned", "failed", "task", "best"]
    assert drawn(200, None)[1].split() == every
    one = replace(STATUS, entries=(RUNNING,))
    for width in range(45, 120):
        left = [name for name in GO_FIRST if name not in drawn(width, None, one)[1].split() and name != "bar"]
        assert left == [name for name in GO_FIRST if name != "bar"][: len(left)]
        assert {"done", "best"} <= set(drawn(width, None, one)[1].split())
    quiet = replace(STATUS, entries=(replace(RUNNING, waiting=0, pruned=0, failed=0),))
    silent = ("waiting", "pruned", "failed")
    assert drawn(200, None, quiet)[1].split() == [name for name in every if name not in silent]


def test_a_name_is_cut_before_a_figure_is() -> None:
    long = replace(STATUS, entries=(replace(RUNNING, key="a" * 90),))
    (row,) = [line for line in drawn(40, None, long) if line.startswith("aaa")]
    assert "…" in row
    assert row.split()[1:] == ["13/100", "81.20", "%"]


def test_waiting_is_not_running() -> None:
    waiting = replace(RUNNING, running=0, tasks=())
    assert standing(waiting) == "waiting"
    heading, row = drawn(200, None, SweepStatus((replace(waiting, failed=0, pruned=0),)), ())[1:3]
    assert heading.index("waiting") + len("waiting") == row.index(" 3 ") + 2


def test_what_comes_before_the_first_trial_is_said() -> None:
    assert (
        drawn(80, None, replace(STATUS, doing="starting Ray", remaining=None), ())[-1] == "1:05 elapsed, starting Ray"
    )


def test_warnings_are_kept_and_handed_on() -> None:
    told: list[str] = []

    class Sink(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    before, logging.lastResort = logging.lastResort, Sink()
    text = io.StringIO()
    try:
        console = Console(file=text, force_terminal=True, width=80, height=12, color_system=None)
        with LiveTable(type("Sweep", (), {"name": "demo"}), console) as live:  # type: ignore[arg-type]
            live.update(STATUS)
            assert logging.lastResort is not None
            logging.lastResort.handle(logging.makeLogRecord({"msg": "disk nearly full", "levelno": logging.WARNING}))
    finally:
        logging.lastResort = before
    assert told == ["disk nearly full"]
    assert "warning: disk nearly full" in text.getvalue()


SCREEN = """
import sys, time
from types import SimpleNamespace
sys.path[:0] = {path!r}
from sweep.test_status_table import STATUS
from raycl.cli.live import LiveTable
with LiveTable(SimpleNamespace(name="demo")) as live:
    live.update(STATUS)
    time.sleep(30)
"""


@pytest.fixture
def terminal() -> Iterator[str]:
    """A name for a tmux session that is gone afterwards."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    name = f"raycl-{os.getpid()}-{time.time_ns()}"
    yield name
    subprocess.run(["tmux", "kill-session", "-t", name], capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("width", "height"), [(60, 15), (80, 50), (200, 15)])
def test_on_a_real_terminal(width: int, height: int, terminal: str, tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    script = tmp_path / "screen.py"
    script.write_text(SCREEN.format(path=[str(tests), str(tests.parent)]))
    command = shlex.join(["env", "-u", "COLUMNS", "-u", "LINES", sys.executable, str(script)])
    subprocess.run(
        ["tmux", "new-session", "-d", "-s", terminal, "-x", str(width), "-y", str(height), command], check=True
    )
    shown: list[str] = []
    for _ in range(100):  # a look may come in the middle of a frame
        time.sleep(0.5)
        asked = ["tmux", "capture-pane", "-p", "-t", terminal]
        screen = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        shown = [line.rstrip() for line in screen.splitlines() if line.strip()]
        if shown and shown[0] == "demo" and "elapsed" in shown[-1]:
            break
    assert shown[0] == "demo"
    assert re.match(r"1:\d\d elapsed", shown[-1]), "the times are the last line"
    assert "elapsed, about 1:0" in shown[-1]
    assert any("13/100" in line and "81.20 %" in line for line in shown)
    assert any(line.startswith("and ") and " more: " in line for line in shown) == (height < 45)
