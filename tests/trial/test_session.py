"""One trial over its store: resume, judge, fail, and leave a verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import counts, finish, local_source, trainer, trial

import raycl
from raycl.catalog import catalog
from raycl.errors import InfrastructureError, MethodError, UnknownName
from raycl.matrix import AccuracyMatrix
from raycl.results import schema
from raycl.results.reading import read_trials
from raycl.results.remarks import remarks
from raycl.results.store import ResultsFolder
from raycl.results.trial_store import TrialStore
from raycl.spec.fingerprint import commit
from raycl.spec.trial import TrialSpec
from raycl.strategies.packnet import PackNet
from raycl.trial import session as module
from raycl.trial.provenance import trial_code
from raycl.trial.session import Progress, TrialSession
from raycl.trial.trainer import Trainer


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder.create(str(tmp_path / "results"), '{"name": "test"}', "0" * 16)


def session(spec: TrialSpec, store: TrialStore, **options: object) -> TrialSession:
    return TrialSession(local_source(spec.stream, spec.seed), store, **options)  # type: ignore[arg-type]


def to_the_end(session: TrialSession) -> list[Progress]:
    steps = [session.step()]
    while steps[-1].verdict is None:
        steps.append(session.step())
    return steps


def test_a_trial_leaves_its_rows_and_its_verdict(results: ResultsFolder) -> None:
    spec = trial("naive")
    steps = to_the_end(session(spec, results.trial(spec)))
    assert [step.task for step in steps] == [0, 1, 2]
    straight = finish(trainer(spec))
    assert counts(results.trial(spec).rows()) == counts(straight)
    verdict = results.trial(spec).verdict()
    assert verdict is not None
    assert verdict.status == "finished"
    assert verdict.value == steps[-1].metric


def test_judging_a_task_builds_no_matrix_of_all_tasks(results: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix after every task would make a trial's work grow with the cube of its tasks; one at the end is stored."""
    built: list[int] = []
    of = AccuracyMatrix.of
    monkeypatch.setattr(AccuracyMatrix, "of", lambda rows, num_tasks: (built.append(num_tasks), of(rows, num_tasks))[1])
    spec = trial("naive")
    assert len(to_the_end(session(spec, results.trial(spec)))) == 3
    assert built == [3]


@pytest.mark.parametrize("method", ["naive", "replay"])
def test_a_new_session_goes_on_where_the_last_one_stopped(results: ResultsFolder, method: str) -> None:
    spec = trial(method)
    first = session(spec, results.trial(spec))
    first.step()
    first.close()
    steps = to_the_end(session(spec, results.trial(spec)))
    assert [step.task for step in steps] == [1, 2]
    assert counts(results.trial(spec).rows()) == counts(finish(trainer(spec)))


def test_a_task_that_was_not_stored_is_learned_again(results: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trial("naive")
    first = session(spec, results.trial(spec))
    first.step()

    def lost(*_: object, **__: object) -> None:
        raise InfrastructureError("the disk went away")

    with monkeypatch.context() as patch:
        patch.setattr(TrialStore, "write_task", lost)
        with pytest.raises(InfrastructureError):
            first.step()
    steps = to_the_end(session(spec, results.trial(spec)))
    assert [step.task for step in steps] == [1, 2]
    assert counts(results.trial(spec).rows()) == counts(finish(trainer(spec)))


def test_a_trial_below_a_cutoff_prunes_itself_and_keeps_its_checkpoint(results: ResultsFolder) -> None:
    spec = trial("naive")
    steps = to_the_end(session(spec, results.trial(spec), cutoffs={1: 0.9}))
    assert steps[-1].task == 1
    assert steps[-1].verdict is not None
    assert steps[-1].verdict.status == "pruned"
    relaxed = to_the_end(session(spec, results.trial(spec), cutoffs={1: 0.1}))
    assert [step.task for step in relaxed] == [2], "a survivor under other cut-offs continues"
    assert counts(results.trial(spec).rows()) == counts(finish(trainer(spec)))


def test_ties_survive_and_the_last_task_is_never_pruned(results: ResultsFolder) -> None:
    spec = trial("naive")
    values = [step.metric for step in to_the_end(session(spec, results.trial(spec)))]
    again = trial("naive", seed=1)
    ties = {task: value for task, value in enumerate(values[:2]) if value is not None}
    assert to_the_end(session(spec, results.trial(spec), cutoffs=ties))[-1].verdict.status == "finished"  # type: ignore[union-attr]
    assert to_the_end(session(again, results.trial(again), cutoffs={2: 1.0}))[-1].verdict.status == "finished"  # type: ignore[union-attr]


def test_stored_rows_are_judged_before_anything_is_learned(
    results: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that died between the stored row and the report: the next one sees the cut-off at once."""
    spec = trial("naive")
    first = session(spec, results.trial(spec))
    first.step()
    first.step()
    monkeypatch.setattr(Trainer, "run_task", lambda self: pytest.fail("learned on"))
    last = session(spec, results.trial(spec), cutoffs={1: 0.9}).step()
    assert last.verdict is not None
    assert last.verdict.status == "pruned"


def test_a_failure_of_the_method_is_a_verdict(results: ResultsFolder) -> None:
    spec = trial("naive", training={"optimizer": "sgd", "learning_rate": 1e30})
    verdict = session(spec, results.trial(spec)).step().verdict
    assert verdict is not None
    assert verdict.status == "failed"
    assert "finite" in verdict.reason
    assert results.trial(spec).verdict() == verdict


def test_a_fault_of_infrastructure_is_no_verdict(results: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trial("naive")

    def lost(self: Trainer) -> None:
        raise InfrastructureError("a replay actor died")

    monkeypatch.setattr(Trainer, "run_task", lost)
    with pytest.raises(InfrastructureError):
        session(spec, results.trial(spec)).step()
    assert results.trial(spec).verdict() is None


def test_any_exception_of_a_method_is_its_failure(results: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trial("naive")

    def broken(self: Trainer) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(Trainer, "run_task", broken)
    verdict = session(spec, results.trial(spec)).step().verdict
    assert verdict is not None
    assert (verdict.status, verdict.reason) == ("failed", "IndexError: list index out of range")
    trace = results.trial(spec).traceback()
    assert trace.startswith("Traceback (most recent call last):")
    assert trace.endswith("IndexError: list index out of range\n")
    assert "in broken" in trace


def test_a_trial_that_did_not_fail_has_no_traceback(results: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trial("naive")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_task", lambda self: 1 / 0)
        session(spec, results.trial(spec)).step()
    assert "ZeroDivisionError" in results.trial(spec).traceback()
    results.trial(spec).reopen()
    assert results.trial(spec).traceback() == "", "it is tried again"
    to_the_end(session(spec, results.trial(spec)))
    assert results.trial(spec).traceback() == ""


DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver"
ASSERT = "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`"
SURROUNDINGS: dict[str, Exception] = {
    "memory": MemoryError(),
    "numpy": np._core._exceptions._ArrayMemoryError((10**9,), np.dtype("f8")),
    "device memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "allocator": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
    ),
    "driver": RuntimeError(DRIVER),
    "device": torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    "threads": RuntimeError("can't start new thread"),
    "plug-in": UnknownName("unknown strategy 'halved'"),
}
METHOD: dict[str, Exception] = {
    "shape": RuntimeError("mat1 and mat2 shapes cannot be multiplied (16x64 and 32x10)"),
    "index": RuntimeError(ASSERT),
    "value": ValueError("no such class"),
    "recursion": RecursionError("maximum recursion depth exceeded"),
}


def ends_with(results: ResultsFolder, error: Exception, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a trial ends in whose first task an error is raised."""
    spec = trial("naive")

    def failing(self: Trainer) -> None:
        raise error

    monkeypatch.setattr(Trainer, "run_task", failing)
    try:
        session(spec, results.trial(spec)).step()
    except InfrastructureError as lost:
        untold = results.trial(spec).verdict() is None
        one_line = len(str(lost).splitlines()) == 1  # the last line of a traceback is what a driver shows
        return "lost" if untold and one_line else "told"
    verdict = results.trial(spec).verdict()
    return "open" if verdict is None else verdict.status


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_a_machine_lacks_is_not_the_method_s_failure(
    results: ResultsFolder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        assert ends_with(results, SURROUNDINGS[name], patch) == "lost"
    to_the_end(session(trial("naive"), results.trial(trial("naive"))))
    verdict = results.trial(trial("naive")).verdict()
    assert verdict is not None
    assert verdict.status == "finished", "elsewhere it goes on"


@pytest.mark.parametrize("name", METHOD)
def test_what_a_method_does_wrong_is_its_failure(
    results: ResultsFolder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ends_with(results, METHOD[name], monkeypatch) == "failed"


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_booked_by_its_place_alone_it_would_be(
    results: ResultsFolder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrong variant: whatever is raised while a method learns is the method's."""
    monkeypatch.setattr(module, "says_nothing_of_the_method", lambda error: False)
    assert ends_with(results, SURROUNDINGS[name], monkeypatch) == "failed"


@pytest.mark.parametrize("folder", ["", "attempts", "ckpt", "manifests", "rows"])
def test_strangers_in_a_trial_s_folder_are_left_alone(results: ResultsFolder, folder: str) -> None:
    spec = trial("replay")
    first = session(spec, results.trial(spec))
    first.step()
    first.close()
    place = Path(results.uri, "trials", spec.hash, folder)
    for name in ("Thumbs.db", "0000 - Copy.json", "desktop.ini", "0000-0000 (1)"):
        (place / name).write_bytes(b"x")
    steps = to_the_end(session(spec, results.trial(spec)))
    assert [step.task for step in steps] == [1, 2]
    assert counts(results.trial(spec).rows()) == counts(finish(trainer(spec)))
    assert (place / "Thumbs.db").exists() == (folder in ("", "attempts")), "a finished trial drops the other folders"


def test_every_row_says_what_code_and_data_it_comes_from(results: ResultsFolder) -> None:
    spec = trial("replay")
    to_the_end(session(spec, results.trial(spec)))
    (row,) = read_trials(results).to_pylist()
    layout = local_source(spec.stream, spec.seed).layout
    assert (row["raycl"], row["commit"], row["data"]) == (raycl.__version__, commit(), layout.data_digest)
    assert row["code"] == " ".join(f"{part}:{name}" for part, name in trial_code(spec, catalog()).items())
    assert json.loads(row["provenance"])["packages"] == {}


PLAIN = {"training.active_logits": "seen", "model.head": "single", "model.classifier": "linear"}
OFFERED = {"memory.selection": "reservoir", "memory.insert": "first_epoch", "memory.batch_size": 16}


@pytest.mark.parametrize(
    ("method", "scenario", "blocks", "came_to"),
    [
        ("naive", "class", {}, PLAIN),
        ("naive", "task", {}, {**PLAIN, "training.active_logits": "own", "model.head": "per_task"}),
        ("naive", "domain", {"stream": {"boundaries": "hidden"}}, {**PLAIN, "training.active_logits": "all"}),
        ("replay", "class", {}, {**PLAIN, **OFFERED, "memory.combine": "union"}),
        ("replay", "class", {"memory": {"combine": "mean"}}, {**PLAIN, **OFFERED, "memory.combine": "mean"}),
        ("replay", "class", {"training": {"epochs": 1}}, {**PLAIN, **OFFERED, "memory.combine": "union"}),
        ("mir", "class", {}, {**PLAIN, **OFFERED, "memory.combine": "sum", "memory.batch_size": 10}),
        ("der", "class", {}, {**PLAIN, **OFFERED, "training.active_logits": "all", "memory.insert": "every_epoch"}),
        ("der", "domain", {}, {**PLAIN, **OFFERED, "training.active_logits": "all", "memory.insert": "every_epoch"}),
        (
            "er_ace",
            "class",
            {},
            {
                **PLAIN,
                **OFFERED,
                "memory.combine": "sum",
                "training.active_logits": "all",
                "model.classifier": "cosine",
            },
        ),
        ("icarl", "class", {}, {**PLAIN, "memory.selection": "ranked"}),
        ("icarl", "task", {}, {**PLAIN, "model.head": "per_task", "memory.selection": "ranked"}),
        ("gdumb", "class", {}, {**PLAIN, "memory.selection": "greedy"}),
    ],
)
def test_every_row_says_what_auto_came_to(
    results: ResultsFolder, method: str, scenario: str, blocks: dict[str, Any], came_to: dict[str, Any]
) -> None:
    """What decides nothing for a method is left out; a single epoch is every one, so ``insert`` says nothing."""
    spec = trial(method, scenario, **blocks)
    expected = dict(came_to)
    if spec.training.epochs == 1:
        del expected["memory.insert"]
    assert trainer(spec).resolved == expected
    session(spec, results.trial(spec)).step()
    (stored,) = (json.loads(path.read_text()) for path in Path(results.uri).glob("trials/*/manifests/*.json"))
    assert stored["extra"]["resolved"] == expected


def test_columns_of_hyperparameters_hold_what_auto_came_to(results: ResultsFolder) -> None:
    spec = trial("mir")
    to_the_end(session(spec, results.trial(spec)))
    (row,) = read_trials(results).to_pylist()
    names = trainer(spec).resolved
    assert {name: row[f"hp.{name}"] for name in names} == names
    assert names["memory.batch_size"] == 10


@pytest.mark.parametrize("incremental", [False, True])
def test_a_search_may_maximise_accuracy_over_all_images(results: ResultsFolder, incremental: bool) -> None:
    """On tasks of 4, 2 and 2 classes the mean over tasks, the mutant, is another number."""
    name = f"{'average_incremental_' if incremental else ''}accuracy"
    spec = trial("naive", stream={"first_task": 4})
    store = results.trial(spec)
    value = to_the_end(session(spec, store, metric=f"pooled_{name}"))[-1].metric
    learned = [row for row in store.rows() if row.task >= 0]
    seen = [slice(row.task + 1) for row in learned]
    pooled = [row.correct[own].sum() / row.total[own].sum() for row, own in zip(learned, seen, strict=True)]
    assert value == pytest.approx(sum(pooled) / 3 if incremental else pooled[-1])
    assert store.verdict().value == value  # type: ignore[union-attr]
    unpooled = AccuracyMatrix.of(learned, 3).metrics()
    assert abs(unpooled["average_incremental_accuracy" if incremental else "average_accuracy"] - value) > 0.02


def test_what_a_method_tells_of_itself_is_kept_and_logged_once(
    results: ResultsFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """Measures per task and after the last one, warnings in the provenance; also by a session that goes on."""
    spec = trial("packnet", "task", options={"prune_fraction": 0.0})
    first = session(spec, results.trial(spec))
    first.step()
    assert first._provenance()["warnings"][0].startswith("no weight of any layer is free")
    first.step()
    logged = [record for record in caplog.records if "no weight of any layer is free" in record.message]
    assert len(logged) == 1
    first.close()
    steps = to_the_end(session(spec, results.trial(spec)))
    assert [step.task for step in steps] == [2]
    assert [row.measures for row in results.trial(spec).rows()] == [{}, *[{"free_weights": 0.0}] * 3]
    (row,) = read_trials(results).to_pylist()
    assert row["measure.free_weights"] == 0.0
    (told,) = remarks([row], "mine")
    assert told.startswith("mine, seed 0: no weight of any layer is free"), "though no task is to come any more"


def test_methods_without_numbers_of_their_own_keep_the_columns_of_before(results: ResultsFolder) -> None:
    spec = trial("naive")
    to_the_end(session(spec, results.trial(spec)))
    rows = results.trial(spec).rows()
    assert schema.rows_table(rows).schema.equals(schema.ROWS)
    assert all(row.measures == {} for row in rows)
    told = [replace(row, measures={"free_units": 0.25}) for row in rows]
    assert schema.rows_of(schema.rows_table(told))[0].measures == {"free_units": 0.25}


def test_a_task_that_fails_halfway_tells_nothing_of_its_state(
    results: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a task of PackNet is learned it owns all that was free; nothing is used up by that."""
    spec = trial("packnet", "task")
    running = session(spec, results.trial(spec))
    running.step()

    def fails(self: PackNet, *_: object) -> None:
        raise MethodError("halfway")

    monkeypatch.setattr(PackNet, "after_update", fails)
    assert running.step().verdict is not None
    assert running.trainer.strategy.warnings(), "the mutant: asked in the middle of a task"
    assert "warnings" not in running._provenance()
