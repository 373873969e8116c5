"""Recorded seconds are the method's: nothing that happens once in a process, and no evaluation, is among them."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from support import trainer, trial

from raycl.distributed import trainable
from raycl.trial.evaluator import Evaluator
from raycl.trial.meter import TaskClock

pytestmark = pytest.mark.alone

FIRST_TRIALS = """
import sys
from support import finish, trainer, trial
from raycl.learning import superposition
from raycl.trial import meter

imported = []
clock = meter.TaskClock.__init__
meter.TaskClock.__init__ = lambda self: (imported.append("torch._dynamo" in sys.modules), clock(self))[1]
assert "torch._dynamo" not in sys.modules, "nothing to show"
if "cold" in sys.argv:
    import raycl.strategies.supsup
    raycl.strategies.supsup.warm_up = lambda: None
spec = trial("supsup", "class", options={"inference": "one_shot"})
seconds = [[row.cost.evaluation_seconds for row in finish(trainer(spec))][1] for _ in range(3)]
print(all(imported), seconds[0], min(seconds[1:]))
"""


def first_trials(*arguments: str) -> tuple[bool, float, float]:
    """Of a new process: whether imports were done before any clock began; seconds of the first trial and of others."""
    command = [sys.executable, "-c", FIRST_TRIALS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="tests")
    warm, first, later = done.stdout.split()
    return warm == "True", float(first), float(later)


def test_the_first_trial_of_a_process_takes_no_longer_than_others() -> None:
    """SupSup's is the one that needs torch's slow imports: it asks which task it is by a derivative in a direction."""
    warm, first, later = first_trials()
    assert warm
    assert first < 10 * later, "a second of imports would be fifty times a trial of this size"


def test_the_check_sees_a_process_that_is_not_warmed_up() -> None:
    """The mutant: the first derivative imports ``torch._dynamo`` while the clock runs."""
    warm, first, later = first_trials("cold")
    assert not warm
    assert first > 10 * later


def test_the_untrained_network_is_measured_off_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Task 0 recorded 1.64 s of which .37 were its own."""
    measure = Evaluator.measure

    def slow(*arguments: Any) -> Any:
        time.sleep(1.0)
        return measure(*arguments)

    monkeypatch.setattr(Evaluator, "measure", slow)
    running = trainer(trial("naive", "domain"))
    untrained, first = running.run_task()
    assert first.cost.evaluation_seconds > 1.0
    assert untrained.cost.evaluation_seconds > 1.0
    assert untrained.cost.wall_seconds == 0
    assert first.cost.wall_seconds < 1.0


def test_a_clock_leaves_out_what_it_is_stopped_for() -> None:
    clock = TaskClock()
    time.sleep(0.05)
    with clock.stopped():
        time.sleep(0.3)
        sum(range(2_000_000))
    wall, cpu = clock.wall(), clock.cpu()
    assert 0.05 <= wall < 0.3
    assert cpu < 0.03


def test_a_worker_is_warmed_up_when_it_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has a trial: what waits for the worker is no trial's time."""
    done: list[str] = []
    monkeypatch.setattr(trainable, "warm_up", lambda: done.append("warm"))
    worker = object.__new__(trainable.TrialRunner)
    worker.setup({"registered": b""})
    assert done == ["warm"]
