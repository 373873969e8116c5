"""The sweep over all methods, with few updates and each method in one of its scenarios: searched, and scored."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raycl.catalog import catalog
from raycl.distributed import cluster
from raycl.distributed.environment import environment
from raycl.results.tables import comparison
from raycl.spec.sweep import SweepSpec
from raycl.sweep.run import run_sweep

FILE = Path(__file__).parents[2] / "sweeps" / "all_methods_digits.yaml"
REDUCED = {
    "iterations: 100": "iterations: 2",
    "trials: 3, generation: 3, startup: 3": "trials: 1, generation: 1, startup: 1",
    "tasks: 5": "tasks: 2",
    "seeds: [10, 11, 12]": "seeds: [10]",
    "capacity: 100": "capacity: 100, home: local",
}


def usual_scenario(name: str) -> str:
    """Class-incremental, or else the first that the method allows."""
    allowed = catalog().strategies.get(name).scenarios
    return next(scenario for scenario in ("class", "task", "domain") if scenario in allowed)


def reduced(scenario: str) -> SweepSpec:
    """The file with a few updates of those methods whose usual scenario this is."""
    text = FILE.read_text()
    for usual, small in REDUCED.items():
        assert text.count(usual) == 1, usual
        text = text.replace(usual, small)
    for name in catalog().strategies.names():
        if usual_scenario(name) != scenario:
            text = re.sub(rf"^  {name}: .*\n", "", text, flags=re.MULTILINE)
    for other in {"class", "domain", "task"} - {scenario}:
        text = re.sub(rf"^  {other}: {{stream.*\n", "", text, flags=re.MULTILINE)
    return SweepSpec.parse(text, catalog())


def test_every_registered_method_stands_in_the_sweep_in_all_its_scenarios() -> None:
    known, sweep = catalog().strategies, SweepSpec.load(FILE, catalog())
    able = {(entry.variant, entry.strategy) for entry in sweep.entries if not entry.barred}
    assert able == {(scenario, name) for name in known.names() for scenario in known.get(name).scenarios}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_method_is_searched_and_scored(tmp_path: Path) -> None:
    scored: list[str] = []
    with environment({"RAY_ADDRESS": ""}), cluster.connected("tests", None):
        for scenario in ("class", "task"):
            outcome = run_sweep(reduced(scenario), tmp_path / scenario)
            assert outcome.complete, outcome.reason
            lines = comparison(tmp_path / scenario).lines
            scored += [line.strategy for line in lines if line.scored_on == "test" and not line.failed]
    assert sorted(scored) == sorted(catalog().strategies.names())
