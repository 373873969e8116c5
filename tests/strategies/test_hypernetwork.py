"""Hypernetworks on digits: what is protected, what moves, and how a task is inferred."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import TINY, evaluation_rows, finish, trainer, trial
from torch import Tensor

from raycl.catalog import catalog
from raycl.errors import MethodError, SpecError
from raycl.learning.lookahead import lookahead
from raycl.matrix import AccuracyMatrix
from raycl.spec.space import Choice
from raycl.spec.sweep import SweepSpec
from raycl.strategies.hypernetwork.hypernetwork import Hypernetwork
from raycl.trial.trainer import Trainer

SMALL = {"chunk_size": 500, "task_embedding_dim": 8, "chunk_embedding_dim": 8}


def made(scenario: str = "task", *, options: dict[str, Any] | None = None, **blocks: Any) -> Trainer:
    return trainer(trial("hypernetwork", scenario, options={**SMALL, **(options or {})}, **blocks))


def method(running: Trainer) -> Hypernetwork:
    assert isinstance(running.strategy, Hypernetwork)
    return running.strategy


def weights(running: Trainer, task: int) -> Tensor:
    """A task's generated weights, from theta as it stands."""
    strategy = method(running)
    return strategy.generator(strategy.embeddings[task][None])[0].detach()


def drift(running: Trainer) -> float:
    """How far the first task's weights move while the second is learned, relative to their norm."""
    running.run_task()
    before = weights(running, 0)
    running.run_task()
    return float((weights(running, 0) - before).norm() / before.norm())


def test_the_regulariser_protects_the_weights_of_old_tasks() -> None:
    free, held, hard = (drift(made(options={"beta": beta})) for beta in (0.0, 1.0, 1000.0))
    assert held < free / 3
    assert hard < 0.05


def test_the_protection_fails_where_theta_star_is_not_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: targets are taken from the parameters that move."""
    monkeypatch.setattr(torch.Tensor, "clone", lambda self, *_: self)
    options = {"beta": 1000.0, "regulariser": "sampled"}
    aliased = drift(made(options=options))
    monkeypatch.undo()
    assert aliased > 3 * drift(made(options=options))


def test_old_tasks_are_still_answered() -> None:
    running = made(options={"beta": 1.0}, training={"epochs": 6})
    matrix = AccuracyMatrix.of(finish(running), running.num_tasks)
    assert matrix.average_accuracy() > 0.9
    assert matrix.forgetting() < 0.03


def test_embeddings_move_in_their_own_task_only() -> None:
    running = made(training={"reset_optimizer": False})
    seen: list[Tensor] = []
    while not running.done:
        running.run_task()
        embeddings = method(running).embeddings
        assert all(torch.equal(before, now) for before, now in zip(seen, embeddings, strict=False))
        seen = [embedding.detach().clone() for embedding in embeddings]
    method(running).grow(2)
    assert len(seen) == 3


def test_the_current_embedding_is_trained() -> None:
    trained, untrained = made(), made()
    trained.run_task()
    untrained.strategy.grow(0)
    assert not torch.equal(method(trained).embeddings[0], method(untrained).embeddings[0])


@pytest.mark.parametrize("options", [{"chunked": False, "hidden": [6]}, {"hidden": []}, {"activation": "elu"}])
def test_every_kind_of_generator_learns(options: dict[str, Any]) -> None:
    running = made(options={**options, "beta": 1.0}, training={"epochs": 4})
    matrix = AccuracyMatrix.of(finish(running), running.num_tasks)
    assert matrix.average_accuracy() > 0.85


# -- the update ----------------------------------------------------------------------------------------------------


def trained(options: dict[str, Any]) -> dict[str, Tensor]:
    running = made(options={"beta": 0.5, **options})
    running.run_task()
    running.run_task()
    return {name: value.detach().clone() for name, value in method(running).generator.theta.items()}


def nearly_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.allclose(left[name], right[name], atol=1e-3) for name in left)


def test_forms_of_the_regulariser_learn_the_same() -> None:
    gram = trained({})
    assert nearly_equal(gram, trained({"regulariser": "direct"}))
    assert nearly_equal(gram, trained({"regulariser": "sampled", "sampled_tasks": 5}))


def test_lookaheads_differ_and_none_matters_without_beta() -> None:
    kinds = ("detached", "differentiated", "off")
    with_beta = [trained({"lookahead": kind}) for kind in kinds]
    without = [trained({"lookahead": kind, "beta": 0.0}) for kind in kinds]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert any(not torch.equal(with_beta[one][name], with_beta[other][name]) for name in with_beta[one])
        assert all(torch.equal(without[one][name], without[other][name]) for name in without[one])


def first_step(running: Trainer, distance: Callable[[Hypernetwork, dict[str, Tensor], Tensor], Tensor]) -> float:
    """Relative error of the gradient of the first update of task 1 against one put together by hand.

    Args:
        distance: (strategy, theta after the task's step, weights of task 0 before) -> the regulariser's value.
    """
    running.run_task()
    before, strategy = weights(running, 0), method(running)
    errors: list[float] = []
    real = strategy.step

    def checked(batch: Any, at: Any) -> Any:
        if at.update or at.epoch or errors:
            return real(batch, at)
        theta = strategy.generator.theta
        slopes = torch.autograd.grad(strategy.loss(batch)["task"], list(theta.values()))
        by_parameter = dict(zip(theta.values(), slopes, strict=True))
        after = lookahead(strategy.context.optimizers["theta"], by_parameter)
        ahead = {name: value + (after[value] - value).detach() for name, value in theta.items()}
        penalty = strategy.config.beta * distance(strategy, ahead, before)
        penalties = torch.autograd.grad(penalty, list(theta.values()))
        losses = real(batch, at)
        found = torch.cat([value.grad.flatten() for value in theta.values() if value.grad is not None])
        wanted = torch.cat([(slope + more).flatten() for slope, more in zip(slopes, penalties, strict=True)])
        errors.append(float((found - wanted).norm() / wanted.norm()))
        return losses

    strategy.step = checked  # type: ignore[method-assign]
    running.run_task()
    return errors[0]


def summed(strategy: Hypernetwork, theta: dict[str, Tensor], before: Tensor) -> Tensor:
    generator = strategy.generator
    features = generator.features(theta, strategy.embeddings[0].detach()[None])
    return (generator.assemble(theta, features)[0] - before).square().sum()


def test_an_update_adds_the_regularisers_gradient_at_the_lookahead() -> None:
    assert first_step(made(options={"beta": 0.5}), summed) < 1e-4


def test_the_check_fails_for_a_mean_over_weights_and_without_lookahead() -> None:
    def averaged(strategy: Hypernetwork, theta: dict[str, Tensor], before: Tensor) -> Tensor:
        return summed(strategy, theta, before) / len(before)

    assert first_step(made(options={"beta": 0.5}), averaged) > 0.01
    assert first_step(made(options={"beta": 0.5, "lookahead": "off"}), summed) > 0.01


# -- prediction ----------------------------------------------------------------------------------------------------


def pixels(running: Trainer, rows: int = 40) -> Tensor:
    x = torch.cat([evaluation_rows(running, task).x for task in range(running.num_tasks)])
    return x[:: len(x) // rows]


@torch.no_grad()
def test_only_the_chosen_tasks_units_are_finite() -> None:
    running = made("class")
    with torch.enable_grad():
        finish(running)
    strategy, x = method(running), pixels(running)
    strategy.train(False)
    for task in (None, 0, 2):
        logits = strategy.predict(x, task)
        chosen = strategy.infer_task(x) if task is None else torch.full((len(x),), task)
        own = running.scenario.mask(chosen, "own", 2)
        assert logits.shape == (len(x), 6)
        assert torch.equal(logits.isfinite(), own)
    assert len(strategy.infer_task(x).unique()) > 1


@torch.no_grad()
def test_tasks_of_unequal_size_keep_to_their_units() -> None:
    running = made("class", stream={"tasks": 3, "first_task": 4, "classes_per_task": 2})
    with torch.enable_grad():
        finish(running)
    strategy, x = method(running), pixels(running)
    strategy.train(False)
    logits = strategy.predict(x, None)
    assert logits.shape == (len(x), 8)
    assert torch.equal(logits.isfinite(), running.scenario.mask(strategy.infer_task(x), "own", 2))


@torch.no_grad()
def test_tasks_in_small_groups_are_inferred_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    running = made("domain")
    with torch.enable_grad():
        finish(running)
    strategy, x = method(running), pixels(running)
    strategy.train(False)
    whole = strategy.predict(x, None)
    monkeypatch.setattr("raycl.strategies.hypernetwork.hypernetwork.EVALUATION_NUMBERS", 1)
    strategy._generated.clear()
    assert torch.allclose(strategy.predict(x, None), whole, atol=1e-5)


def test_tasks_of_a_single_class_cannot_be_found_by_entropy() -> None:
    stream = {"tasks": 3, "first_task": 1, "classes_per_task": 2}
    with pytest.raises(MethodError, match="a network of one class is always certain"):
        made("class", stream=stream)
    made("task", stream=stream)


def test_evaluation_sees_theta_as_it_stands() -> None:
    running = made()
    running.run_task()
    strategy, x = method(running), pixels(running)
    with torch.no_grad():
        early = strategy.predict(x, 0)
    running.run_task()
    with torch.no_grad():
        late = strategy.predict(x, 0)
        expected = strategy.target.forward(weights(running, 0), strategy._states[0], x)
    finite = late.isfinite()
    assert torch.equal(late[finite].view(len(x), 2), expected)
    assert not torch.equal(early[:, :2], late[:, :2])


def test_batch_norm_keeps_the_statistics_of_each_task() -> None:
    running = made(model={"norm": "batch"}, options={"beta": 10.0})
    running.run_task()
    before = {name: value.clone() for name, value in method(running)._states[0].items()}
    running.run_task()
    now = method(running)._states
    assert before
    assert all(torch.equal(now[0][name], value) for name, value in before.items())
    assert not all(torch.equal(now[1][name], value) for name, value in before.items())


IMAGE_MODELS: dict[str, dict[str, Any]] = {
    "cnn": {"stream": {}, "model": {"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "batch"}},
    "resnet": {"stream": {"pad": 4}, "model": {"name": "resnet18", "width": 4}},
}


@pytest.mark.parametrize("name", ["cnn", pytest.param("resnet", marks=pytest.mark.slow)])
def test_convolutional_targets_learn_and_answer_old_tasks_with_their_own_statistics(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TINY, "model", {})
    options = {"beta": 1.0, "chunk_size": 2000}
    running = made(options=options, training={"epochs": 4, "reset_optimizer": False}, **IMAGE_MODELS[name])
    matrix = AccuracyMatrix.of(finish(running), running.num_tasks)
    assert matrix.average_accuracy() > 0.9
    strategy = method(running)
    normalised = [key for key in strategy._states[0] if key.endswith("running_var")]
    assert normalised
    assert strategy.state_bytes() > 4 * strategy.parameter_count(), "statistics are charged"
    x = pixels(running)
    strategy.train(False)
    with torch.no_grad():
        together, alone = strategy._logits([0, 1, 2], x), [strategy._logits([task], x)[0] for task in range(3)]
        strategy._states[0], strategy._states[2] = strategy._states[2], strategy._states[0]
        mixed_up = strategy._logits([0], x)[0]
    assert torch.allclose(together, torch.stack(alone), atol=1e-4)
    assert not torch.allclose(mixed_up, alone[0], atol=1e-2), "the mutant: statistics of another task"


# -- size and limits -----------------------------------------------------------------------------------------------


def test_the_compression_ratio_counts_everything_trainable() -> None:
    running = made()
    running.run_task()
    running.run_task()
    strategy = method(running)
    shared = sum(value.numel() for value in strategy.generator.theta.values())
    assert strategy.parameter_count() == shared + 2 * 8
    assert strategy.compression_ratio() == (shared + 16) / (64 * 32 + 32 + 32 * 2 + 2)
    assert strategy.state_bytes() == 4 * (strategy.parameter_count() + shared), "theta as it was is charged too"
    assert method(made(options={"beta": 0.0})).protected.held_bytes() == 0


def test_a_network_above_the_allowed_ratio_is_refused() -> None:
    with pytest.raises(MethodError, match="max_compression_ratio"):
        finish(made(limits={"max_compression_ratio": 0.1}))


def test_generator_widths_can_be_searched() -> None:
    text = """
name: q
stream: {name: split, dataset: digits, tasks: 5, scenario: class}
model: {name: mlp, hidden: [32]}
strategies:
  hypernetwork: {hidden: {choice: [[10, 10], [25, 25], []]}}
  usual: {strategy: hypernetwork, hidden: search}
search: {trials: 2, seeds: [0]}
limits: {max_compression_ratio: 1.0}
"""
    ours, usual = SweepSpec.parse(text, catalog()).entries
    found = ours.space["hidden"]
    assert isinstance(found, Choice)
    assert [found.decode(label) for label in found.choices] == [[10, 10], [25, 25], []]
    assert usual.space["hidden"].word == "choice"
    assert [method(made(options={"hidden": widths})).generator.features_dim for widths in ([25, 20], [])] == [20, 16]


def test_a_softmax_over_units_that_are_not_generated_is_refused() -> None:
    with pytest.raises(SpecError, match="own task's head"):
        made("class", training={"active_logits": "seen"})
