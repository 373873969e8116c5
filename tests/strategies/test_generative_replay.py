"""Generative replay: who draws, who labels, how losses are weighed, and what is kept; and its mutants."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support import ahead, finish, matrix, trainer, trial
from torch import Tensor, nn

from raycl.errors import SpecError
from raycl.spec.trial import TrialSpec
from raycl.strategies import generative_replay
from raycl.strategies.generative_replay import GenerativeReplay, GenerativeReplayConfig, Replays
from raycl.streams.scenario import Scenario
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

SMALL = {"hidden": [64], "latent_dim": 10}
LEARNED: dict[str, Any] = {"training": {"iterations": 200, "batch_size": 32}}
"""Enough to draw digits."""


def spec(scenario: str = "class", options: dict[str, Any] | None = None, **blocks: Any) -> TrialSpec:
    return trial("generative_replay", scenario, options={**SMALL, **(options or {})}, **blocks)


def after(tasks: int, scenario: str = "class", options: dict[str, Any] | None = None, **blocks: Any) -> Trainer:
    """A trial that has learned so many tasks."""
    return ahead(spec(scenario, options, **blocks), tasks)


def method(running: Trainer) -> GenerativeReplay:
    assert isinstance(running.strategy, GenerativeReplay)
    return running.strategy


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def batch_of(strategy: GenerativeReplay, rows: int = 5) -> Batch:
    """New rows of the current task."""
    random = torch.Generator().manual_seed(0)
    x = torch.rand(rows, 1, 8, 8, generator=random)
    task = torch.full((rows,), strategy.task)
    y = strategy.context.scenario.labels(torch.arange(rows) % 2, strategy.task)
    return Batch((255 * x).byte(), x, y, task, torch.zeros(rows, dtype=torch.bool))


# -- the previous scholar ----------------------------------------------------------------------------------------


def check_previous_scholar_stays() -> None:
    running = after(1)
    ours = method(running)
    before = {"solver": snapshot(ours.network), "decoder": snapshot(ours.generator.decoder)}
    running.run_task()
    for name, scholar in before.items():
        assert all(torch.equal(ours.previous[name][key], value) for key, value in scholar.items())
    assert not torch.equal(ours.generator.decoder.layers[0].weight, before["decoder"]["layers.0.weight"])


def test_the_previous_scholar_stays_as_it_was_through_a_task() -> None:
    check_previous_scholar_stays()


def test_a_scholar_that_is_not_cloned_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generative_replay, "_frozen", lambda module: module.state_dict())
    with pytest.raises(AssertionError):
        check_previous_scholar_stays()


def check_replays_come_from_the_previous_scholar() -> None:
    ours = method(after(2))
    state = ours._random.get_state()
    before = ours.replay()
    with torch.no_grad():
        for parameter in (*ours.generator.parameters(), *ours.network.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    ours._random.set_state(state)
    again = ours.replay()
    assert torch.equal(before.x, again.x), "drawn by the generator being trained"
    assert torch.equal(before.targets, again.targets), "labelled by the solver being trained"
    assert not torch.equal(again.x, ours.replay().x), "fresh replays in every update"


def test_replays_come_from_the_previous_scholar() -> None:
    check_replays_come_from_the_previous_scholar()


@pytest.mark.parametrize("live", ["decoder", "solver"])
def test_replays_of_the_current_scholar_are_caught(live: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutants: a generator that learns from its own fresh samples, and labels from the current solver."""
    replay = GenerativeReplay.replay

    def current(self: GenerativeReplay) -> Replays:
        self.previous[live] = (self.generator.decoder if live == "decoder" else self.network).state_dict()
        return replay(self)

    monkeypatch.setattr(GenerativeReplay, "replay", current)
    with pytest.raises(AssertionError, match="drawn by" if live == "decoder" else "labelled by"):
        check_replays_come_from_the_previous_scholar()


def test_replays_do_not_move_running_statistics() -> None:
    ours = method(after(2, model={"norm": "batch"}))
    assert not ours.previous["solver"]["backbone.2.running_mean"].equal(ours.network.backbone[2].running_mean)
    ours.train(True)
    before = snapshot(ours.network), snapshot_of(ours.previous)
    ours.replay()
    assert all(torch.equal(value, before[0][name]) for name, value in ours.network.state_dict().items())
    assert all(torch.equal(value, before[1][key]) for key, value in snapshot_of(ours.previous).items())
    assert ours.network.training


def snapshot_of(previous: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{part}/{name}": value.clone() for part, state in previous.items() for name, value in state.items()}


# -- what is replayed ----------------------------------------------------------------------------------------------


@cache
def learned() -> Trainer:
    """A trial that has learned two tasks well enough to draw the first; tests leave it as it is."""
    return after(2, **LEARNED)


def check_both_classes_are_replayed() -> None:
    replays = [method(learned()).replay() for _ in range(60)]
    x, targets = (torch.cat(parts) for parts in zip(*((made.x, made.targets) for made in replays), strict=True))
    assert x.shape == (1920, 1, 8, 8)
    assert 0 <= x.min() <= x.max() <= 1
    share = torch.bincount(targets[:, 0], minlength=2) / len(x)
    assert len(share) == 2, "a unit that the previous solver did not know"
    assert (share > 0.25).all()


def test_replays_hold_every_class_of_the_first_task() -> None:
    check_both_classes_are_replayed()


def test_replays_of_one_class_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: a generator that always draws the same image."""
    monkeypatch.setattr(GenerativeReplay, "_noise", lambda self, rows: torch.zeros(rows, self.config.latent_dim))
    with pytest.raises(AssertionError):
        check_both_classes_are_replayed()


@pytest.fixture(scope="module")
def naive_accuracy() -> float:
    return matrix(trial("naive", "class", **LEARNED)).average_accuracy()


@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_replays_keep_what_naive_forgets(targets: str, naive_accuracy: float) -> None:
    assert matrix(spec(options={"targets": targets}, **LEARNED)).average_accuracy() > naive_accuracy + 0.3


def test_replays_of_noise_keep_little(naive_accuracy: float, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = GenerativeReplay.replay

    def noise(self: GenerativeReplay) -> Replays:
        replays = replay(self)
        return Replays(torch.rand(replays.x.shape, generator=self._random), replays.targets)

    monkeypatch.setattr(GenerativeReplay, "replay", noise)
    assert matrix(spec(**LEARNED)).average_accuracy() < naive_accuracy + 0.1


# -- the losses ----------------------------------------------------------------------------------------------------


def check_mixture(options: dict[str, Any], shares: list[float]) -> None:
    """Both losses of tasks 2 and 3 against their definition."""
    for tasks, share in enumerate(shares, start=2):
        ours = method(after(tasks, options={**options, "replay_batch_size": 7}))
        batch, (x, labels) = batch_of(ours), pinned(ours)
        state = ours._random.get_state()
        losses = ours.loss(batch)
        ours._random.set_state(state)
        each = ours.generator.loss(torch.cat([batch.x, x]), ours._noise(12))
        new = nn.functional.cross_entropy(ours.network(batch.x), batch.y)
        old = nn.functional.cross_entropy(ours.network(x), labels)
        expected = {
            "task": (1 - share) * new,
            "replay": share * old,
            "generator": (1 - share) * each[:5].mean() + share * each[5:].mean(),
        }
        assert losses.keys() == expected.keys()
        assert all(torch.allclose(losses[name], value, rtol=1e-4) for name, value in expected.items())


def pinned(strategy: GenerativeReplay) -> tuple[Tensor, Tensor]:
    """Replays that stay the same, hard labels ``[batch]``; the noise of the next update is left as it is."""
    replays = strategy.replay()
    strategy.replay = lambda: replays  # type: ignore[method-assign]
    return replays.x, replays.targets[:, 0]


def test_new_data_weigh_one_over_the_number_of_tasks() -> None:
    check_mixture({}, [1 / 2, 2 / 3])


def test_a_given_share_is_taken() -> None:
    check_mixture({"replay_share": 0.25}, [0.25, 0.25])


def test_equal_weights_in_every_task_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GenerativeReplay, "_share", lambda self: 0.5)
    with pytest.raises(AssertionError):
        check_mixture({}, [1 / 2, 2 / 3])


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) at temperature T, over the units that both have."""
    log_student = (student / temperature).log_softmax(1)[:, : teacher.shape[1]]
    target = (teacher / temperature).softmax(1)
    return temperature**2 * (target * (target.log() - log_student)).sum(1).mean()


def check_soft_targets(replay_loss: Callable[[GenerativeReplay, Tensor, Tensor], Tensor]) -> None:
    ours = method(after(2, options={"targets": "soft", "temperature": 3.0}))
    replays = ours.replay()
    teacher = torch.func.functional_call(ours.network, ours.previous["solver"], (replays.x,)).detach()
    assert teacher.shape == (16, 2)
    logits = ours.network(replays.x).detach().requires_grad_()
    ours_gradient = torch.autograd.grad(replay_loss(ours, logits, replays.targets), logits)[0]
    expected = torch.autograd.grad(divergence(logits, teacher, 3.0), logits)[0]
    assert torch.allclose(ours_gradient, expected, atol=1e-6)
    assert expected[:, 2:].min() > 0, "units that the previous solver did not know are pushed down"


def test_soft_targets_distil_the_previous_solver() -> None:
    check_soft_targets(GenerativeReplay._replay_loss)


def test_a_missing_square_of_the_temperature_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_soft_targets(lambda ours, logits, targets: ours._replay_loss(logits, targets) / 9)


# -- scenarios -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [{}, {"first_task": 3}])
@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_with_a_head_per_task_every_old_head_labels_and_the_mean_counts(targets: str, sizes: dict[str, int]) -> None:
    options = {"targets": targets, "temperature": 2.0}
    ours = method(after(3, "task", options, stream=sizes))
    replays = ours.replay()
    teacher = torch.func.functional_call(ours.network, ours.previous["solver"], (replays.x,))
    logits = ours.network(replays.x)
    units = [slice(own.start, own.stop) for own in map(ours.context.scenario.units, range(2))]
    loss = ours._replay_loss(logits, replays.targets)
    if targets == "hard":
        heads = [nn.functional.cross_entropy(logits[:, own], teacher[:, own].argmax(1)) for own in units]
    else:
        heads = [4 * nn.functional.cross_entropy(logits[:, own] / 2, (teacher[:, own] / 2).softmax(1)) for own in units]
    assert torch.allclose(loss, (heads[0] + heads[1]) / 2, rtol=1e-4)
    gradient = torch.autograd.grad(loss, logits)[0]
    assert torch.isfinite(gradient).all()
    assert not gradient[:, units[1].stop :].any(), "the current head learns from new data only"


@pytest.mark.parametrize(("scenario", "units"), [("domain", 2), ("class", 4)])
def test_without_the_task_one_head_labels_among_the_units_seen_before(scenario: str, units: int) -> None:
    for policy in ("auto", "all"):
        ours = method(after(3, scenario, {"replay_batch_size": 500}, training={"active_logits": policy}))
        targets = ours.replay().targets
        assert targets.shape == (500, 1)
        assert targets.max() < units


def test_heads_of_unequal_size_hold_only_their_own_units() -> None:
    heads = generative_replay.Heads(Scenario("task", "auto", (3, 1, 2)), 2, torch.device("cpu"))
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    absent = generative_replay.ABSENT
    assert heads.known == 4
    assert heads.of(logits).tolist() == [[[1.0, 2.0, 3.0], [4.0, absent, absent]]]


# -- size, options -------------------------------------------------------------------------------------------------


def test_the_previous_scholar_is_charged() -> None:
    running = trainer(spec())
    costs = [row.cost for row in finish(running) if row.task >= 0]
    solver = [64 * 32 + 32 + 33 * 2 * (task + 1) for task in range(3)]
    decoder = 10 * 64 + 64 + 64 * 64 + 64
    vae = decoder + 64 * 64 + 64 + 64 * 20 + 20
    assert [cost.parameters for cost in costs] == [own + vae for own in solver]
    before = [0, solver[0] + decoder, solver[1] + decoder]
    kept = [own + vae + old for own, old in zip(solver, before, strict=True)]
    assert [cost.state_bytes for cost in costs] == [4 * numbers for numbers in kept]


def test_the_generator_has_an_optimiser_and_a_rate_of_its_own() -> None:
    for rate, expected in ((None, 3e-3), (0.02, 0.02)):
        ours = method(after(1, options={"generator_learning_rate": rate}))
        optimizers = ours.context.optimizers
        assert optimizers["generator"].param_groups[0]["lr"] == expected
        assert optimizers["network"].param_groups[0]["lr"] == 3e-3


@pytest.mark.parametrize("normalize", ["mean_std", "none"])
def test_pixels_outside_the_unit_interval_are_refused(normalize: str) -> None:
    with pytest.raises(SpecError, match=r"stream.normalize: the generator draws pixels in \[0, 1\]; use unit"):
        trainer(spec(stream={"normalize": normalize}))


def test_options_are_strict() -> None:
    for wrong in (
        {"latent_dim": 0},
        {"hidden": []},
        {"targets": "both"},
        {"temperature": 0},
        {"replay_share": 1.5},
        {"replay_share": "task"},
        {"generator_learning_rate": 0},
        {"replay_batch_size": 0},
    ):
        with pytest.raises(ValidationError):
            GenerativeReplayConfig.model_validate_json(json.dumps(wrong))
