"""The sweep files that come with raycl: each is valid, says what it asks, what to expect and what it costs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raycl.catalog import catalog
from raycl.spec.sweep import SweepSpec

FOLDER = Path(__file__).parents[1] / "sweeps"
SWEEPS = sorted(FOLDER.rglob("*.yaml"))
ALL_METHODS = FOLDER / "all_methods_digits.yaml"
"""The one sweep whose methods cannot all do all of its scenarios."""


def head(text: str) -> str:
    """The comment before the first key, as running text."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return "\n".join(lines)


def place(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


@pytest.mark.parametrize("path", SWEEPS, ids=place)
def test_a_sweep_is_valid_and_no_warning_is_left(path: Path) -> None:
    sweep = SweepSpec.load(path, catalog())
    assert sweep.name == path.stem
    assert sweep.warnings == ()
    assert all(entry.barred is None for entry in sweep.entries) or path == ALL_METHODS
    assert len(sweep.entries) >= (4 if path.parent == FOLDER else 2), "a comparison"
    for entry in sweep.entries:
        seeds = sweep.runs(entry).final if sweep.table is None else len(sweep.table.runs)
        assert entry.barred or seeds >= 3, "a mean over seeds"
    again = SweepSpec.loads(sweep.dumps(), catalog())
    assert again.hash == sweep.hash


@pytest.mark.parametrize("path", SWEEPS, ids=place)
def test_a_sweep_says_what_it_asks_what_to_expect_and_what_it_costs(path: Path) -> None:
    text = head(path.read_text())
    assert "?" in text.split("Command:")[0], "the question comes first"
    assert re.search(rf"^Command:\s+raycl run sweeps/{place(path)}", text, re.MULTILINE)
    assert re.search(r"^Expected:\s.*\d", text, re.MULTILINE)
    assert re.search(r"arXiv \d{4}\.\d{5}", text), "the paper"
    assert re.search(r"^Cost:\s.*(minute|hour).* cores", text, re.MULTILINE)


def test_the_quick_start_searches_strength_size_and_embeddings() -> None:
    sweep = SweepSpec.load(next(path for path in SWEEPS if path.stem == "quickstart"), catalog())
    searched = {f"{entry.alias}.{name}" for entry in sweep.entries for name in entry.space}
    assert {"ewc.penalty", "replay.memory.capacity", "hypernetwork.task_embedding_dim"} <= searched
    assert len(sweep.entries) == 6
    assert sweep.stream.dataset == "digits", "no download"


def test_the_files_are_found() -> None:
    assert {"quickstart", "split_mnist_class", "ewc", "hsu2018_split_mnist"} <= {path.stem for path in SWEEPS}


@pytest.mark.parametrize("name", catalog().strategies.names())
def test_every_method_has_a_sweep_of_its_own(name: str) -> None:
    sweep = SweepSpec.load(FOLDER / "methods" / f"{name}.yaml", catalog())
    assert name in {entry.strategy for entry in sweep.entries}
    assert len({entry.strategy for entry in sweep.entries}) > 1 or name in ("joint", "cumulative"), "beside another"
