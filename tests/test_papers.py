"""The figures in the heads of the papers' sweeps are those of the matrices that are kept beside them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from functools import cache
from itertools import permutations
from pathlib import Path
from statistics import median

import heads
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raycl.catalog import catalog
from raycl.results.collected import by_trial
from raycl.results.foreseen import ASSUMED
from raycl.results.packing import CELLS_FILE, TRIALS_FILE
from raycl.results.reading import matrix_of
from raycl.results.statistics import Difference, Interval, deviation
from raycl.spec.sweep import SweepSpec

KEPT = heads.kept()
HEADS = sorted((heads.ROOT / "sweeps" / "papers").glob("*.yaml"))
FIGURE = re.compile(r"\d+\.\d\d ± \d+\.\d\d|(?<![\d.])\d+\.\d\d(?!\d)")
ELSEWHERE = re.compile(r"published|\bpaper \d|authors|bare loop|not in the pack", re.IGNORECASE)
"""What a line says whose figures are no measurements of the pack."""


@cache
def pack_of(name: str) -> heads.Pack:
    return heads.read_pack(KEPT[name], heads.sweep_file(name))


def text_of(name: str) -> str:
    return heads.sweep_file(name).read_text()


def told(text: str) -> list[str]:
    """The lines of a head that say what was measured."""
    lines = text.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(heads.PACK)) + 1
    return lines[start : next(place for place, line in enumerate(lines) if not line.startswith("#"))]


def without_cells(text: str, pack: heads.Pack) -> Iterator[tuple[str, str]]:
    """The name of each row of a table and what stands behind its cells; of other lines no name, and the line."""
    table = None
    for line in told(text):
        found = heads.parts(line)
        if heads.is_titles(found, pack):
            table = heads.Table(found, pack)
        elif table is not None and table.names(found[0]):
            yield found[0], "   ".join(found[1 + len(table.titles) :])
        else:
            table = None
            yield "", line


def computed(name: str) -> set[str]:
    """Figures of a pack: of each trial, those of the search too; means, and with intervals, also of differences."""
    pack, cells = pack_of(name), by_trial(pq.read_table(KEPT[name] / CELLS_FILE))
    sizes = pq.read_table(KEPT[name] / TRIALS_FILE, columns=["trial", "num_tasks"]).to_pylist()
    singles = [100 * matrix_of(cells[one["trial"]], one["num_tasks"]).average_accuracy() for one in sizes]
    singles += [value for own in pack.figures.values() for value in own.values()]
    intervals = [found for own in pack.figures.values() if (found := Interval.of(own.values()))]
    singles += [found.mean for found in intervals]
    pairs = permutations(pack.figures.items(), 2)
    differences = [Difference.of(one, other) for ((_, name), one), ((_, same), other) in pairs if name == same]
    intervals += [difference.interval for difference in differences if difference]
    return {f"{abs(one.mean):.2f} ± {one.margin:.2f}" for one in intervals} | {f"{value:.2f}" for value in singles}


def unexplained(text: str, name: str) -> list[str]:
    """Lines outside of tables with figures that are neither of the pack nor said to be of anything else."""
    known = computed(name)
    lines = [line for _, line in without_cells(text, pack_of(name)) if not ELSEWHERE.search(line)]
    return [line for line in lines if "±" in FIGURE.sub("", line) or not known.issuperset(FIGURE.findall(line))]


@pytest.mark.parametrize("name", KEPT)
def test_a_head_has_the_figures_of_its_pack(name: str) -> None:
    assert text_of(name) == heads.rewritten(text_of(name), pack_of(name)), f"python tests/heads.py {name}"


@pytest.mark.parametrize("name", KEPT)
def test_every_method_that_was_measured_has_a_row(name: str) -> None:
    rows = {row for row, _ in without_cells(text_of(name), pack_of(name))}
    assert all(key in rows or key.rpartition("/")[2] in rows for key in pack_of(name).winners)


@pytest.mark.parametrize("name", KEPT)
def test_figures_outside_of_tables_are_of_the_pack_or_say_where_they_are_from(name: str) -> None:
    assert unexplained(text_of(name), name) == []


@pytest.mark.parametrize("file", HEADS, ids=lambda file: file.stem)
def test_a_head_without_a_pack_gives_no_figures_as_measured(file: Path) -> None:
    assert ("# Pack:" in file.read_text()) == (file.stem in KEPT)
    assert file.stem in KEPT or "# Measured:" not in file.read_text()


@pytest.mark.parametrize("file", HEADS, ids=lambda file: file.stem)
def test_lines_of_a_head_are_no_wider_than_code(file: Path) -> None:
    assert max(len(line) for line in file.read_text().splitlines() if line.startswith("#")) <= 120


@pytest.mark.parametrize("name", KEPT)
def test_metrics_of_the_trials_are_those_of_their_matrices(name: str) -> None:
    cells = by_trial(pq.read_table(KEPT[name] / CELLS_FILE))
    for trial in pq.read_table(KEPT[name] / TRIALS_FILE).to_pylist():
        metrics = matrix_of(cells[trial["trial"]], trial["num_tasks"]).metrics()
        for metric in ("average_accuracy", "forgetting", "learning_accuracy", "backward_transfer"):
            assert metrics[metric] == pytest.approx(trial[metric], abs=1e-12, nan_ok=True) or trial[metric] is None


@pytest.mark.parametrize("name", KEPT)
def test_the_matrices_answer_the_file_as_it_stands(name: str) -> None:
    metadata = pq.read_schema(KEPT[name] / TRIALS_FILE).metadata
    answered = json.loads(metadata[b"raycl.sweep"])
    assert answered["file"] in ("", heads.sweep_file(name).name), "no path of a machine"
    asked = SweepSpec.load(heads.sweep_file(name), catalog()).pinned(answered.get("weights", {}))
    assert answered["hash"] == asked.hash


def test_matrices_are_kept() -> None:
    assert KEPT


def test_the_deviation_that_check_assumes_is_the_median_of_the_kept_matrices() -> None:
    figures = [found for name in KEPT for found in pack_of(name).figures.items()]
    several = [deviation([*own.values()]) for (_, metric), own in figures if metric == "average_accuracy"]
    assert 0.8 < median(value for value in several if value == value) / (100 * ASSUMED) < 1.25


# -- what would go wrong unseen ------------------------------------------------------------------------------------

SMALL, LARGE = "hsu2018_rehearsal", "hsu2018_split_mnist"


def test_a_figure_that_was_changed_is_seen() -> None:
    changed = text_of(SMALL).replace("95.02 ± 0.70", "95.20 ± 0.70")
    assert changed != text_of(SMALL)
    assert heads.rewritten(changed, pack_of(SMALL)) == text_of(SMALL)


@pytest.mark.parametrize("figure", ["26.38", "26.83 ± 0.50", "about 27 ± 1"])
def test_a_figure_outside_of_tables_that_no_trial_has_is_seen(figure: str) -> None:
    changed = text_of(LARGE).replace("26.83", figure)
    assert heads.rewritten(changed, pack_of(LARGE)) == changed, "a table does not say so"
    (line,) = unexplained(changed, LARGE)
    assert figure in line


def test_a_cell_that_was_changed_is_seen(tmp_path: Path) -> None:
    folder = shutil.copytree(KEPT[SMALL], tmp_path / SMALL)
    cells = pq.read_table(folder / CELLS_FILE)
    last = pc.and_(pc.equal(cells["train_task"], 4), pc.equal(cells["eval_task"], 0))
    fewer = pc.if_else(last, pc.subtract(cells["correct"], 100), cells["correct"])
    pq.write_table(cells.set_column(cells.schema.get_field_index("correct"), "correct", fewer), folder / CELLS_FILE)
    assert heads.rewritten(text_of(SMALL), heads.read_pack(folder, heads.sweep_file(SMALL))) != text_of(SMALL)
