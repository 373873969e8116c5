"""The figures in the heads of the papers' sweeps are those of the matrices that are kept beside them."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, median, stdev

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycl.catalog import catalog
from raycl.results.foreseen import ASSUMED
from raycl.results.reading import matrix_of
from raycl.spec.sweep import SweepSpec

ROOT = Path(__file__).parents[1]
KEPT = sorted(path.parent for path in (ROOT / "analysis" / "papers").glob("*/trials.parquet"))


def sweep_file(folder: Path) -> Path:
    return ROOT / "sweeps" / "papers" / f"{folder.name}.yaml"


def averages(folder: Path) -> dict[tuple[str, str], list[float]]:
    """Average accuracies in percent of the final trials, from their cells, by variant and method."""
    cells = pq.read_table(folder / "cells.parquet")
    by_trial: dict[str, list[int]] = defaultdict(list)
    for row, trial in enumerate(cells["trial"].to_pylist()):
        by_trial[trial].append(row)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    variants = SweepSpec.load(sweep_file(folder), catalog()).variants
    columns = ["trial", "variant", "alias", "phase", "num_tasks"]
    for trial in pq.read_table(folder / "trials.parquet", columns=columns).to_pylist():
        if trial["phase"] == "final":
            own = cells.take(pa.array(by_trial[trial["trial"]]))
            accuracy = matrix_of(own, trial["num_tasks"]).average_accuracy()
            variant = trial["variant"] if len(variants) > 1 else ""  # shared trials may come from a larger question
            found[variant, trial["alias"]].append(100 * accuracy)
    return found


@pytest.mark.parametrize("folder", KEPT, ids=lambda path: path.name)
def test_measured_figures_are_those_of_the_matrices(folder: Path) -> None:
    text = sweep_file(folder).read_text()
    for key, values in averages(folder).items():
        told = f"± {stdev(values):.2f}" if len(values) > 1 else "(1 seed)"
        assert f"{mean(values):.2f} {told}" in text, key


@pytest.mark.parametrize("folder", KEPT, ids=lambda path: path.name)
def test_the_matrices_answer_the_file_as_it_stands(folder: Path) -> None:
    metadata = pq.read_schema(folder / "trials.parquet").metadata
    answered = json.loads(metadata[b"raycl.sweep"])
    assert answered["file"] in ("", sweep_file(folder).name), "no path of a machine"
    asked = SweepSpec.load(sweep_file(folder), catalog()).pinned(answered.get("weights", {}))
    assert answered["hash"] == asked.hash


def test_matrices_are_kept() -> None:
    assert KEPT


def test_the_deviation_that_check_assumes_is_the_median_of_the_kept_matrices() -> None:
    several = [stdev(values) for folder in KEPT for values in averages(folder).values() if len(values) > 1]
    assert 0.8 < median(several) / (100 * ASSUMED) < 1.25
