"""The live table: silent while nothing changes, one line per change without a terminal, everything in sight on one."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from raycl.cli.live import LiveTable, plain
from raycl.sweep.status import EntryStatus, SweepStatus
from raycl.sweep.status_table import StatusTable, clock

EWC = EntryStatus("ewc", "search", num_tasks=5, total=10, done=3, running=2, pruned=1, tasks=(1, 0), best=0.812)
NAIVE = EntryStatus("naive", "search", num_tasks=5, total=1)
BARRED = EntryStatus("packnet", "search", num_tasks=5, barred="needs the task id at test")
STATUS = SweepStatus((NAIVE, EWC, BARRED), elapsed=65, remaining=3700)
SWEEP = SimpleNamespace(name="demo")


class Screen:
    """A console of a given kind whose text can be read back."""

    def __init__(self, terminal: bool) -> None:
        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=terminal, width=100, color_system=None)

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()


@pytest.fixture
def clockwork(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The table's clock, moved by hand."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr("raycl.cli.live.time.monotonic", lambda: now.seconds)
    return now


def test_statuses_travel_between_processes() -> None:
    assert pickle.loads(pickle.dumps(STATUS)) == STATUS


def test_plain_lines_only_for_what_changed(clockwork: SimpleNamespace) -> None:
    screen = Screen(terminal=False)
    with LiveTable(SWEEP, screen.console) as live:
        live.update(STATUS)
        assert screen.lines == [
            "[1:05] search ewc: 3 of 10 done, 2 running (task 2 of 5), 1 pruned, best 81.20 %",
            "[1:05] packnet: n/a, needs the task id at test",
        ]
        clockwork.seconds += 60
        live.update(replace(STATUS, elapsed=125, remaining=1))
        assert len(screen.lines) == 2, "time alone is not worth a line"
        live.update(replace(STATUS, entries=(replace(NAIVE, running=1), EWC, BARRED)))
        assert screen.lines[2:] == ["[1:05] search naive: 0 of 1 done, 1 running"]


def test_changes_within_the_pause_are_told_together_and_none_is_lost_at_the_end(clockwork: SimpleNamespace) -> None:
    screen = Screen(terminal=False)
    with LiveTable(SWEEP, screen.console, every=3.0) as live:
        for done in range(5):
            live.update(replace(STATUS, entries=(replace(EWC, done=done),)))
        assert len(screen.lines) == 1
        clockwork.seconds += 3
        live.update(replace(STATUS, entries=(replace(EWC, done=5),)))
        live.update(replace(STATUS, entries=(replace(EWC, done=9, running=0, tasks=()),)))
        assert len(screen.lines) == 2
    assert screen.lines[-1] == "[1:05] search ewc: 9 of 10 done, 1 pruned, best 81.20 %"


def test_tasks_that_advance_are_told_ten_times_as_seldom(clockwork: SimpleNamespace) -> None:
    screen = Screen(terminal=False)
    with LiveTable(SWEEP, screen.console, every=3.0) as live:
        live.update(replace(STATUS, entries=(EWC,)))
        clockwork.seconds += 29
        live.update(replace(STATUS, entries=(replace(EWC, tasks=(3, 0)),)))
        assert len(screen.lines) == 1
        clockwork.seconds += 1
        live.update(replace(STATUS, entries=(replace(EWC, tasks=(3, 0)),)))
        assert "task 4 of 5" in screen.lines[1]


def test_a_terminal_shows_every_strategy_with_its_progress() -> None:
    screen = Screen(terminal=True)
    with LiveTable(SWEEP, screen.console) as live:
        live.update(STATUS)
    shown = screen.file.getvalue()
    for text in (
        "demo",
        "search",
        "naive",
        "0/1",
        "ewc",
        "3/10",
        "2 of 5",
        "81.20 %",
        "n/a",
        "elapsed",
        "to go",
    ):
        assert text in shown


def test_the_clock_goes_on_between_two_looks() -> None:
    screen = Screen(terminal=False)
    screen.console.print(StatusTable("demo", STATUS, passed=10))
    assert "1:15 elapsed, about 1:01:30 to go" in screen.file.getvalue()


def test_markup_in_names_is_text() -> None:
    screen = Screen(terminal=False)
    screen.console.print(StatusTable("demo", replace(STATUS, entries=(replace(EWC, key="small/[ewc]"),))))
    assert "small/[ewc]" in screen.file.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.9, "1:05"), (7389, "2:03:09")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_method_without_a_result_says_why_and_is_not_green() -> None:
    failed = replace(
        EWC, phase="final", total=0, done=0, running=0, pruned=0, failed_before=3, failure="no winner: boom"
    )
    assert plain(failed) == "ewc: failed, no winner: boom"
    screen = Screen(terminal=False)
    screen.console.print(StatusTable("demo", replace(STATUS, entries=(failed,))))
    (line,) = [line for line in screen.lines if line.startswith("ewc")]
    assert line.rstrip().endswith("failed")
    assert " 3 " in line, "failures of earlier phases stay"


def test_failures_of_earlier_phases_stay_in_the_table() -> None:
    entry = replace(EWC, phase="final", failed=1, failed_before=2)
    assert "1 failed, 2 failed before" in plain(entry)
    screen = Screen(terminal=False)
    screen.console.print(StatusTable("demo", replace(STATUS, entries=(entry,))))
    assert " 3 " in next(line for line in screen.lines if line.startswith("ewc"))


def test_plain_line_names_failures() -> None:
    assert plain(replace(EWC, failed=2)).endswith("1 pruned, 2 failed, best 81.20 %")
