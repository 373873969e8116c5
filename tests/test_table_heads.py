"""The figures in the heads of the tables are what simulated searches choose on the packs beside them."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import heads
import pyarrow.parquet as pq
import pytest
import table_heads

from raycl.catalog import catalog
from raycl.results.landscapes import read_table
from raycl.results.packing import TESTED_FILE
from raycl.spec.sweep import SweepSpec

KEPT = heads.kept(table_heads.PACKS)
ALL = sorted((heads.ROOT / "sweeps" / "tables").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT)
def test_a_head_is_what_the_program_writes(name: str) -> None:
    text = heads.sweep_file(name, table_heads.PACKS).read_text()
    assert table_heads.rewritten(text, KEPT[name]) == text


@pytest.mark.parametrize("file", ALL, ids=lambda path: path.stem)
def test_only_what_has_a_pack_is_measured(file: Path) -> None:
    text = file.read_text()
    assert (f"# Pack:      analysis/tables/{file.stem}" in text) == ("# Measured:" in text) == (file.stem in KEPT)
    assert all(len(line) <= 120 for line in text.splitlines())


@pytest.mark.parametrize("name", KEPT)
def test_the_pack_answers_the_file_whole_and_fast(name: str) -> None:
    folder = KEPT[name]
    read_table(folder)
    started = time.process_time()
    table = read_table(folder)
    assert time.process_time() - started < 1
    assert table.sweep.hash == SweepSpec.load(heads.sweep_file(name, table_heads.PACKS), catalog()).hash
    asked = table.sweep.table
    assert asked is not None
    for method in table.methods.values():
        assert len(method.points) == asked.points
        assert all(method.tested(place, table.seeds, "average_accuracy") is not None for place in range(asked.points))
    assert sum(file.stat().st_size for file in folder.iterdir()) < 10_000_000


def test_a_changed_cell_changes_the_head(tmp_path: Path) -> None:
    """Test accuracies of a pack as they would be with all answers wrong."""
    name, source = next(iter(KEPT.items()))
    folder = Path(shutil.copytree(source, tmp_path / name))
    tested = pq.read_table(folder / TESTED_FILE)
    wrong = tested.set_column(tested.schema.get_field_index("correct"), "correct", [[0] * tested.num_rows])
    pq.write_table(wrong.cast(tested.schema), folder / TESTED_FILE)
    table = read_table(folder)
    assert all(method.tested(0, table.seeds, "average_accuracy") == 0 for method in table.methods.values())
