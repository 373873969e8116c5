"""Sweeps whose trials start from pretrained weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pretraining import made
from support import local_source

from raycl.catalog import catalog
from raycl.models.weights import write_weights
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec
from raycl.sweep.backend import RunOptions
from raycl.sweep.run import run_sweep
from raycl.trial.trainer import Trainer

FROM_START: dict[str, dict[str, Any]] = {
    "hypernetwork": {"freeze": "from_start", "layer": "2"},
    "hypernetwork_tir": {"freeze": "from_start", "layer": "2"},
    "feature_extraction": {"freeze": "from_start"},
    "latent_replay": {"freeze": "from_start"},
    "cwr": {"freeze": "from_start"},
    "ar1": {"freeze": "from_start", "trunk_learning_rate": 0.0},
    "ar1_latent_replay": {"freeze": "from_start"},
    "generative_negative_replay": {"freeze": "from_start"},
    "piggyback": {"freeze": "from_start"},
}
"""Methods with a part that is frozen, which a pretrained backbone can be from the first task on."""

SWEEP = """\
name: start
stream: {{name: split, dataset: digits, tasks: 5, scenario: class, train_per_task: 40{encode}}}
model: {{name: mlp, hidden: [12]{weights}}}
training: {{batch_size: 32, epochs: 2}}
memory: {{capacity: 20}}
strategies:
  naive: {{}}
  replay: {{}}
final: {{seeds: [10, 11]{keep}}}
"""


def text(encode: str = "", weights: str = "", keep: bool = False) -> str:
    return SWEEP.format(
        encode=f", encode: {{weights: {encode}}}" if encode else "",
        weights=f", weights: {weights}" if weights else "",
        keep=", keep_checkpoints: true" if keep else "",
    )


def parsed(**parts: Any) -> SweepSpec:
    return SweepSpec.parse(text(**parts), catalog())


def first(sweep: SweepSpec) -> TrialSpec:
    return sweep.trial(sweep.entries[0], {}, 10, "final")


def started(spec: TrialSpec, root: Path | None) -> Trainer:
    return Trainer(spec, local_source(spec.stream, spec.seed, root, spec.train_on), data_root=root)


def learned_from(root: Path, name: str, **origin: Any) -> str:
    """A file of weights that says where it comes from."""
    write_weights(root / name, replace(made(), origin=origin))
    return name


def run(folder: Path, sweep: SweepSpec, root: Path | None = None) -> None:
    """A whole sweep, in this process."""
    options = RunOptions(data_root=None if root is None else str(root))
    assert run_sweep(sweep, folder, backend="here", options=options, trackers=()).complete
