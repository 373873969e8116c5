"""A sweep file with a winner fixed asks for the final trials of the sweep that found it, by their very names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from results.made_results import Made

import raycl
from raycl.catalog import catalog
from raycl.errors import StoreError, UnknownName
from raycl.results.decisions import winner_path
from raycl.results.packing import pack
from raycl.results.winner_file import winner_file
from raycl.spec.sweep import SweepSpec

TEXT = """
name: tiny
stream: {name: split, dataset: digits, tasks: 3, classes_per_task: 2, scenario: class, train_per_task: 20}
model: {name: mlp, hidden: [{choice: [8, 12]}, 10]}
training: {batch_size: 32, epochs: 1, learning_rate: {loguniform: [0.001, 0.01]}}
memory: {capacity: 10}
limits: {max_state_bytes: 10000000}
strategies:
  naive: {}
  online:
    strategy: ewc
    penalty: 3
    mode: {choice: [online, separate]}
    online_decay: {uniform: [0.5, 1.0], when: {mode: online}}
  replay: {memory.capacity: {choice: [10, 20, 30]}, training.epochs: 2}
search: {trials: 2, generation: 2, startup: 2}
final: {seeds: [10, 11], baseline: naive}
resources: {cpus: 1}
"""
RUN = re.sub(r"(?s)  naive: .*?(?=  replay:)", "", TEXT).replace(", baseline: naive", "")
HIDDEN, RATE = "model.hidden.0", "training.learning_rate"


def won(folder: Path, alias: str, point: dict[str, Any], text: str = TEXT, **more: Any) -> Made:
    """A folder in which a point of a method has won."""
    made = Made(folder, text)
    for entry in made.sweep.entries:
        if entry.alias == alias:
            made.results.write_json_once(winner_path(entry), {"point": point, "value": 0.5, **more})
            made.results.write_json_once(f"suggestions/{entry.stored_as}/0000.json", {"point": point, "cutoffs": {}})
    return made


def final_names(sweep: SweepSpec, **points: Any) -> set[str]:
    """The names of the final trials of some entries at their points."""
    assert sweep.final is not None
    return {
        sweep.trial(sweep.find(alias), point, run, "final").hash
        for alias, found in points.items()
        for point in found
        for run in sweep.final.runs
    }


@pytest.mark.parametrize(
    ("alias", "point"),
    [
        ("naive", {HIDDEN: 12, RATE: 0.0023}),
        ("replay", {HIDDEN: 8, RATE: 0.001, "memory.capacity": 30}),
        ("online", {HIDDEN: 8, RATE: 1 / 300, "mode": "online", "online_decay": 0.7}),
        ("online", {HIDDEN: 12, RATE: 0.01, "mode": "separate"}),
    ],
)
def test_the_trials_are_those_of_the_winner(tmp_path: Path, alias: str, point: dict[str, Any]) -> None:
    made = won(tmp_path / "r", alias, point)
    text = winner_file(made.results, alias)
    fixed = SweepSpec.parse(text, catalog())
    assert (fixed.search, fixed.warnings, [entry.alias for entry in fixed.entries]) == (None, (), [alias])
    assert final_names(fixed, **{alias: [{}]}) == final_names(made.sweep, **{alias: [point]})
    assert "search" not in fixed.text.partition("\n")[2]


@pytest.mark.slow
def test_a_sweep_that_was_run_is_run_again_to_the_same_matrices(tmp_path: Path) -> None:
    ran = raycl.run(raycl.load_sweep(_written(tmp_path / "a.yaml", RUN)), tmp_path / "a", backend="here")
    pack(tmp_path / "a", tmp_path / "kept")
    for place in ("a", "kept"):
        text = winner_file(tmp_path / place, "replay")
        again = raycl.run(
            raycl.load_sweep(_written(tmp_path / f"{place}_2.yaml", text)), tmp_path / f"{place}_2", backend="here"
        )
        (line,) = again.table.lines
        before = next(one for one in ran.table.lines if one.alias == "replay")
        assert set(line.trials) == set(before.trials)
        assert line.by_seed == before.by_seed


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_variant_is_named_and_its_settings_are_written(tmp_path: Path) -> None:
    text = TEXT + "variants: {small: {memory.capacity: 5}, wide: {stream.scenario: task, training.batch_size: 16}}\n"
    point = {HIDDEN: 12, RATE: 0.0023}
    made = won(tmp_path / "r", "naive", point, text)
    with pytest.raises(
        StoreError, match=r"a winner in each variant, and a file holds one; name small/naive or wide/naive"
    ):
        winner_file(made.results, "naive")
    fixed = SweepSpec.parse(winner_file(made.results, "wide/naive"), catalog())
    assert fixed.name == "tiny_wide_naive"
    assert final_names(fixed, naive=[{}]) == {
        made.sweep.trial(made.sweep.entry("wide/naive"), point, seed, "final").hash for seed in (10, 11)
    }


def test_each_point_of_a_pareto_set_is_a_method(tmp_path: Path) -> None:
    text = TEXT.replace("{trials: 2,", "{metric: [average_accuracy, state_bytes], trials: 2,")
    points = [{HIDDEN: width, RATE: 0.002, "memory.capacity": 10 * width} for width in (8, 12)]
    points[1]["memory.capacity"] = 20
    points[0]["memory.capacity"] = 10
    won_by = [{"index": index, "point": point, "value": 0.5} for index, point in enumerate(points)]
    made = won(tmp_path / "r", "replay", points[0], text, pareto=won_by)
    fixed = SweepSpec.parse(winner_file(made.results, "replay"), catalog())
    assert [entry.alias for entry in fixed.entries] == ["replay_1", "replay_2"]
    assert final_names(fixed, replay_1=[{}], replay_2=[{}]) == final_names(made.sweep, replay=points)


def test_what_has_no_winner_says_what_to_do(tmp_path: Path) -> None:
    made = Made(tmp_path / "r", TEXT)
    with pytest.raises(StoreError, match="replay has no winner yet; `raycl resume` goes on with the search"):
        winner_file(made.results, "replay")
    with pytest.raises(UnknownName, match="did you mean 'replay'"):
        winner_file(made.results, "replai")
    table = Made(
        tmp_path / "t",
        TEXT.replace("search: {trials: 2, generation: 2, startup: 2}", "table: {points: 2}").replace(
            "final: {seeds: [10, 11], baseline: naive}\n", ""
        ),
    )
    with pytest.raises(StoreError, match="a table selects nothing, so naive has no winner"):
        winner_file(table.results, "naive")
    protocol = (
        "{trials: 2, generation: 2, startup: 2, protocol: {first_tasks: {tasks: 1, disjoint: true}}, inert: allow"
    )
    disjoint = Made(tmp_path / "d", TEXT.replace("{trials: 2, generation: 2, startup: 2", protocol))
    with pytest.raises(StoreError, match="which a file without a search cannot say"):
        winner_file(disjoint.results, "naive")
