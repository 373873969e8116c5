"""One trial: one method, one point of its search space, one seed, one phase. Its hash names everything it leaves."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from raycl.spec.evaluation import EvaluationConfig
from raycl.spec.memory import MemoryConfig
from raycl.spec.options import Options, StreamConfig
from raycl.spec.protocols import Choosing
from raycl.spec.revisions import revisions
from raycl.spec.seeds import RunSeeds
from raycl.spec.setting import BLOCK_NAMES, PLAIN_BLOCKS, Registries, Setting, checked_block
from raycl.spec.sweep_options import LimitsConfig, ResourcesConfig
from raycl.spec.training import TrainingConfig

FORMAT_VERSION = 1
"""Of the specification itself. What the same options give is told by revisions (:mod:`raycl.spec.revisions`)."""

SweepPhase = Literal["search", "finalists", "final", "table"]
Scalar = str | int | float | bool
LATER_FIELDS = ("revisions", "code", "also_on", "first_tasks", "skipped_tasks")
"""Of a trial, that stand in its hash where they say something."""
PLACEMENT = ("home", "shards")
"""Options of ``memory`` that decide where rows live, and no number."""


def by_content(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block as hashes take it: pretrained weights by their content, not their name; nothing where there are none.

    A start of layers that nobody asked for is not named either: it came later than the first results. Whether weights
    may have seen the data decides no number.
    """
    dropped = {"allow_seen"} | {key for key in ("weights", "weights_hash", "encode") if block.get(key) is None}
    dropped |= {"init"} if block.get("init") == "default" else set()
    if block.get("weights_hash") is not None:
        dropped.add("weights")
    kept = {key: value for key, value in block.items() if key not in dropped}
    return kept | {key: by_content(kept[key]) for key in ("encode",) if key in kept}


def trial_fields(setting: Setting, catalog: Registries) -> dict[str, Any]:
    """The fields of a :class:`TrialSpec` that a setting decides."""
    return {
        **{block: setting.dump(block) for block in PLAIN_BLOCKS},
        **{name: getattr(setting, name) for name in ("training", "memory", "evaluation", "limits")},
        "uses_memory": bool(setting.strategy.uses_memory),
        "before": setting.as_before(),
        "revisions": revisions(setting, catalog),
    }


def stream_config(catalog: Registries, block: Mapping[str, Any]) -> StreamConfig:
    """The ``stream`` block of a stored trial, checked: streams are asked for apart from the trials that learn them.

    Raises:
        UnknownName: the catalogue has no such stream.
        ValueError: the stream does not take its block (pydantic's error).
    """
    config: StreamConfig = checked_block(catalog.streams.get(str(block.get("name"))).Config, block)
    return config


def _put_before(block: dict[str, Any], path: Sequence[str], before: Scalar | None) -> None:
    *parents, key = path
    for parent in parents:
        block = block[parent]
    if before is None:
        block.pop(key, None)
    else:
        block[key] = before


def _parts(path: str) -> list[str]:
    """Where an option stands in a trial: a method's own are those without a block's name."""
    parts = path.split(".")
    return parts if parts[0] in BLOCK_NAMES else ["options", *parts]


class TrialSpec(Options):
    """Everything that decides one accuracy matrix, fully resolved: no distribution and no default is left open.

    This is the document that is stored, hashed and sent to workers. It can be read where nobody knows the method any
    more, and it stays as it was when options are added: so the blocks whose classes come from registries are plain
    data. Whoever runs the trial takes them, checked, from :meth:`setting`.

    Attributes:
        variant: name of the sweep's variant; empty where there are none.
        alias: the method's name in the sweep; ``strategy`` is its name in the registry.
        options: the strategy's options, defaults included.
        point: the searched values by dotted path, for tables; they stand in the blocks already.
        seed: of every source of randomness; where these differ, of the order of classes.
        seeds: of each source, where they differ.
        score_on: which rows are evaluated; a search trial is never given test data.
        also_on: rows that are evaluated beside them, of a trial of a table, by which nothing is selected.
        uses_memory: whether the method reads ``memory``; without it ``memory`` is left out of the hash.
        keep_checkpoint: whether its last checkpoint stays once it has finished.
        before: options that came after the first results and stand at their default, by dotted path below
            ``options``, ``stream`` and ``model``: what the hash takes for them, None for nothing.
        revisions: part -> revision, where it is not the first.
        code: fingerprint of a method or model that was registered at run time; empty for installed ones.
        first_tasks: so many tasks of its stream are learned, and no more; 0: all of them.
        skipped_tasks: so many tasks at the start of its stream are left out, as if there were none.
        choosing: what the trial chooses as it goes, and among what; the other blocks then hold the first of it.
    """

    variant: str = ""
    alias: str
    strategy: str
    options: dict[str, Any]
    stream: dict[str, Any]
    model: dict[str, Any]
    training: TrainingConfig
    memory: MemoryConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    limits: LimitsConfig = LimitsConfig()
    resources: ResourcesConfig = ResourcesConfig()
    point: dict[str, Scalar] = {}
    seed: int
    seeds: RunSeeds | None = None
    phase: SweepPhase = "final"
    score_on: Literal["validation", "test"] = "test"
    also_on: Literal["test"] | None = None
    train_on: Literal["train", "train_and_validation"] = "train"
    uses_memory: bool = False
    keep_checkpoint: bool = False
    before: dict[str, Scalar | None] = {}
    revisions: dict[str, int] = {}
    code: str = ""
    choosing: Choosing | None = None
    first_tasks: int = 0
    skipped_tasks: int = 0

    def learned(self, num_tasks: int) -> int:
        """How many tasks the trial learns, of so many that it sees."""
        return min(num_tasks, self.first_tasks or num_tasks)

    @property
    def selected_by(self) -> str:
        """Which data chose the point."""
        if self.choosing is None:
            return "validation" if self.point and self.phase != "table" else "none"
        seen = self.choosing.protocol.seen_tasks
        return "memory" if seen is not None and seen.judge == "memory" else "validation"

    def value(self, path: str) -> Any:
        """The value of an option, named as in a method's block of a sweep file."""
        found: Any = self.model_dump(mode="json")
        for part in _parts(path):
            found = found[part]
        return found

    def with_values(self, values: Mapping[str, Any]) -> TrialSpec:
        """The same trial with other values of some options, named as in a method's block of a sweep file."""
        data = self.model_dump(mode="json")
        for path, value in values.items():
            *parents, key = _parts(path)
            block = data
            for parent in parents:
                block = block[parent]
            block[key] = value
        return TrialSpec.loads(json.dumps(data))

    def setting(self, catalog: Registries) -> Setting:
        """The blocks as their options classes have them: validated here, and nowhere below.

        Raises:
            UnknownName: the catalogue has no such method, stream or model.
            ValueError: one of these does not take its block, being of another raycl (pydantic's error).
        """
        strategy, model = catalog.strategies.get(self.strategy), catalog.models.get(str(self.model["name"]))
        return Setting(
            strategy,
            checked_block(strategy.Config, self.options),
            stream_config(catalog, self.stream),
            checked_block(model.Config, self.model),
            self.training,
            self.memory,
            self.evaluation,
            self.limits,
        )

    @property
    def run_seeds(self) -> RunSeeds:
        """The seed of each source of randomness. Trials are paired where these are equal."""
        return self.seeds or RunSeeds.of(self.seed)

    @property
    def seed_label(self) -> str:
        """Equal for trials of equal seeds, and for no others: ``3``, or ``3/1/2/2`` where the sources differ."""
        return self.run_seeds.label

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits over what decides the matrix: not alias, phase, search, tracking or placement."""
        runs = self.run_seeds
        decisive: dict[str, Any] = {
            "format": FORMAT_VERSION,
            "strategy": self.strategy,
            "options": self._block_as_before("options"),
            **{name: by_content(self._block_as_before(name)) for name in ("stream", "model")},
            "training": self.training.decisive(),
            "evaluation": self.evaluation.decisive(),
            "limits": self.limits.decisive(),
            "cpus": self.resources.cpus,
            "seed": runs.model_dump() if runs.plain is None else runs.plain,
            "score_on": self.score_on,
            "train_on": self.train_on,
        }
        if self.uses_memory:
            decisive["memory"] = self.memory.decisive(exclude=PLACEMENT)
        decisive |= {name: getattr(self, name) for name in LATER_FIELDS if getattr(self, name)}
        if self.choosing is not None:
            decisive["choosing"] = self.choosing.decisive()
        text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _block_as_before(self, name: str) -> dict[str, Any]:
        """A block without what came after the first results and stands at its default."""
        block = copy.deepcopy(getattr(self, name))
        for path, before in self.before.items():
            *parents, key = path.split(".")
            if parents[0] == name:
                _put_before(block, (*parents[1:], key), before)
        return dict(block)

    def hyperparameters(self) -> dict[str, Scalar]:
        """Every value that the trial ran with, by the dotted path of the sweep file; lists as JSON, None left out.

        What it chose as it went is left out too: that differs from task to task.
        """
        blocks: dict[str, Any] = {
            **self.options,
            "training": self.training.model_dump(mode="json"),
            "model": self.model,
            "stream": self.stream,
        }
        if self.uses_memory:
            blocks["memory"] = self.memory.model_dump(mode="json")
        flat: dict[str, Scalar] = {}
        _flatten("", blocks, flat)
        varied = self.choosing.varied if self.choosing is not None else ()
        return {path: value for path, value in flat.items() if path not in varied}

    def dumps(self) -> str:
        """Canonical JSON; :meth:`loads` reads it back."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1)

    @classmethod
    def loads(cls, text: str | bytes) -> TrialSpec:
        return cls.model_validate_json(text)


def _flatten(prefix: str, value: Any, into: dict[str, Scalar]) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _flatten(f"{prefix}.{name}" if prefix else str(name), inner, into)
    elif isinstance(value, (list, tuple)):
        into[prefix] = json.dumps(value)
    elif value is not None:
        into[prefix] = value
