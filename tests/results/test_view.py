"""Results of several folders, and of packs: each row once, methods under their sweep, points as tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from results.made_results import HEAD, Made

from raycl.errors import StoreError
from raycl.results.packing import pack
from raycl.results.view import Results

METHOD = "{strategy: replay, memory.capacity: {choice: [50, 100, 200]}}"
TEXT = f"{HEAD}strategies: {{first: {METHOD}, second: {{strategy: naive}}}}\nsearch: {{trials: 3, seeds: [0]}}\n"
TEXT += "final: {seeds: [10, 11]}\n"


def made(folder: Path, name: str = "tiny", shift: float = 0.0) -> Made:
    found = Made(folder, TEXT.replace("name: tiny", f"name: {name}"))
    found.suggest("first", [50, 200, 100])
    for capacity, value in ((50, 50.0), (200, 60.0)):
        found.end("first", capacity, 0, value)
    found.end("first", 100, 0, None, reason="too deep")
    found.win("first", 200)
    for seed in (10, 11):
        found.end("first", 200, seed, 61.0 + seed + shift, "final")
        found.end("second", None, seed, 20.0, "final")
    return found


def test_the_points_of_a_search_are_a_table(tmp_path: Path) -> None:
    points = Results(made(tmp_path / "r").results).searches["first"]
    assert points.to_pylist() == [
        {"suggestion": 0, "status": "finished", "value": 0.5, "reason": None, "memory.capacity": 50},
        {"suggestion": 1, "status": "finished", "value": 0.6, "reason": None, "memory.capacity": 200},
        {"suggestion": 2, "status": "failed", "value": None, "reason": "too deep", "memory.capacity": 100},
    ]
    assert list(points.to_pandas().columns) == points.column_names


def test_a_pack_tells_what_its_folder_does(tmp_path: Path) -> None:
    folder = made(tmp_path / "r").results
    pack(folder, tmp_path / "pack")
    whole, packed = Results(folder), Results(tmp_path / "pack")
    assert packed.table.to_arrow().to_pylist() == whole.table.to_arrow().to_pylist()
    assert packed.winners["first"]["point"] == whole.winners["first"]["point"] == {"memory.capacity": 200}
    assert packed.cells.to_pylist() == whole.cells.to_pylist()
    assert {row["memory.capacity"]: row["value"] for row in packed.searches["first"].to_pylist()} == {
        50: 0.5,
        100: None,
        200: 0.6,
    }
    assert [len(group) for group in packed.compared.values()] == [2, 2]
    with pytest.raises(StoreError, match="a pack is read alone"):
        _ = packed.folders[0].identity


def test_several_folders_are_read_at_once_each_trial_once(tmp_path: Path) -> None:
    """The second folder has the same trials but for their results; the third is of another sweep."""
    one, same = made(tmp_path / "a"), made(tmp_path / "b", shift=1.0)
    results = Results(one.results, same.results)
    assert results.trials.num_rows == Results(one.results).trials.num_rows == 7
    assert list(results.methods) == ["tiny:1/first", "tiny:2/first", "tiny:1/second", "tiny:2/second"]
    other = Results(str(tmp_path / "a"), made(tmp_path / "c", "other").results)
    assert set(other.searches) == set(other.winners) == set(other.spaces) == {"tiny/first", "other/first"}
    assert set(other.compared) == {"tiny/first", "tiny/second", "other/first", "other/second"}
    assert [sweep.name for sweep in other.sweeps] == ["tiny", "other"]
    with pytest.raises(StoreError, match="results of 2 sweeps"):
        _ = other.sweep


def test_a_uri_is_as_good_as_a_path(tmp_path: Path) -> None:
    made(tmp_path / "a")
    assert Results((tmp_path / "a").as_uri()).trials.num_rows == 7


def test_no_folder_is_refused() -> None:
    with pytest.raises(StoreError, match="of a folder at least"):
        Results()
