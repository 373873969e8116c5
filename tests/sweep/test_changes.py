"""Code that changed under a results folder is told, by name, and is repeated where that is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sweeping import attempts, decisions, ledger, parsed, play

import raycl.trial.provenance
from raycl.catalog import catalog
from raycl.registry import Registry
from raycl.results.reading import read_trials
from raycl.results.store import ResultsFolder
from raycl.spec.fingerprint import fingerprint
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec
from raycl.strategies.base import Strategy
from raycl.strategies.replay import Replay
from raycl.sweep.changes import changed_code, forget
from raycl.sweep.dispatch import Dispatcher
from raycl.sweep.plan import EntryPlan
from raycl.trial.provenance import trial_code

TEXT = """
name: small
stream: {name: split, dataset: digits, tasks: 5, scenario: class}
model: {name: mlp, hidden: [24]}
training: {iterations: 20}
strategies:
  naive: {training.learning_rate: {choice: [1e-3, 1e-2]}}
  ewc: {}
search: {trials: 2, startup: 2, seeds: [0]}
final: {seeds: [10, 11]}
"""


def run(sweep: SweepSpec, folder: Path) -> ResultsFolder:
    """Everything that the folder lacks, pretended."""
    book = ledger(sweep, folder)
    dispatcher = Dispatcher([EntryPlan(sweep, entry, book) for entry in sweep.entries], book, slots=4)
    play(dispatcher, book.results)
    return book.results


def told(results: ResultsFolder, name: str, code: dict[str, str], version: str = raycl.__version__) -> None:
    """Say of a trial that has ended which code it comes from, as a session does."""
    store = results.trial(next(spec for spec in results.specs() if spec.hash == name))
    verdict = store.verdict()
    assert verdict is not None
    text = " ".join(f"{part}:{digest}" for part, digest in code.items())
    store.finish(verdict, {"num_tasks": 5, "raycl": version, "code": text})


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    """A finished sweep whose trials come from this code."""
    results = run(parsed(TEXT), tmp_path / "results")
    for spec in list(results.specs()):
        told(results, spec.hash, trial_code(spec, catalog()))
    return results


def one(results: ResultsFolder, strategy: str) -> TrialSpec:
    return next(spec for spec in results.specs() if spec.strategy == strategy)


def test_equal_code_is_not_told(folder: ResultsFolder) -> None:
    assert changed_code(read_trials(folder), parsed(TEXT)) == []


@pytest.mark.parametrize("part", ["strategy", "model", "stream", "loop"])
def test_other_code_under_the_same_version_is_told_by_name(folder: ResultsFolder, part: str) -> None:
    spec = one(folder, "ewc")
    told(folder, spec.hash, {**trial_code(spec, catalog()), part: "0" * 16})
    (change,) = changed_code(read_trials(folder), parsed(TEXT))
    assert (change.strategy, change.parts, [s.hash for s in change.trials]) == ("ewc", (part,), [spec.hash])
    assert str(change).startswith(f"ewc: the code of its {part} has changed since 1 trial of this folder ended")
    assert "--rerun-changed" in str(change)


def test_a_released_upgrade_with_equal_revisions_is_not_told(folder: ResultsFolder) -> None:
    spec = one(folder, "ewc")
    told(folder, spec.hash, {**trial_code(spec, catalog()), "strategy": "0" * 16}, version="0.0.1")
    assert changed_code(read_trials(folder), parsed(TEXT)) == []


def test_code_of_another_package_is_told_whatever_the_versions(
    folder: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = one(folder, "ewc")
    told(folder, spec.hash, {**trial_code(spec, catalog()), "strategy": "0" * 16, "loop": "0" * 16}, version="0.0.1")
    package = lambda self, name: ("a_package", "1.0") if name == "ewc" else None  # noqa: E731
    monkeypatch.setattr(Registry, "package", package)
    (change,) = changed_code(read_trials(folder), parsed(TEXT))
    assert change.parts == ("strategy",)


def test_a_trial_of_an_earlier_name_is_not_told_and_stays(
    folder: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its method has a higher revision now: it stands beside no new trials, and repeating it would give others."""
    sweep, root = parsed(TEXT), Path(folder.uri)
    for spec in [spec for spec in folder.specs() if spec.strategy == "ewc"]:
        told(folder, spec.hash, {**trial_code(spec, catalog()), "strategy": "0" * 16})
    assert len(changed_code(read_trials(folder), sweep)) == 1
    monkeypatch.setattr(catalog().strategies.get("ewc"), "revision", 7)
    after = parsed(TEXT)
    assert changed_code(read_trials(folder), after) == []
    before = attempts(root)
    forget(changed_code(read_trials(folder), after), after, folder)
    assert attempts(root) == before
    assert len(read_trials(folder)) == 6


class Plugged(Replay):
    """A method of another package, made of one of raycl's."""


Plugged.__module__ = "another_package.methods"


def test_a_method_from_outside_has_the_classes_of_raycl_that_it_is_made_of() -> None:
    own = one_trial("replay")
    assert trial_code(own, catalog()).keys() == {"strategy", "model", "stream", "loop"}
    registered = Registry("strategy", "none", {})
    registered.register("plugged", Plugged)
    registered.register("replay", Replay)
    code = trial_code(own.model_copy(update={"strategy": "plugged"}), replace(catalog(), strategies=registered))
    assert code["bases"] == fingerprint(Replay, Strategy) != code["strategy"]


def one_trial(strategy: str) -> TrialSpec:
    sweep = parsed(TEXT.replace("ewc: {}", f"{strategy}: {{}}"))
    return sweep.trial(sweep.entry(strategy), {}, 0, "final")


def test_trials_of_before_a_part_was_recorded_say_nothing_of_it(folder: ResultsFolder) -> None:
    spec = one(folder, "ewc")
    told(folder, spec.hash, {"strategy": trial_code(spec, catalog())["strategy"]})
    assert changed_code(read_trials(folder), parsed(TEXT)) == []


def test_trials_of_before_the_code_was_recorded_say_nothing(tmp_path: Path) -> None:
    assert changed_code(read_trials(run(parsed(TEXT), tmp_path)), parsed(TEXT)) == []


def test_changed_trials_are_repeated_and_decided_anew(folder: ResultsFolder) -> None:
    sweep, root = parsed(TEXT), Path(folder.uri)
    spec = one(folder, "naive")
    told(folder, spec.hash, {**trial_code(spec, catalog()), "strategy": "0" * 16})
    before = decisions(root)
    assert forget(changed_code(read_trials(folder), parsed(TEXT)), sweep, folder) == ["naive"]
    assert decisions(root) == {}, "ewc decides nothing"
    run(sweep, root)
    repeated = {name for name, count in attempts(root).items() if count > 1}
    assert repeated == {spec.hash}
    assert decisions(root) == before
    assert len(read_trials(folder)) == 6


def test_other_code_of_a_trial_that_chose_as_it_went_is_told(tmp_path: Path) -> None:
    text = TEXT.replace("search: {trials: 2, startup: 2, seeds: [0]}", "search: {protocol: current_task, trials: 2}")
    results = run(parsed(text), tmp_path / "results")
    for spec in list(results.specs()):
        other = {"strategy": "0" * 8} if spec.choosing is not None else {}
        told(results, spec.hash, trial_code(spec, catalog()) | other)
    (change,) = changed_code(read_trials(results), parsed(text))
    assert change.strategy == "naive"
    assert all(spec.choosing is not None for spec in change.trials)
    assert changed_code(read_trials(results), parsed(text.replace("current_task", "seen_tasks"))) == []
