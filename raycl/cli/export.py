"""What ``raycl export`` does: the backbone of a finished trial as a file of pretrained weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from raycl.catalog import catalog
from raycl.cli.terminal import tell
from raycl.errors import DataError, StoreError
from raycl.models.weights import WEIGHTS_SUFFIX, Weights, load_weights, weights_hash, write_weights
from raycl.results.decisions import read_winner
from raycl.results.store import ResultsFolder
from raycl.spec.choosing import chooses, choosing_trial
from raycl.spec.options import ModelConfig
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec
from raycl.streams.contents import CONTENTS, told
from raycl.streams.later import later_tasks
from raycl.streams.source import LocalSource
from raycl.sweep.choosing import candidates
from raycl.sweep.ledger import Ledger
from raycl.trial import checkpoint
from raycl.trial.loading import normalization

BACKBONE = "backbone."
NOT_THE_BACKBONE = frozenset(ModelConfig.model_fields) - {"name"}
"""What every model has: its head, and where it starts. Its own options say what is exported."""

log = logging.getLogger(__name__)


def export(folder: str, strategy: str, file: Path, seed: str | None, data_root: Path | None) -> None:
    """Write the backbone that the winner of a strategy has after its last task, and say what it is.

    Raises:
        UnknownName: the sweep has no such method.
        StoreError: the trial has not finished, or keeps no checkpoint.
        DataError: the trial has no single backbone over images, or its data are no longer those it learned from.
    """
    if not file.name.endswith(WEIGHTS_SUFFIX):
        raise DataError(f"a file of weights is called *{WEIGHTS_SUFFIX} (got {file.name}); rename it")
    results = ResultsFolder.open(folder)
    spec = _trial(results, strategy, seed)
    state = _state(results, spec)
    weights = _weights(results, spec, state, data_root)
    write_weights(file, weights)
    parameters = sum(tensor.numel() for tensor in weights.tensors.values())
    digest = weights_hash(str(file.absolute()), None)
    tell(f"{file}: {weights.model['name']}, {parameters:,} numbers, SHA-256 {digest}")


def _trial(results: ResultsFolder, strategy: str, seed: str | None) -> TrialSpec:
    """The trial of the strategy's winner for a final seed, by its label, by default the first."""
    sweep = SweepSpec.loads(results.sweep_json, catalog())
    entry = sweep.find(strategy)
    if sweep.table is not None:
        raise StoreError(f"{results.files.name('')}: a table selects nothing, so {entry.key} has no winner to export")
    runs = {run.label: run for run in sweep.final.runs} if sweep.final else {}
    chosen = next(iter(runs), None) if seed is None else seed
    if chosen is None or chosen not in runs:
        raise StoreError(
            f"{results.files.name('')}: exports a trial of the final phase, whose seeds are [{', '.join(runs)}] "
            f"(got {seed})"
        )
    if chooses(sweep, entry):
        return choosing_trial(sweep, entry, candidates(sweep, entry, Ledger(results)), runs[chosen])
    winner = read_winner(results.read_json, sweep, entry)
    if winner is None:
        raise StoreError(
            f"{results.files.name('')}: {entry.key} has no winner yet; `raycl resume` goes on with the search"
        )
    return sweep.trial(entry, winner["point"], runs[chosen], "final")


def _state(results: ResultsFolder, spec: TrialSpec) -> dict[str, Any]:
    """What the trial kept after its last task."""
    store = results.trial(spec)
    verdict = store.verdict()
    name = f"{results.files.name('')}: trial {spec.hash} of {spec.alias}, seed {spec.seed_label},"
    if verdict is None or verdict.status != "finished":
        found = "has not ended" if verdict is None else verdict.status
        raise StoreError(f"{name} must have finished (it {found}); `raycl resume` goes on with the sweep")
    restored = store.restore()
    if restored is None or restored[0].task != verdict.task:
        raise StoreError(
            f"{name} has dropped its checkpoint, as finished trials do; set final.keep_checkpoints: true in the sweep "
            "file and run it into another results folder"
        )
    state = checkpoint.decode(restored[1])
    return state if spec.choosing is None else dict(state["committed"])


def _weights(results: ResultsFolder, spec: TrialSpec, state: dict[str, Any], data_root: Path | None) -> Weights:
    """The backbone with all that is needed to use it on other images."""
    known = catalog()
    setting = spec.setting(known)
    source = LocalSource(known, setting.stream, spec.run_seeds, data_root, spec.train_on)
    layout = later_tasks(source, spec.skipped_tasks, setting.stream.normalize).layout
    if layout.split_hash != state["split_hash"]:
        raise DataError(
            f"the data under {data_root} are not those that trial {spec.hash} learned from (split {layout.split_hash} "
            f"now, {state['split_hash']} then); give --data-root their folder"
        )
    if setting.stream.encode is not None:
        raise DataError(f"{spec.alias} learned from features; a backbone is exported from a stream without encode")
    network: dict[str, Tensor] = state["strategy"].get("network", {})
    tensors = {key.removeprefix(BACKBONE): value for key, value in network.items() if key.startswith(BACKBONE)}
    if not tensors:
        raise DataError(f"{spec.strategy} keeps no single network with a backbone; export a method that does, as joint")
    mean, std = normalization(setting.stream.normalize, layout)
    model = {key: value for key, value in spec.model.items() if key not in NOT_THE_BACKBONE}
    origin = {
        "sweep": results.name,
        "trial": spec.hash,
        "strategy": spec.strategy,
        "seed": spec.run_seeds.told,
        "stream": spec.stream,
        "split_hash": layout.split_hash,
        CONTENTS: told(layout.contents),
        "started_from": setting.model.weights_hash,
        "start": _start(setting.model, data_root),
    }
    return Weights(model, layout.image_shape, tuple(mean), tuple(std), tensors, origin)


def _start(model: ModelConfig, data_root: Path | None) -> dict[str, Any] | None:
    """The origin of the weights that the trial itself started from: what they have learned from is learned here too."""
    if model.weights is None:
        return None
    try:
        return dict(load_weights(model.weights, data_root, model.weights_hash).origin)
    except DataError as error:
        log.warning("what %s had learned from is not told in the exported file: %s", model.weights, error)
        return None
