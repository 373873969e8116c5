"""Starts, noise and dropout of a hypernetwork, and the network of any embedding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from strategies.every_method import OPTIONS, assert_equal_state, small, stopped_after_every_task
from support import counts, evaluation_rows, finish, trainer

from raycl.catalog import catalog
from raycl.errors import SpecError
from raycl.spec.sweep import SweepSpec
from raycl.strategies.hypernetwork.hypernetwork import Hypernetwork
from raycl.strategies.phases import Source
from raycl.trial.check import over_limits
from raycl.trial.trainer import Trainer

METHODS = ("hypernetwork", "hypernetwork_tir", "hypernetwork_replay")
NOISY = {"embedding_noise": 0.1, "dropout": 0.1, "hidden": [20, 20]}


def made(**options: Any) -> Trainer:
    return trainer(small("hypernetwork", "task", options=options))


def method(running: Trainer) -> Hypernetwork:
    strategy = running.strategy
    assert isinstance(strategy, Hypernetwork)
    return strategy


@pytest.mark.parametrize(("option", "read"), [("task_embedding_std", "task"), ("chunk_embedding_std", "chunk")])
def test_embeddings_start_with_their_deviation(option: str, read: str) -> None:
    plain, wide = made(), made(**{option: 5.0})
    found = []
    for running in (plain, wide):
        running.strategy.grow(0)
        own = method(running)
        found.append((own.embeddings[0] if read == "task" else own.generator.chunks).detach())
    assert torch.equal(found[1], 5 * found[0])


def test_a_new_embedding_may_start_at_the_last_one() -> None:
    drawn, last = made(), made(new_embedding="last")
    for running in (drawn, last):
        running.run_task()
        running.strategy.grow(1)
    assert not torch.equal(method(drawn).embeddings[0], method(drawn).embeddings[1])
    assert torch.equal(method(last).embeddings[0], method(last).embeddings[1])


def test_noise_and_dropout_are_in_updates_alone() -> None:
    running = made(**NOISY)
    running.run_task()
    protected = method(running).protected
    assert not torch.equal(protected.current(), protected.current())
    assert torch.equal(protected.weights([0]), protected.weights([0]))


def test_decoders_have_a_ratio_of_their_own() -> None:
    running = trainer(small("hypernetwork_replay", "class"))
    told = running.run_task()[-1].measures
    pixels = 64
    assert told["target_parameters"] == 10 * 32 + 32 + 32 * pixels + pixels
    assert told["compression_ratio"] == pytest.approx(running.strategy.compression_ratio())


@pytest.mark.parametrize("option", ["embedding_noise", "dropout"])
def test_each_of_them_disturbs_by_itself(option: str) -> None:
    running = made(**{"hidden": [20, 20], option: NOISY[option]})
    running.run_task()
    protected = method(running).protected
    assert not torch.equal(protected.current(), protected.current())


@pytest.mark.parametrize("name", METHODS)
def test_resuming_equals_never_having_stopped(name: str) -> None:
    options = {**NOISY, "new_embedding": "last", "init": "hyperfan", "task_embedding_std": 0.5}
    options |= {"old_embeddings": "learned", "beta": 0.1}
    vae = dict(options)
    if name != "hypernetwork_replay":
        options |= {"penalty": 10.0, "online_decay": 0.5, "fisher": "sampled", "layer": "2"}
    if name == "hypernetwork_tir":
        options["vae"] = {
            **vae,
            "chunk_size": 1000,
            "latent_dim": 10,
            "encoder_hidden": [64],
            "decoder_hidden": [32],
        }
    spec = small(name, "class", options=options)
    whole = trainer(spec)
    rows = finish(whole)
    resumed, resumed_rows = stopped_after_every_task(spec)
    assert counts(resumed_rows) == counts(rows)
    assert_equal_state(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("asked", ["learned", "fixed"])
def test_old_embeddings_move_where_they_are_asked_to_and_what_they_make_is_kept(name: str, asked: str) -> None:
    own = {"old_embeddings": asked, "beta": 10.0}
    options = {"vae": {**OPTIONS["hypernetwork_tir"]["vae"], **own}} if name == "hypernetwork_tir" else own
    running = trainer(small(name, "class", options=options, training={"reset_optimizer": False}))
    strategy: Any = running.strategy
    protected = strategy.protected if name == "hypernetwork" else strategy.vae.protected
    running.run_task()
    embedding, weights = protected.embeddings[0].detach().clone(), protected.weights([0])
    running.run_task()
    assert torch.equal(protected.embeddings[0], embedding) == (asked == "fixed")
    assert (protected.weights([0]) - weights).norm() < 0.1 * weights.norm()


def test_hyperfan_learns_and_keeps() -> None:
    running = made(init="hyperfan")
    rows = finish(running)
    assert (rows[-1].correct / rows[-1].total).mean() > 0.9


def test_hyperfan_is_refused_where_a_norm_has_scales() -> None:
    with pytest.raises(SpecError, match="scales of a norm start at 1; use xavier"):
        trainer(small("hypernetwork", "task", options={"init": "hyperfan"}, model={"hidden": [16], "norm": "batch"}))


def test_the_network_of_a_tasks_embedding_is_that_tasks() -> None:
    running = made()
    finish(running)
    own = method(running)
    own.train(False)
    x = evaluation_rows(running, 1).x
    with torch.no_grad():
        expected = own.predict(x, 1)[:, 2:4]
    found = own.at_embedding(own.embeddings[1].detach(), x, 1)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(own.at_embedding(torch.zeros_like(own.embeddings[1]), x, 1), expected)


def test_a_task_is_judged_by_the_network_that_keep_best_keeps() -> None:
    """What was generated for judging passes is of later weights than those that are put back."""
    training = {"epochs": 6, "keep_best": True, "held_out": 0.2, "learning_rate": 3e-2}
    running = trainer(small("hypernetwork", "task", training=training))
    running.run_task()
    own, x = method(running), evaluation_rows(running, 0).x
    own.train(False)
    with torch.no_grad():
        found = own.predict(x, 0)[:, :2]
    torch.testing.assert_close(found, own.at_embedding(own.embeddings[0].detach(), x, 0))
    assert running.trial.revisions["kept weights"] == 2


def test_ratio_and_size_of_the_target_are_told_with_each_row() -> None:
    running = made()
    rows = running.run_task()
    own = method(running)
    assert rows[-1].measures["target_parameters"] == 64 * 32 + 32 + 32 * 2 + 2
    assert rows[-1].measures["compression_ratio"] == pytest.approx(own.parameter_count() / own.target.numel)


def test_a_ratio_over_its_limit_is_known_before_training() -> None:
    """Trainable weights after the last task, all embeddings included, over those of the target."""
    text = """
name: ratios
stream: {name: split, dataset: digits, tasks: 5, scenario: task}
model: {name: mlp, hidden: [32]}
training: {iterations: 5}
strategies:
  hypernetwork: {task_embedding_dim: 4, chunk_embedding_dim: 4, hidden: [8], chunk_size: {lograndint: [50, 3000]}}
search: {trials: 2}
final: {seeds: [1]}
limits: {max_compression_ratio: 1.0}
"""
    sweep = SweepSpec.parse(text, catalog())
    broken = over_limits(sweep, sweep.entries[0])
    target, theta = 64 * 32 + 32 + 32 * 2 + 2, (8 * 8 + 8) + (8 * 100 + 100) + 22 * 4
    assert not broken({"chunk_size": 100})
    assert (theta + 5 * 4) / target < 1
    wide = (8 * 8 + 8) + (8 * 2146 + 2146) + 4
    assert broken({"chunk_size": 3000}) == f"limits.max_compression_ratio is 1.0 (got {(wide + 5 * 4) / target})"


# -- real images in place of drawn ones --------------------------------------------------------------------------------


def storing(name: str, **blocks: Any) -> Trainer:
    options: dict[str, Any] = {"replays": "stored"}
    if name == "hypernetwork_tir":
        vae = {"chunk_size": 1000, "latent_dim": 10, "encoder_hidden": [64], "decoder_hidden": [32]}
        options = {"vae": {**vae, **options}}
    return trainer(small(name, "class", options=options, **blocks))


@pytest.mark.parametrize("name", ["hypernetwork_replay", "hypernetwork_tir"])
def test_stored_replays_are_rows_of_every_old_task_alike(name: str) -> None:
    running = storing(name)
    images = [running._rows.pool(Source.CURRENT, task)[0] for task in range(2)]
    rows = [{tuple(row) for row in pool.gather(torch.arange(len(pool))).x.flatten(1).tolist()} for pool in images]
    for _ in range(2):
        running.run_task()
    vae = running.strategy.vae  # type: ignore[attr-defined]
    running.strategy.grow(2)
    vae.begin(10)
    drawn = [tuple(row) for row in vae.replay().flatten(1).tolist()]
    assert vae.origins.tolist() == [0] * 5 + [1] * 5
    assert all(row in rows[task] for row, task in zip(drawn, vae.origins.tolist(), strict=True))
    assert drawn != [tuple(row) for row in vae.replay().flatten(1).tolist()]


@pytest.mark.parametrize("name", ["hypernetwork_replay", "hypernetwork_tir"])
def test_stored_images_are_state_and_nothing_is_drawn(name: str) -> None:
    running = storing(name)
    rows = finish(running)
    vae = running.strategy.vae  # type: ignore[attr-defined]
    kept = sum(len(own) for own in vae._images)
    assert kept == sum(len(running._rows.pool(Source.CURRENT, task)[0]) for task in range(3))
    assert rows[-1].cost.state_bytes > kept * 64
    assert "draw" not in [phase.name for phase in running.strategy.phases(2)]
    resumed, resumed_rows = stopped_after_every_task(running.trial)
    assert counts(resumed_rows) == counts(rows)
    assert_equal_state(resumed.state_dict(), running.state_dict())


def test_real_images_keep_what_was_learned() -> None:
    row = finish(storing("hypernetwork_replay", training={"epochs": 8}))[-1]
    assert (row.correct / row.total).min() > 0.85


def test_without_generators_there_is_no_ratio() -> None:
    running = storing("hypernetwork_replay")
    assert running.run_task()[-1].measures == {}
    assert running.strategy.compression_ratio() is None
