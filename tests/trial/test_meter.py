"""What counts as a row through a network: every method against a count of every layer, and twenty by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from strategies.test_contract import CASES, small
from support import finish, trainer, trial
from torch import Tensor, nn

from raycl.models.network import Network
from raycl.models.vae import GeneratedDecoder
from raycl.trial.evaluator import Evaluator
from raycl.trial.meter import Meter
from raycl.trial.networks import Networks
from raycl.trial.rows import Work
from raycl.trial.trainer import Trainer

Counts = list[tuple[int, int]]
"""Forward and backward rows of each task."""


def counted(running: Trainer) -> Counts:
    """What the costs of the tasks say."""
    costs = [row.cost for row in finish(running) if row.task >= 0]
    return [(cost.forward_examples or 0, cost.gradient_examples or 0) for cost in costs]


# -- every method, layer by layer --------------------------------------------------------------------------------------


class Direct:
    """Counts by replacing ``nn.Module.__call__``: in each update, of each network, the layer that saw most rows.

    The meter looks at first and last layers, through hooks; this looks at all of them, and at no hook.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.totals = [0, 0]
        self._seen: dict[object, dict[int, list[int]]] = {}  # network -> layer -> rows forward and backward
        self._owner: dict[nn.Module, tuple[object, int]] = {}
        self._off = False
        self._replace_calls(patch)
        self._follow_networks(patch)
        self._end_updates(patch)

    def own(self, network: nn.Module, key: object) -> None:
        for place, module in enumerate(network.modules()):
            self._owner.setdefault(module, (key, place))

    def close(self) -> None:
        for layers in self._seen.values():
            for direction in (0, 1):
                self.totals[direction] += max(rows[direction] for rows in layers.values())
        self._seen.clear()

    def taken(self) -> tuple[int, int]:
        self.close()
        forward, backward = self.totals
        self.totals = [0, 0]
        return forward, backward

    def _replace_calls(self, patch: pytest.MonkeyPatch) -> None:
        call = nn.Module.__call__

        def spied(module: nn.Module, *inputs: Any, **named: Any) -> Any:
            output = call(module, *inputs, **named)
            if not self._off and module in self._owner:
                self._saw(module, output if isinstance(output, Tensor) else output[0])
            return output

        patch.setattr(nn.Module, "__call__", spied)

    def _saw(self, module: nn.Module, output: Tensor) -> None:
        key, place = self._owner[module]
        rows = output.shape[0] * (output.shape[1] if isinstance(module, GeneratedDecoder) else 1)

        def add(direction: int) -> None:
            self._seen.setdefault(key, {}).setdefault(place, [0, 0])[direction] += rows

        add(0)
        if output.requires_grad:
            output.register_hook(lambda _: add(1))

    def _follow_networks(self, patch: pytest.MonkeyPatch) -> None:
        build, duplicate, grow = Networks.__call__, copy.deepcopy, Trainer._grow

        def built(networks: Networks, width: float = 1.0) -> Network:
            network = build(networks, width)
            self.own(network, network)
            return network

        def duplicated(value: Any, *memo: Any) -> Any:
            twin = duplicate(value, *memo)
            if isinstance(value, nn.Module) and not memo:
                self._owner |= {
                    new: self._owner[old]
                    for old, new in zip(value.modules(), twin.modules(), strict=True)
                    if old in self._owner
                }
            return twin

        def grown(running: Trainer, task: int) -> None:
            grow(running, task)
            strategy: Any = running.strategy
            if isinstance(generator := getattr(strategy, "generator", None), nn.Module) and hasattr(
                generator, "decoder"
            ):
                self.own(generator, generator)
            if (vae := getattr(strategy, "vae", None)) is not None:
                self.own(nn.ModuleList([vae.encoder, vae.decoder]), vae)

        patch.setattr(Networks, "__call__", built)
        patch.setattr(copy, "deepcopy", duplicated)
        patch.setattr(Trainer, "_grow", grown)

    def _end_updates(self, patch: pytest.MonkeyPatch) -> None:
        for owner, name in ((Work, "count"), (Trainer, "_run_phase")):
            patch.setattr(owner, name, self._closing(getattr(owner, name)))
        measure = Evaluator.measure

        def unseen(*arguments: Any) -> Any:
            self._off = True
            try:
                return measure(*arguments)
            finally:
                self._off = False

        patch.setattr(Evaluator, "measure", unseen)

    def _closing(self, function: Callable[..., None]) -> Callable[..., None]:
        def closing(*arguments: Any) -> None:
            self.close()
            function(*arguments)

        return closing


@contextmanager
def directly() -> Iterator[Direct]:
    with pytest.MonkeyPatch.context() as patch:
        yield Direct(patch)


def both(name: str, scenario: str) -> tuple[Counts, Counts]:
    """What the meter says of each task, and what the direct count says."""
    said, seen = [], []
    with directly() as direct:
        running = trainer(small(name, scenario, training={"epochs": 1, "batch_size": 48}))
        direct.taken()
        while not running.done:
            cost = running.run_task()[-1].cost
            said.append((cost.forward_examples or 0, cost.gradient_examples or 0))
            seen.append(direct.taken())
    return said, seen


@pytest.mark.parametrize(("name", "scenario"), CASES)
def test_the_meter_agrees_with_a_count_of_every_layer(name: str, scenario: str) -> None:
    said, seen = both(name, scenario)
    assert said == seen
    assert any(forward > 0 and backward > 0 for forward, backward in said)


# -- by hand -----------------------------------------------------------------------------------------------------------

PER_CLASS = {"unit": "class", "capacity": 5}  # 10 rows of every old task
HAND: list[Any] = [
    # Three tasks of 40 rows, two classes each, batches of 10 (four updates a task), unless said otherwise.
    ("naive", {}, [(40, 40)] * 3),
    ("joint", {}, [(0, 0), (0, 0), (120, 120)]),
    ("cumulative", {}, [(40, 40), (80, 80), (120, 120)]),
    # 20 exemplars from the second task on, in one shuffled union
    ("rehearsal", {}, [(40, 40), (60, 60), (60, 60)]),
    # nothing to replay in the very first update, then 10 rows in each
    ("replay", {"memory": {"batch_size": 10}}, [(70, 70), (80, 80), (80, 80)]),
    ("er_ace", {"memory": {"batch_size": 10}}, [(70, 70), (80, 80), (80, 80)]),
    # a draw for the logits and another for the labels
    ("derpp", {"memory": {"batch_size": 10}}, [(100, 100), (120, 120), (120, 120)]),
    # an update: the virtual step's 10 rows; 10, then 20, old rows after it and before it; 10 new and 5 chosen rows
    (
        "mir",
        {"memory": {"unit": "task", "capacity": 10, "batch_size": 5}, "options": {"subsample": 20}},
        [(40, 40), (4 * (10 + 20 + 15), 4 * 25), (4 * (10 + 40 + 15), 4 * 25)],
    ),
    # each row once more after the task, and back for each of 2, 4, 6 classes; in a perceptron for none
    ("ewc", {"options": {"fisher": "exact"}, "model": {"norm": "batch"}}, [(80, 120), (80, 200), (80, 280)]),
    ("ewc", {"options": {"fisher": "exact"}}, [(80, 40)] * 3),
    ("ewc", {"options": {"fisher": "empirical"}}, [(80, 80)] * 3),
    ("mas", {}, [(80, 80)] * 3),
    # the teacher's answers to every row of later tasks
    ("lwf", {"options": {"warmup_epochs": 0}}, [(40, 40), (80, 40), (80, 40)]),
    # four times the memory of all old tasks, and a row that shows which layers there are
    ("gem", {"memory": {"unit": "task", "capacity": 10}}, [(40, 40), (81, 80), (121, 120)]),
    (
        "agem",
        {"memory": {"unit": "task", "capacity": 10}, "options": {"reference_batch_size": 5}},
        [(40, 40), (60, 60), (60, 60)],
    ),
    # targets of the union; its training; features of the task's rows for herding; those of all exemplars for means
    ("icarl", {"memory": PER_CLASS}, [(40 + 40 + 10, 40), (50 + 50 + 40 + 20, 50), (60 + 60 + 40 + 30, 60)]),
    # solver and autoencoder; then both over 10 new and 10 drawn rows, which the old decoder makes and the old solver
    # labels
    ("generative_replay", {}, [(80, 80), (4 * 60, 4 * 40), (4 * 60, 4 * 40)]),
    # two epochs: the frozen trunk sees each row once, the head twice
    ("feature_extraction", {"training": {"epochs": 2}}, [(80, 80), (40 + 80, 80), (40 + 80, 80)]),
    ("gdumb", {"options": {"passes": 3}}, [(60, 60)] * 3),
    ("progressive", {"scenario": "task"}, [(40, 40), (80, 40), (120, 40)]),
    ("hypernetwork", {"options": {"chunk_size": 500}}, [(40, 40)] * 3),
    # trunk (a pass of its own from the second task on); head, with 10 generated rows a batch; all rows through the
    # trunk for the generator's moments where they are not at hand, and for its updates; the generator over the task's
    # rows and as many that its copy draws
    (
        "generative_negative_replay",
        {},
        [(40 + 40 + 40 + 40, 40 + 40), (40 + (80 + 40) + (80 + 40), 80 + 80), (40 + (80 + 40) + (80 + 40), 80 + 80)],
    ),
]


def by_hand(name: str, blocks: dict[str, Any]) -> Trainer:
    blocks = copy.deepcopy(blocks)
    shared = {"training": {"epochs": 1, "batch_size": 10}, "memory": {"capacity": 20}, "stream": {"train_per_task": 40}}
    scenario = blocks.pop("scenario", "class")
    merged = {key: {**shared.get(key, {}), **blocks.get(key, {})} for key in {**shared, **blocks}}
    return trainer(trial(name, scenario, **merged))


@pytest.mark.parametrize(("name", "blocks", "expected"), HAND)
def test_the_meter_says_what_a_hand_counts(name: str, blocks: dict[str, Any], expected: Counts) -> None:
    assert counted(by_hand(name, blocks)) == expected


# -- mutants -----------------------------------------------------------------------------------------------------------


def test_the_checks_see_a_meter_that_loses_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: a teacher that is a copy has no gauge, as if frozen networks cost nothing."""
    monkeypatch.setattr("raycl.trial.meter._Gauge.__deepcopy__", lambda gauge, memo: lambda *_: None)
    monkeypatch.setattr(Meter, "watch_attributes", lambda meter, owner: None)
    assert counted(by_hand("lwf", {"options": {"warmup_epochs": 0}})) == [(40, 40)] * 3
    said, seen = both("lwf", "class")
    assert said != seen


def test_the_checks_see_parts_that_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: a row counts at the first layer and at the last."""
    monkeypatch.setattr("raycl.trial.meter.max", sum, raising=False)
    assert counted(by_hand("naive", {})) == [(80, 80)] * 3
    said, seen = both("naive", "class")
    assert said != seen


def test_the_checks_see_evaluation_that_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: a meter that does not pause."""

    @contextmanager
    def running(meter: Meter) -> Iterator[None]:
        yield

    monkeypatch.setattr(Meter, "paused", running)
    said, seen = both("naive", "domain")
    assert said != seen


def test_examples_do_not_compare_methods_and_forward_examples_do() -> None:
    """At equal work, 10 new and 10 old rows an update: what was recorded before gave one method thrice the other's."""
    union = by_hand("rehearsal", {"memory": {"mix": "paired", "batch_size": 10}})
    drawn = by_hand("replay", {"memory": {"batch_size": 10}})
    costs = [[row.cost for row in finish(running)][-1] for running in (union, drawn)]
    assert [cost.forward_examples for cost in costs] == [80, 80]
    assert [cost.gradient_examples for cost in costs] == [80, 80]
    assert [cost.examples for cost in costs] == [80, 40]
