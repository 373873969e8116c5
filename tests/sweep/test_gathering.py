"""The data set is brought up to date now and then while a sweep runs, and takes a small share of the time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from results.made_results import rows, spec

from raycl.errors import TornFile
from raycl.matrix import Verdict
from raycl.results.store import ResultsFolder
from raycl.sweep.gathering import LEAST_PAUSE, SHARE, Gathering


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def gathering(
    monkeypatch: pytest.MonkeyPatch, folder: Path, takes: float, allowed: Callable[[], bool] = lambda: True
) -> tuple[Gathering, Clock, list[float]]:
    clock, written = Clock(), list[float]()

    def collect(self: ResultsFolder) -> None:
        written.append(clock.now)
        clock.now += takes

    monkeypatch.setattr(ResultsFolder, "collect", collect)
    return Gathering(ResultsFolder.create(folder, "{}", "h"), allowed, clock), clock, written


@pytest.mark.parametrize("takes", [0.01, 1.0, 30.0])
def test_it_takes_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes: float) -> None:
    gather, clock, written = gathering(monkeypatch, tmp_path, takes)
    while clock.now < 10_000:
        clock.now += 0.5
        gather.trial_ended()
    assert len(written) > 5
    assert takes * len(written) <= SHARE * 10_000 + takes
    pauses = [later - earlier for earlier, later in pairwise(written)]
    assert min(pauses) >= max(LEAST_PAUSE, takes / SHARE)
    assert max(pauses) <= max(LEAST_PAUSE, takes / SHARE) + takes + 0.5, "and is not put off for longer"


def test_a_driver_that_has_lost_its_folder_leaves_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gather, _, written = gathering(monkeypatch, tmp_path, 1.0, lambda: False)
    gather.gather()
    assert written == []


def test_what_cannot_be_taken_in_now_is_left_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = ResultsFolder.create(tmp_path, '{"name": "x"}', "h")
    gather = Gathering(results)

    def torn(self: ResultsFolder) -> None:
        raise TornFile("a trial goes on just now")

    with monkeypatch.context() as patch:
        patch.setattr(ResultsFolder, "collect", torn)
        gather.gather()
    store = results.trial(spec())
    for one in rows()[1:]:
        store.write_task(store.begin(), one.task, [one], {})
    store.finish(Verdict("finished", task=2), {"num_tasks": 3})
    gather.gather()
    assert sorted(results.files.sizes("data")) == ["README.md", "cells/all.parquet", "trials/all.parquet"]
    assert results.files.sizes("parts") == {}
