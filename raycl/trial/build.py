"""Builds what a trial is made of: the method over its network, its memory and its optimisers, and what measures it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from raycl.learning.precision import Bfloat16
from raycl.memory.buffer import ReplayBuffer
from raycl.memory.local import LocalStorage, Storage
from raycl.memory.replay import ReplayMemory
from raycl.spec.check import require
from raycl.spec.needs import Extent
from raycl.spec.setting import Registries, Setting
from raycl.spec.trial import TrialSpec
from raycl.strategies.base import Context, Strategy
from raycl.streams.held_out import HeldOut
from raycl.streams.scenario import Scenario
from raycl.streams.task import Layout, SplitName, TaskSource
from raycl.trial.evaluator import Evaluator
from raycl.trial.loading import Pixels
from raycl.trial.meter import Meter
from raycl.trial.networks import Networks
from raycl.trial.optimizers import OptimizerSet
from raycl.trial.randomness import Randomness
from raycl.trial.rows import TrainingRows, Work


@dataclass(frozen=True)
class Parts:
    """What the trainer moves, each made once.

    Attributes:
        memory: None for methods without one.
        networks: makes every network of the trial's model.
        rows: of a phase's source.
        also: measures a second matrix, where one is asked for.
        judges: measures on the rows that ``training.held_out`` leaves out, where something asks for it.
        meter: counts the rows that pass through networks.
        work: updates and examples of the present task.
    """

    setting: Setting
    scenario: Scenario
    strategy: Strategy
    networks: Networks
    memory: ReplayBuffer | None
    optimizers: OptimizerSet
    rows: TrainingRows
    evaluator: Evaluator
    also: Evaluator | None
    judges: Evaluator | None
    random: Randomness
    meter: Meter
    work: Work


def build(
    trial: TrialSpec,
    source: TaskSource,
    catalog: Registries,
    storage: Storage | None,
    device: torch.device,
    data_root: Path | None,
) -> Parts:
    """Build a trial over its stream.

    Args:
        catalog: where its method and its model are registered.
        storage: holds the rows of the replay memory; default: this process.
        data_root: below which the weights of ``model.weights`` lie.

    Raises:
        SpecError: what the method declares to need is not there.
    """
    setting, layout = trial.setting(catalog), source.layout
    random, meter, work = Randomness(trial.run_seeds), Meter(), Work()
    scenario = _scenario(setting, layout)
    stream, model = setting.stream, catalog.models.get(setting.model.name)
    pixels = Pixels(stream.normalize, stream.augment, layout, random("augmentation"), device)
    memory = _memory(setting, random, storage)
    optimizers = OptimizerSet(setting.training, scenario.long_head)
    shape, start = layout.image_shape, random.start("network")
    precision = Bfloat16(device) if setting.training.precision == "bf16" else None
    networks = Networks(model, setting.model, shape, start, device, data_root, meter.watch_network, precision)
    context = Context(
        scenario=scenario,
        image_shape=shape,
        num_tasks=layout.num_tasks,
        training=setting.training,
        memory_config=setting.memory,
        memory=memory,
        optimizers=optimizers,
        new_network=networks,
        normalize=pixels.normalize,
        augment=pixels.augment,
        augments=stream.augment != "none",
        generator=random,
        count_work=work.count,
        watch=meter.watch,
        device=device,
        precision=precision,
    )
    rows = TrainingRows(source, scenario, pixels, memory, device, setting.hidden)
    strategy: Strategy = setting.strategy(setting.options, context)
    require(replace(setting, extent=Extent(scenario.sizes)))

    def evaluator(split: SplitName, source: TaskSource = source) -> Evaluator:
        return Evaluator(
            source,
            split,
            scenario,
            pixels,
            setting.evaluation,
            device,
            seed=trial.run_seeds.split,
            learned=trial.first_tasks and trial.learned(layout.num_tasks),
            boundaries_hidden=setting.hidden,
        )

    scores, also = evaluator(trial.score_on), evaluator(trial.also_on) if trial.also_on else None
    judges = evaluator("train", source.judges) if isinstance(source, HeldOut) else None
    return Parts(
        *(setting, scenario, strategy, networks, memory, optimizers, rows),
        *(scores, also, judges, random, meter, work),
    )


def _memory(setting: Setting, random: Randomness, storage: Storage | None) -> ReplayBuffer | None:
    if not setting.strategy.uses_memory:
        return None
    return ReplayMemory(setting.memory, setting.selection, random("memory"), storage or LocalStorage())


def _scenario(setting: Setting, layout: Layout) -> Scenario:
    policy = setting.training.active_logits
    if setting.hidden and policy == "auto":
        policy = "all"  # which classes have come is not known either
    sizes = tuple(len(classes) for classes in layout.classes)
    return Scenario(setting.stream.scenario, setting.model.head, sizes, policy)
