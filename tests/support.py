"""Small trials that tests share, resolved from the catalogue as a sweep would resolve them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raycl.catalog import catalog
from raycl.learning.quadratic import Quadratic
from raycl.matrix import AccuracyMatrix, TaskRow
from raycl.spec.evaluation import EvaluationConfig
from raycl.spec.memory import MemoryConfig
from raycl.spec.seeds import RunSeeds
from raycl.spec.setting import Setting
from raycl.spec.sweep_options import LimitsConfig
from raycl.spec.training import TrainingConfig
from raycl.spec.trial import TrialSpec, stream_config, trial_fields
from raycl.streams.contents import Content
from raycl.streams.source import LocalSource, Outline, TrainOn, contents_of, make_stream, stream_outline
from raycl.streams.stream import Stream
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

TINY: dict[str, dict[str, Any]] = {
    "stream": {"name": "split", "dataset": "digits", "tasks": 3, "classes_per_task": 2, "class_order": "fixed"},
    "model": {"name": "mlp", "hidden": [32]},
    "training": {"learning_rate": 3e-3, "batch_size": 16, "epochs": 2},
    "memory": {"capacity": 40},
}


PERMUTED: dict[str, dict[str, Any]] = {
    "stream": {"name": "permuted", "tasks": 3},
    "model": {"hidden": [64, 64]},
    "training": {"learning_rate": 1e-3, "batch_size": 32, "iterations": 200},
}
"""Long enough for a penalty to tell."""

NORMED: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "hidden": [32], "norm": "batch"},
    "cnn": {"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "batch"},
    "resnet32": {"name": "resnet32", "width": 1},
}
"""A model of each kind, with batch norm."""


def resolved(config: type[Any], values: Mapping[str, Any]) -> Any:
    """A block checked as a sweep file's would be, defaults included."""
    return config.model_validate_json(json.dumps(dict(values)))


def trial(strategy: str, scenario: str = "class", *, seed: int = 0, **blocks: Mapping[str, Any]) -> TrialSpec:
    """A small trial on digits; ``blocks`` override ``options``, ``stream``, ``model``, ``training`` and ``memory``."""
    known = catalog()
    method = known.strategies.get(strategy)
    stream = {**TINY["stream"], "scenario": scenario, **blocks.pop("stream", {})}
    if stream["name"] != "split":
        stream = {key: value for key, value in stream.items() if key not in ("classes_per_task", "class_order")}
    model = {**TINY["model"], **blocks.pop("model", {})}
    training = {**TINY["training"], **blocks.pop("training", {})}
    if "iterations" in training:
        training.pop("epochs")
    memory = {**TINY["memory"], **blocks.pop("memory", {})}
    checked = Setting(
        method,
        options=resolved(method.Config, blocks.pop("options", {})),
        stream=resolved(known.streams.get(stream["name"]).Config, stream),
        model=resolved(known.models.get(model["name"]).Config, model),
        training=resolved(TrainingConfig, training),
        memory=resolved(MemoryConfig, memory),
        evaluation=EvaluationConfig(),
        limits=LimitsConfig(),
    )
    decided = trial_fields(checked.as_published(), known)
    return TrialSpec(alias=strategy, strategy=strategy, seed=seed, **{**decided, **blocks})


def local_source(
    block: Mapping[str, Any], seed: int | RunSeeds, data_root: Path | None = None, train_on: TrainOn = "train"
) -> LocalSource:
    """The stream of a ``stream`` block."""
    return LocalSource(catalog(), stream_config(catalog(), block), seed, data_root, train_on)


def stream_of(block: Mapping[str, Any], seed: int) -> Stream:
    return make_stream(catalog(), stream_config(catalog(), block), seed)


def outline_of(block: Mapping[str, Any]) -> Outline | None:
    return stream_outline(catalog(), stream_config(catalog(), block))


def held_by(block: Mapping[str, Any], seed: int, data_root: Path | None) -> tuple[Content, ...]:
    """What the tasks of a ``stream`` block hold of each data set."""
    return contents_of(catalog(), stream_config(catalog(), block), seed, data_root)


def trainer(spec: TrialSpec, data_root: Path | None = None) -> Trainer:
    """A new trainer over a local source and a local memory. Trials of one stream share it, as those of a sweep do."""
    return Trainer(spec, _shared_source(json.dumps(spec.stream), spec.run_seeds, data_root, spec.train_on))


@lru_cache(maxsize=32)
def _shared_source(block: str, seeds: RunSeeds, data_root: Path | None, train_on: TrainOn) -> LocalSource:
    return local_source(json.loads(block), seeds, data_root, train_on)


def ahead(spec: TrialSpec, tasks: int) -> Trainer:
    """A trial that has learned so many tasks."""
    running = trainer(spec)
    for _ in range(tasks):
        running.run_task()
    return running


def finish(trainer: Trainer, after_task: Callable[[Trainer], None] | None = None) -> list[TaskRow]:
    """Run the tasks that are left."""
    rows: list[TaskRow] = []
    while not trainer.done:
        rows += trainer.run_task()
        if after_task is not None:
            after_task(trainer)
    return rows


def evaluation_rows(trainer: Trainer, task: int) -> Batch:
    """All rows on which a task is evaluated."""
    evaluator = trainer._evaluator
    segment = evaluator._segment(task, None)
    return segment.gather(torch.arange(len(segment)), evaluator._pixels, augment=False)


def matrix(spec: TrialSpec, data_root: Path | None = None) -> AccuracyMatrix:
    """The accuracy matrix of a whole trial."""
    running = trainer(spec, data_root)
    return AccuracyMatrix.of(finish(running), running.num_tasks)


def counts(rows: list[TaskRow]) -> list[tuple[int, list[int], list[int]]]:
    """Rows as plain values that compare to the last bit."""
    return [(row.task, row.correct.tolist(), row.total.tolist()) for row in rows]


def penalty_of(quadratic: Quadratic, parameters: Mapping[str, Tensor]) -> float:
    """1/2 sum F (theta - theta*)^2, of which methods only ever take the gradient; rows that came later are free."""
    total = 0.0
    for name, importance in quadratic.importance.items():
        held = parameters[name].detach()[: len(importance)]
        total += 0.5 * float((importance * (held - quadratic.anchor[name]).square()).sum())
    return total
