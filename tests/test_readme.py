"""What the README shows is true: its sweep file is valid, its method works, its commands and files exist."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from support import counts, finish, matrix, trainer, trial

from raycl import checkpoint
from raycl.catalog import catalog
from raycl.cli import app
from raycl.errors import MethodError
from raycl.spec.sweep import SweepSpec
from raycl.strategies.registry import STRATEGIES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(language: str) -> str:
    """The only fenced block of a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture
def l2_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The README's method, as an installed package would bring it."""
    (tmp_path / "method_of_the_readme.py").write_text(block("python"))
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("l2_init", "method_of_the_readme:L2Init", STRATEGIES.group)
    monkeypatch.setitem(STRATEGIES._entries, "l2_init", point)
    yield
    sys.modules.pop("method_of_the_readme", None)


def test_the_sweep_file_is_valid() -> None:
    sweep = SweepSpec.parse(block("yaml"), catalog())
    assert sweep.warnings == ()
    assert {entry.alias: bool(entry.space) for entry in sweep.entries} == {
        "naive": True,
        "joint": False,
        "ewc": True,
        "replay": True,
        "replay_balanced": True,
    }


def test_the_method_of_the_readme_resumes_to_the_last_bit(l2_init: None) -> None:
    spec = trial("l2_init", options={"penalty": 1.0})
    straight = trainer(spec)
    rows = finish(straight)
    first = trainer(spec)
    begun = first.run_task()
    second = trainer(spec)
    second.load_state_dict(checkpoint.decode(checkpoint.encode(first.state_dict())))
    assert counts(begun + finish(second)) == counts(rows)
    for mine, theirs in zip(straight.strategy.network.parameters(), second.strategy.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)


DECAYED = {"weight_decay": 1e-2, "epochs": 1}


def test_the_method_of_the_readme_pulls_the_heads_of_earlier_tasks(l2_init: None) -> None:
    """Whether weights decay or not: what no loss reaches stays, and the pull reaches every row."""
    for training in ({"epochs": 1}, DECAYED):
        learning = trainer(trial("l2_init", "task", options={"penalty": 1.0}, training=training))
        learning.run_task()
        before = learning.strategy.network.head.weight[:2].detach().clone()
        learning.run_task()
        after = learning.strategy.network.head.weight[:2].detach()
        start = learning.strategy.start["head.weight"][:2]
        assert (after - start).norm() < 0.5 * (before - start).norm()


def test_a_pull_that_would_move_nothing_is_refused(l2_init: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same method without a word of which rows it reaches: its pull was lost wherever weights decayed."""
    monkeypatch.delattr(catalog().strategies.get("l2_init"), "learning_units")
    learning = trainer(trial("l2_init", "task", options={"penalty": 1.0}, training=DECAYED))
    learning.run_task()
    with pytest.raises(MethodError, match=r"l2_init: a gradient reaches rows .* \(in task 1, phase 'train'\)"):
        learning.run_task()
    finish(trainer(trial("l2_init", "task", options={"penalty": 0.0}, training=DECAYED)))


def test_the_method_of_the_readme_is_naive_without_its_penalty_and_stiff_with_it(l2_init: None) -> None:
    naive, free, stiff = (
        matrix(spec).accuracy
        for spec in (
            trial("naive"),
            trial("l2_init", options={"penalty": 0.0}),
            trial("l2_init", options={"penalty": 10.0}),
        )
    )
    assert np.array_equal(naive, free, equal_nan=True)
    assert stiff[-1, -1] < naive[-1, -1], "what may not move learns less"


def test_the_command_table_is_complete() -> None:
    known = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    assert set(re.findall(r"^\| `raycl (\w+)", README, re.MULTILINE)) == known


def test_every_linked_file_exists() -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^    make (\w+)", README, re.MULTILINE))
    assert {"quickstart", "test"} == named & targets == named
