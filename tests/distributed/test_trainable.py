"""What a worker books as the method's, what it raises as lost, and when its process is of no more use. No cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from support import local_source, trial

from raycl.distributed import trainable
from raycl.distributed.trainable import TrialRunner
from raycl.errors import InfrastructureError
from raycl.results.store import ResultsFolder
from raycl.spec.sweep_options import ResourcesConfig
from raycl.spec.trial import TrialSpec
from raycl.trial import session
from raycl.trial.session import ASSERTED
from raycl.trial.trainer import Trainer

WITHOUT_GPU = pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Streams come from this process, and so have kept rows to: Ray would start by itself for the first actor."""
    monkeypatch.setattr(trainable.ShardNames, "from_dict", lambda data: None)
    monkeypatch.setattr(
        trainable, "RemoteSource", lambda names, stream, seed, train_on: local_source(stream, seed, None, train_on)
    )
    yield
    assert not ray.is_initialized()


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder.create(str(tmp_path / "results"), '{"name": "test"}', "0" * 16)


def job(results: ResultsFolder, spec: TrialSpec) -> dict[str, Any]:
    return {
        "registered": b"",
        "results": results.uri,
        "spec": spec.dumps(),
        "metric": "average_accuracy",
        "streams": {},
        "cutoffs": {},
    }


def worker(results: ResultsFolder, spec: TrialSpec) -> TrialRunner:
    made = object.__new__(TrialRunner)  # without Tune's own folders
    made.setup(job(results, spec))
    return made


def status(results: ResultsFolder, spec: TrialSpec) -> str | None:
    verdict = results.trial(spec).verdict()
    return None if verdict is None else verdict.status


def test_a_method_that_cannot_be_built_has_failed_with_a_traceback(results: ResultsFolder) -> None:
    spec = trial("icarl", memory={"capacity": 1, "home": "local"})
    assert worker(results, spec).step()["done"]
    assert status(results, spec) == "failed"
    assert "memory.capacity" in results.trial(spec).traceback()


def test_a_network_that_does_not_fit_is_lost(results: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trial("naive")

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore lines")

    monkeypatch.setattr(session, "Trainer", full)
    with pytest.raises(InfrastructureError, match=r"OutOfMemoryError: CUDA out of memory.*--max-concurrent"):
        worker(results, spec).step()
    assert status(results, spec) is None


@WITHOUT_GPU
def test_a_machine_without_a_working_gpu_is_named_and_no_trial_runs_on_its_cpu(results: ResultsFolder) -> None:
    spec = trial("naive", resources=ResourcesConfig(gpus=0.5))
    with pytest.raises(InfrastructureError, match=r"a trial asks for 0.5 GPUs, and torch .* finds none that works"):
        worker(results, spec).step()
    assert status(results, spec) is None
    assert results.trial(spec).rows() == []


def test_a_device_that_a_method_broke_fails_that_trial_alone(
    results: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a device-side assertion every call of the process fails: the next trial needs another process."""
    guilty, innocent = trial("naive"), trial("naive", seed=1)

    def asserting(self: Trainer) -> None:
        raise torch.AcceleratorError(f"CUDA error: {ASSERTED} triggered")

    monkeypatch.setattr(Trainer, "run_task", asserting)
    runner = worker(results, guilty)
    assert runner.step()["done"]
    assert status(results, guilty) == "failed"
    assert runner.reset_config(job(results, innocent))
    with pytest.raises(InfrastructureError, match="a new process takes over"):
        runner.step()
    assert status(results, innocent) is None


def test_a_worker_goes_on_after_an_ordinary_failure(results: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    guilty, innocent = trial("naive"), trial("naive", seed=1)
    runner = worker(results, guilty)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_task", lambda self: 1 / 0)
        assert runner.step()["done"]
    runner.reset_config(job(results, innocent))
    while not runner.step()["done"]:
        pass
    assert (status(results, guilty), status(results, innocent)) == ("failed", "finished")
