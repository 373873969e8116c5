"""HNET+R: who draws and who labels, what each phase moves, how losses are weighed; and its mutants."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import pytest
import torch
from pydantic import ValidationError
from strategies.hypernetwork_replay_trials import LEARNED, after, begun, method, spec
from support import finish, matrix, trainer, trial
from torch import Tensor, nn

from raycl.errors import MethodError, SpecError
from raycl.learning.protected_vae import ProtectedVAE
from raycl.strategies.base import TaskData
from raycl.strategies.hypernetwork import replay as hypernetwork_replay
from raycl.strategies.hypernetwork.replay import HypernetworkReplay, HypernetworkReplayConfig
from raycl.trial.optimizers import OptimizerSet
from raycl.trial.trainer import Trainer


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def equal(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def decoders(ours: HypernetworkReplay, tasks: int) -> Tensor:
    """Generated weights ``[tasks, numel]`` from theta as it stands."""
    return ours.vae.protected.weights(range(tasks))


# -- the previous scholar: a copy of the classifier, and old decoders ----------------------------------------------


def check_previous_scholar_stays() -> None:
    """Classifier and decoders of old tasks at a task's beginning against those that replay in its last update."""
    running = after(1, options={"beta": 0.0})
    ours = method(running)
    before = {"solver": snapshot(ours.network), "decoder": decoders(ours, 1)}
    seen: list[bool] = []
    end = ours.end_task

    def look(task: int, data: TaskData) -> None:
        assert ours.previous is not None
        assert ours.previous.training is False
        known = len(before["solver"]["head.bias"])
        copy = {name: value[:known] if "head" in name else value for name, value in snapshot(ours.previous).items()}
        seen.append(all(torch.equal(copy[name], value) for name, value in before["solver"].items()))
        old = zip(ours.vae._old, ours.vae.decoder.layers(before["decoder"]), strict=True)
        seen.append(all(torch.equal(now, then) for layer in old for now, then in zip(*layer, strict=True)))
        end(task, data)

    ours.end_task = look  # type: ignore[method-assign]
    running.run_task()
    assert seen == [True, True]
    assert not torch.equal(ours.network.head.weight[:2], before["solver"]["head.weight"])
    assert not torch.equal(decoders(ours, 1), before["decoder"])


def test_the_previous_scholar_stays_as_it_was_through_a_task() -> None:
    check_previous_scholar_stays()


def test_a_classifier_that_is_not_copied_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypernetwork_replay, "frozen_copy", lambda network: network)
    with pytest.raises(AssertionError):
        check_previous_scholar_stays()


def check_replays_come_from_the_previous_scholar() -> None:
    ours = begun(after(2))
    random = ours.vae._random
    state = random.get_state()
    x = ours.vae.replay()
    targets = ours.targets(x)
    protected = ours.vae.protected
    live = (*ours.network.parameters(), *ours.vae.encoder.parameters(), *protected.generator.parameters())
    with torch.no_grad():
        for parameter in (*live, protected.embeddings[-1]):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    random.set_state(state)
    again = ours.vae.replay()
    assert torch.equal(x, again), "drawn by decoders that move"
    assert torch.equal(targets, ours.targets(x)), "labelled by the classifier being trained"
    assert not torch.equal(again, ours.vae.replay()), "fresh replays in every update"


def test_replays_come_from_the_previous_scholar() -> None:
    check_replays_come_from_the_previous_scholar()


def test_replays_of_the_current_generator_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutants: every replay from the current task's decoder, and old decoders made anew while theta moves."""
    replay = ProtectedVAE.replay

    def current(self: ProtectedVAE, tasks: Callable[[int], list[int]]) -> Tensor:
        self._old = self.decoder.layers(self.protected.weights(tasks(len(self.protected.embeddings) - 1)))
        return replay(self)

    for tasks in (lambda old: [old] * old, lambda old: list(range(old))):
        monkeypatch.setattr(ProtectedVAE, "replay", lambda self, tasks=tasks: current(self, tasks))
        with pytest.raises(AssertionError, match="drawn by"):
            check_replays_come_from_the_previous_scholar()


def test_labels_of_the_current_classifier_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = HypernetworkReplay.targets

    def live(self: HypernetworkReplay, x: Tensor) -> Tensor:
        self.previous = self.network
        return targets(self, x)

    monkeypatch.setattr(HypernetworkReplay, "targets", live)
    with pytest.raises(AssertionError, match="labelled by"):
        check_replays_come_from_the_previous_scholar()


# -- what each phase moves -----------------------------------------------------------------------------------------


def check_phases_move_their_own() -> None:
    """The classifier learns while the generator rests, and the generator while the classifier rests."""
    running = after(1, training={"optimizer": "adamw", "weight_decay": 0.1})
    ours = method(running)
    at_rest: dict[str, bool] = {}
    train, (first, draw) = ours.train, ours.phases(1)
    parts = {"classifier": ours.network, "generator": ours.vae.protected.generator, "encoder": ours.vae.encoder}
    marks: list[dict[str, dict[str, Tensor]]] = []

    def mark(mode: bool) -> None:  # the trainer calls it at the beginning of each phase
        marks.append({name: snapshot(part) for name, part in parts.items()})
        train(mode)

    ours.train = mark  # type: ignore[method-assign]
    running.run_task()
    _, before, between, after_both = marks[:4]
    for name, part in before.items():
        at_rest[f"train {name}"] = all(torch.equal(value, between[name][key]) for key, value in part.items())
        at_rest[f"draw {name}"] = all(torch.equal(between[name][key], after_both[name][key]) for key in part)
    assert (first.name, draw.name) == ("train", "draw")
    assert {name for name, rests in at_rest.items() if rests} == {"train generator", "train encoder", "draw classifier"}


def test_phases_move_their_own_parameters_only() -> None:
    check_phases_move_their_own()


def test_a_phase_that_steps_every_optimiser_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the classifier's last gradient is still there while the generator is learned."""
    step = OptimizerSet.step
    monkeypatch.setattr(OptimizerSet, "step", lambda self, *names: step(self))
    with pytest.raises(AssertionError):
        check_phases_move_their_own()


def drift(beta: float) -> float:
    """How far the first task's decoder moves while the second is learned, relative to its norm."""
    running = after(1, options={"beta": beta})
    before = decoders(method(running), 1)
    running.run_task()
    return float((decoders(method(running), 1) - before).norm() / before.norm())


def test_decoders_of_old_tasks_stay_and_drift_without_the_regulariser() -> None:
    assert drift(100.0) < 0.05 < 0.15 < drift(0.0)


def test_embeddings_move_in_their_own_task_only() -> None:
    running = after(0, training={"reset_optimizer": False})
    seen: list[Tensor] = []
    while not running.done:
        running.run_task()
        embeddings = method(running).vae.protected.embeddings
        assert all(torch.equal(before, now) for before, now in zip(seen, embeddings, strict=False))
        seen = [embedding.detach().clone() for embedding in embeddings]
    fresh = method(after(0))
    fresh.grow(0)
    assert not torch.equal(fresh.vae.protected.embeddings[0], seen[0]), "and in that it does move"


def test_the_number_of_tasks_need_not_be_known() -> None:
    """Two tasks of three leave what two of two leave."""
    states = [method(after(2, stream={"tasks": tasks})).state_dict() for tasks in (2, 3)]
    ours, theirs = (state["vae"]["generator"] for state in states)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert torch.equal(states[0]["network"]["head.weight"], states[1]["network"]["head.weight"])


# -- what is replayed ----------------------------------------------------------------------------------------------


@cache
def learned() -> Trainer:
    """A trial that has learned two tasks well enough to draw them, at the beginning of the third."""
    running = after(2, **LEARNED)
    begun(running)
    return running


def check_replays_hold_every_old_class() -> None:
    ours = method(learned())
    assert ours.vae.origins.tolist() == [0] * 16 + [1] * 16, "ceil(32 / 2) of each"
    x = torch.cat([ours.vae.replay() for _ in range(40)])
    assert x.shape == (1280, 1, 8, 8)
    assert 0 <= x.min() <= x.max() <= 1
    targets = torch.cat([ours.targets(rows) for rows in x.split(32)])
    assert targets.shape == (1280, 6)
    assert torch.allclose(targets.sum(1), torch.ones(1280), atol=1e-5)
    assert not targets[:, 4:].any(), "units that the copy did not know"
    chosen = targets.argmax(1).view(40, 2, 16)
    for task in range(2):
        share = torch.bincount(chosen[:, task].flatten(), minlength=6) / 640
        assert share[2 * task : 2 * task + 2].min() > 0.15, "both classes of its own task"
        assert share[2 * task : 2 * task + 2].sum() > 0.8, "little else"


def test_replays_hold_every_class_of_every_old_task() -> None:
    check_replays_hold_every_old_class()


def test_replays_of_one_class_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutants: always the same latent vector; and all images from one decoder."""
    monkeypatch.setattr(ProtectedVAE, "_noise", lambda self, rows: torch.zeros(rows, self._latent_dim))
    with pytest.raises(AssertionError):
        check_replays_hold_every_old_class()
    monkeypatch.undo()
    ours = method(learned())
    monkeypatch.setattr(ours.vae, "_old", ours.vae.decoder.layers(ours.vae.protected.weights([0, 0])))
    with pytest.raises(AssertionError):
        check_replays_hold_every_old_class()


@pytest.fixture(scope="module")
def without_images() -> float:
    """The best of what needs no images: naive fine-tuning and LwF."""
    training = LEARNED["training"]
    return max(matrix(trial(name, "class", training=training)).average_accuracy() for name in ("naive", "lwf"))


@pytest.mark.slow
def test_replays_keep_what_is_forgotten_without_them(without_images: float) -> None:
    assert matrix(spec(**LEARNED)).average_accuracy() > without_images + 0.2


@pytest.mark.slow
def test_replays_of_noise_keep_as_little_as_lwf(without_images: float, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = ProtectedVAE.replay
    monkeypatch.setattr(ProtectedVAE, "replay", lambda self: torch.rand(replay(self).shape, generator=self._random))
    assert matrix(spec(**LEARNED)).average_accuracy() < without_images + 0.1


# -- size, options -------------------------------------------------------------------------------------------------


def test_generators_and_the_copy_are_charged() -> None:
    running = trainer(spec())
    costs = [row.cost for row in finish(running) if row.task >= 0]
    ours = method(running)
    classifier = [64 * 32 + 32 + 33 * 2 * (task + 1) for task in range(3)]
    encoder = 65 * 64 + 65 * 20
    decoder = 11 * 32 + 33 * 64
    theta = sum(parameter.numel() for parameter in ours.vae.protected.generator.parameters())
    expected = [own + encoder + theta + 96 * (task + 1) for task, own in enumerate(classifier)]
    assert [cost.parameters for cost in costs] == expected
    copies = [0, classifier[1] + theta, classifier[2] + theta]
    assert [cost.state_bytes for cost in costs] == [4 * (a + b) for a, b in zip(expected, copies, strict=True)]
    assert ours.vae.decoder.numel == decoder
    assert ours.compression_ratio() == (theta + 3 * 96) / decoder


def test_a_generator_above_the_allowed_ratio_is_refused() -> None:
    with pytest.raises(MethodError, match="max_compression_ratio"):
        trainer(spec(limits={"max_compression_ratio": 0.1})).run_task()


@pytest.mark.parametrize("normalize", ["mean_std", "none"])
def test_pixels_outside_the_unit_interval_are_refused(normalize: str) -> None:
    with pytest.raises(SpecError, match=r"stream.normalize: the generator draws pixels in \[0, 1\]; use unit"):
        trainer(spec(stream={"normalize": normalize}))


def test_options_are_strict() -> None:
    for wrong in (
        {"encoder_hidden": []},
        {"decoder_hidden": [0]},
        {"latent_dim": 0},
        {"temperature": 0},
        {"replay_share": 1.5},
        {"replay_batch_size": 0},
        {"new_units": "zero"},
        {"beta": -1},
    ):
        with pytest.raises(ValidationError):
            HypernetworkReplayConfig.model_validate_json(json.dumps(wrong))
