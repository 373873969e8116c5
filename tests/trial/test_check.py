"""What only a built network can refuse, from the command and from Python, building no more than a look is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mistakes import TINY

from raycl.catalog import catalog
from raycl.errors import SpecError
from raycl.spec.sweep import SweepSpec
from raycl.sweep.run import run_sweep
from raycl.trial import check as dry_build
from raycl.trial.check import Budget, TooLarge, build_all, checked

DEEP = TINY.replace("name: mlp, hidden: [10]", "name: cnn, channels: [4, 4, 4, 4]")
PLACE = "tiny.yaml:3:30: model.channels: images of 8 x 8 pixels can be halved fewer times"
SENSELESS = TINY.replace("epochs: 1", "epochs: 1, momentum: {uniform: [0, 0.9]}")
NOTHING = "tiny.yaml:4:39: training.momentum: is searched, but does nothing"


def parsed(text: str) -> SweepSpec:
    return SweepSpec.parse(text, catalog(), "tiny.yaml")


def stored(text: str) -> SweepSpec:
    """A sweep as it comes from a results folder that was made before anything refused it."""
    told = json.loads(parsed(TINY).dumps())
    return SweepSpec.loads(json.dumps({**told, "text": text}), catalog())


@pytest.mark.parametrize(("text", "place"), [(DEEP, PLACE), (SENSELESS, NOTHING)])
def test_a_run_from_python_refuses_what_the_command_refuses(tmp_path: Path, text: str, place: str) -> None:
    sweep = stored(text)
    with pytest.raises(SpecError) as error:
        run_sweep(sweep, tmp_path / "results", backend="here")
    assert str(error.value).startswith(place)
    assert not (tmp_path / "results").exists(), "before anything is written"


def test_mutant_a_run_that_does_not_look() -> None:
    """What was done before: neither reading nor building anything of a stored sweep found its problem."""
    assert stored(DEEP).entries
    assert stored(SENSELESS).entries
    with pytest.raises(SpecError):
        checked(stored(SENSELESS))
    assert checked(parsed(TINY)) == parsed(TINY) or parsed(TINY).hash == checked(parsed(TINY)).hash


def test_a_budget_counts_before_it_allocates() -> None:
    with Budget(1_000) as budget:
        torch.nn.Linear(9, 100)
    assert budget.used == 1_000
    for size in ((10**7, 10**7), (2**40,)):  # nobody has this memory
        with pytest.raises(TooLarge), Budget(10**6):
            torch.empty(size)
    for make in (torch.eye, torch.zeros, lambda n: torch.ones(3).new_zeros(n, n), lambda n: torch.rand(n, 9)):
        with pytest.raises(TooLarge), Budget(1_000):
            make(1_001)


def test_what_is_too_large_is_told_and_the_rest_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_build, "LARGEST_BUILD", 1_000)
    text = TINY.replace("naive: {}", "naive: {model.hidden: [200]}")
    (note,) = build_all(parsed(text))
    assert note.startswith("tiny.yaml:6:10: strategies.naive: is not built here, having more than")
    monkeypatch.setattr(dry_build, "LARGEST_TOTAL", 1_000)
    notes = build_all(parsed(TINY))
    assert [note.split(":")[3].strip() for note in notes] == ["strategies.ewc"], "650 weights and a head fit once"


def test_equal_methods_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr(dry_build, "_build", lambda sweep, entry: built.append(entry.key))
    text = TINY.replace("  naive: {}\n", "".join(f"  n{index}: {{strategy: naive}}\n" for index in range(9)))
    assert build_all(parsed(text)) == ()
    assert built == ["n0", "ewc"]
    monkeypatch.setattr(dry_build, "MOST_BUILDS", 1)
    assert build_all(parsed(text)) == ("strategies: the first 1 methods were built to be checked, of more",)
