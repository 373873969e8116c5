"""A catalogue of one's own: a sweep that was read with it finds its parts there, all the way down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from raycl.catalog import Catalog, catalog
from raycl.errors import SpecError
from raycl.registry import Registry
from raycl.results.reading import read_trials
from raycl.results.store import ResultsFolder
from raycl.spec.fingerprint import fingerprint
from raycl.spec.own_files import import_code
from raycl.spec.setting import Registered
from raycl.spec.sweep import SweepSpec
from raycl.strategies.naive import Naive
from raycl.streams.source import load_images
from raycl.sweep.run import run_sweep
from raycl.trial.alone import run_trial
from raycl.trial.check import build_all, load_sweep

PARTS = """
from typing import Literal

import numpy as np
from torch import nn

from raycl.models.network import Network
from raycl.models.registry import Model
from raycl.spec.options import ModelConfig, StreamConfig
from raycl.strategies.naive import Naive
from raycl.streams.datasets import Images, Info
from raycl.streams.stream import Stream, TaskClasses


class Halved(Naive):
    def loss(self, batch):
        return {name: part / 2 for name, part in super().loss(batch).items()}


class Pairs(Stream):
    class Config(StreamConfig):
        name: Literal["pairs"] = "pairs"

    def tasks(self, num_classes):
        return tuple(TaskClasses(self.config.dataset, (2 * task, 2 * task + 1)) for task in range(self.config.tasks))


class Flat(ModelConfig):
    name: Literal["flat"] = "flat"


def build(config, image_shape, generator):
    return Network(nn.Flatten(), 16, generator)


class Bars:
    info = Info((1, 4, 4), 4, 80, 16)

    def load(self, data_root):
        def drawn(rows):
            labels = np.arange(rows, dtype=np.int64) % 4
            images = np.random.default_rng(rows).integers(0, 50, (rows, 1, 4, 4), dtype=np.uint8)
            images[np.arange(rows), 0, labels] += 200
            return images, labels

        return Images(*drawn(80), *drawn(16))


OWN = {
    "strategies": {"halved": (Halved, "")},
    "streams": {"pairs": (Pairs, "")},
    "datasets": {"bars": (Bars(), "")},
    "models": {"flat": (Model(Flat, build), "")},
}
"""

SWEEP = """\
name: own
stream: {name: pairs, dataset: bars, tasks: 2, scenario: class, validation_fraction: 0.2}
model: {name: flat}
training: {iterations: 30, batch_size: 8}
strategies: {halved: {training.learning_rate: {choice: [0.1, 0.2]}}, naive: {}}
search: {trials: 2}
final: {seeds: [10]}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    """Parts that nothing has registered, in a file of a user's."""
    file = tmp_path_factory.mktemp("own") / "parts_of_an_own_catalogue.py"
    file.write_text(PARTS)
    found: Registered = import_code(str(file)).OWN
    return found


@pytest.fixture
def mine(own: Registered) -> Catalog:
    return catalog().extended(own)


def columns(folder: Path) -> dict[str, list[Any]]:
    """What the trials of a folder have come to, by trial."""
    trials = read_trials(ResultsFolder.open(folder)).sort_by("trial")
    assert set(trials["status"].to_pylist()) == {"finished"}
    return {name: trials[name].to_pylist() for name in ("trial", "average_accuracy", "code", "data", "alias")}


def test_nothing_of_it_is_registered_for_others(mine: Catalog, own: Registered) -> None:
    for kind, named in own.items():
        assert all(name in getattr(mine, kind) and name not in getattr(catalog(), kind) for name in named)
    with pytest.raises(SpecError, match="unknown stream"):
        SweepSpec.parse(SWEEP, catalog())
    assert mine.beyond_installed().keys() == own.keys()
    assert all(mine.beyond_installed()[kind].keys() >= own[kind].keys() for kind in own)


def test_an_importable_entry_that_only_this_catalogue_lists_is_carried_too() -> None:
    listed = Registry[Any](
        "strategy", "none", {"naive": "raycl.strategies.naive:Naive", "plain": "raycl.strategies.naive:Naive"}
    )
    found = replace(catalog(), strategies=listed).beyond_installed()["strategies"]
    assert found == {"plain": (Naive, "")}


def test_a_sweep_is_checked_and_its_trials_are_built_of_it(mine: Catalog, own: Registered) -> None:
    sweep = SweepSpec.parse(SWEEP, mine)
    assert build_all(sweep) == ()
    trial = run_trial(sweep, "halved", phase="final")
    assert type(trial.strategy) is own["strategies"]["halved"][0]
    assert trial.network.backbone.__class__.__name__ == "Flatten"
    assert trial.matrix.num_tasks == 2
    assert trial.metrics["average_accuracy"] > 0.45, "bars of one task at the least"
    blocks: dict[str, Any] = yaml.safe_load(SWEEP)
    assert load_sweep(blocks, mine).hash == sweep.hash
    with pytest.raises(SpecError, match=r"strategies\.halved\.penalty: unknown key"):
        load_sweep({**blocks, "strategies": {"halved": {"penalty": 1}}}, mine)


def test_a_whole_sweep_runs_here_and_its_results_name_the_code(mine: Catalog, own: Registered, tmp_path: Path) -> None:
    sweep = SweepSpec.parse(SWEEP, mine)
    ending = run_sweep(sweep, tmp_path, backend="here")
    assert ending.complete, ending.reason
    assert ending.failed == ()
    found = columns(tmp_path)
    code = fingerprint(own["strategies"]["halved"][0])
    assert [f"strategy:{code}" in text for text in found["code"]] == [alias == "halved" for alias in found["alias"]]
    results = ResultsFolder.open(tmp_path)
    results.trial(next(results.specs())).restart()
    again = run_sweep(SweepSpec.parse(SWEEP, mine), tmp_path, backend="here")
    assert again.complete, again.reason
    assert again.notes == (), "the same code"
    assert columns(tmp_path) == found


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_on_ray_are_given_it(mine: Catalog, tmp_path: Path) -> None:
    for backend in ("here", "ray"):
        ending = run_sweep(SweepSpec.parse(SWEEP, mine), tmp_path / backend, backend=backend)
        assert ending.complete, ending.reason
    assert columns(tmp_path / "ray") == columns(tmp_path / "here")


def test_what_is_registered_later_changes_no_sweep_that_was_read(mine: Catalog, own: Registered) -> None:
    halved = own["strategies"]["halved"][0]
    sweep = SweepSpec.parse(SWEEP, mine)
    entry = sweep.find("halved")
    before = sweep.trial(entry, entry.middle, 0, "final").hash

    class Doubled(halved):  # type: ignore[misc,valid-type]
        def loss(self, batch: Any) -> Any:
            return {name: 4 * part for name, part in super().loss(batch).items()}

    mine.strategies.register("halved", Doubled)
    assert sweep.trial(entry, entry.middle, 0, "final").hash == before
    assert type(run_trial(sweep, "halved").strategy) is halved
    other = SweepSpec.parse(SWEEP, mine)
    assert other.trial(entry, entry.middle, 0, "final").hash != before
    assert type(run_trial(other, "halved").strategy) is Doubled


def test_data_sets_of_one_name_are_told_apart(own: Registered) -> None:
    bars, _ = own["datasets"]["bars"]
    shadowed = catalog().extended({"datasets": {"digits": (bars, "")}})
    usual = load_images("digits", None)
    assert load_images("digits", None, datasets=shadowed.datasets).image_shape == (1, 4, 4)
    assert np.array_equal(load_images("digits", None).train_images, usual.train_images)
    assert shadowed.beyond_installed()["datasets"]["digits"][0] is bars
