"""HNET+TIR: how tasks are told apart, which network then answers, and what each phase learns from; and its mutants."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from support import ahead, evaluation_rows, finish, matrix, trainer, trial
from torch import Tensor, nn

from raycl.catalog import catalog
from raycl.errors import MethodError, SpecError
from raycl.learning.protected_vae import ProtectedVAE
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec
from raycl.strategies.base import TaskData
from raycl.strategies.hypernetwork.task_inference import HypernetworkTIR, HypernetworkTIRConfig
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

CLASSIFIER: dict[str, Any] = {"chunk_size": 500, "task_embedding_dim": 8, "chunk_embedding_dim": 8}
VAE: dict[str, Any] = {"chunk_size": 1000, "latent_dim": 10, "encoder_hidden": [64], "decoder_hidden": [32]}
LEARNED: dict[str, Any] = {
    "training": {"iterations": 250, "batch_size": 32},
    "options": {"beta": 1.0, "vae": {**VAE, "beta": 1.0}},
}
"""Enough to draw digits."""


def spec(scenario: str = "class", options: dict[str, Any] | None = None, **blocks: Any) -> TrialSpec:
    return trial("hypernetwork_tir", scenario, options={**CLASSIFIER, "vae": VAE, **(options or {})}, **blocks)


def method(running: Trainer) -> HypernetworkTIR:
    assert isinstance(running.strategy, HypernetworkTIR)
    return running.strategy


def after(tasks: int, scenario: str = "class", options: dict[str, Any] | None = None, **blocks: Any) -> Trainer:
    """A trial that has learned so many tasks."""
    return ahead(spec(scenario, options, **blocks), tasks)


def begun(running: Trainer) -> HypernetworkTIR:
    """The trial's method at the beginning of its next task."""
    ours = method(running)
    ours.grow(running.next_task)
    ours.begin_task(running.next_task, cast(TaskData, None))
    return ours


@cache
def learned() -> Trainer:
    """A whole class-incremental trial that draws digits well enough; tests leave it as it is."""
    running = trainer(spec(**LEARNED))
    finish(running)
    running.strategy.train(False)
    return running


def pixels(running: Trainer, rows: int = 60) -> tuple[Tensor, Tensor]:
    """Rows of all tasks, mixed, and their tasks."""
    batches = [evaluation_rows(running, task) for task in range(running.num_tasks)]
    x, task = torch.cat([batch.x for batch in batches]), torch.cat([batch.task for batch in batches])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:rows]
    return x[order], task[order]


# -- inference and prediction --------------------------------------------------------------------------------------


@torch.no_grad()
def check_each_row_by_its_own_network(running: Trainer) -> None:
    ours, (x, _) = method(running), pixels(running)
    ours.train(False)
    chosen = ours.infer_task(x)
    assert torch.equal(chosen, ours.inference(x).argmax(1))
    assert len(chosen.unique()) > 1
    hidden = ours.predict(x, None)
    for row, task in enumerate(chosen.tolist()):
        alone = ours.predict(x[row : row + 1], task)[0]
        assert torch.allclose(hidden[row], alone, atol=1e-5)


@pytest.mark.parametrize("scenario", ["domain", "class"])
def test_each_row_is_answered_by_the_network_of_its_inferred_task(scenario: str) -> None:
    running = learned() if scenario == "class" else after(3, "domain", model={"norm": "batch"})
    check_each_row_by_its_own_network(running)


@torch.no_grad()
def test_an_id_that_the_batch_agrees_on_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: all rows of a batch are taken to belong to the task that most of them seem to belong to."""
    infer = HypernetworkTIR.infer_task

    def majority(self: HypernetworkTIR, x: Tensor) -> Tensor:
        chosen = infer(self, x)
        return torch.full_like(chosen, int(chosen.mode().values))

    ours, (x, _) = method(learned()), pixels(learned())

    def leaks() -> bool:
        whole = ours.infer_task(x)
        return not torch.equal(torch.cat([ours.infer_task(row) for row in x.split(1)]), whole)

    assert not leaks()
    monkeypatch.setattr(HypernetworkTIR, "infer_task", majority)
    assert leaks()
    with pytest.raises(AssertionError):
        check_each_row_by_its_own_network(learned())


@torch.no_grad()
def test_tasks_are_inferred_and_only_their_units_answer() -> None:
    ours, (x, task) = method(learned()), pixels(learned())
    chosen = ours.infer_task(x)
    assert (chosen == task).float().mean() > 0.7
    logits = ours.predict(x, None)
    assert logits.shape == (60, 6)
    assert torch.equal(logits.isfinite(), ours.context.scenario.mask(chosen, "own", 2))


def test_there_is_one_output_per_task_begun() -> None:
    running = trainer(spec())
    for task in range(3):
        assert running.run_task()
        assert method(running).inference.head.outputs == task + 1


# -- what task inference learns from -------------------------------------------------------------------------------


def check_inference_loss(share: float = 0.5) -> None:
    ours = begun(after(2, options={"replay_share": share}))
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = ours.context.scenario.labels(torch.arange(5) % 2, 2)
    batch = Batch((255 * x).byte(), x, y, torch.full((5,), 2), torch.zeros(5, dtype=torch.bool))
    state = ours.vae._random.get_state()
    losses = ours.inference_loss(batch)
    ours.vae._random.set_state(state)
    drawn = ours.vae.replay()
    each = [
        nn.functional.cross_entropy(ours.inference(drawn[8 * old : 8 * old + 8]), torch.full((8,), old))
        for old in (0, 1)
    ]
    assert len(drawn) == 16
    new = nn.functional.cross_entropy(ours.inference(x), torch.full((5,), 2))
    assert torch.allclose(losses["inference"], (1 - share) * new, rtol=1e-5)
    assert torch.allclose(losses["replay"], share * (each[0] + each[1]) / 2, rtol=1e-5)


def test_new_rows_are_labelled_with_their_task_and_replays_with_theirs() -> None:
    check_inference_loss()
    check_inference_loss(0.2)


def test_labels_of_another_task_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: replays count as rows of the task that they are replayed in."""
    begin = ProtectedVAE.begin

    def wrong(self: ProtectedVAE, replays: int) -> None:
        begin(self, replays)
        self.origins = torch.full_like(self.origins, len(self.protected.embeddings) - 1)

    monkeypatch.setattr(ProtectedVAE, "begin", wrong)
    with pytest.raises(AssertionError):
        check_inference_loss()


@pytest.fixture(scope="module")
def naive_accuracy() -> float:
    return matrix(trial("naive", "class", training=LEARNED["training"])).average_accuracy()


def test_inference_keeps_what_naive_forgets(naive_accuracy: float) -> None:
    ours, (x, task) = method(learned()), pixels(learned(), 170)
    with torch.no_grad():
        right = (ours.predict(x, None).argmax(1) // 2 == task).float().mean()
    assert right > naive_accuracy + 0.3


def test_inference_from_noise_knows_the_last_task_only(monkeypatch: pytest.MonkeyPatch, naive_accuracy: float) -> None:
    replay = ProtectedVAE.replay
    monkeypatch.setattr(ProtectedVAE, "replay", lambda self: torch.rand(replay(self).shape, generator=self._random))
    assert matrix(spec(**LEARNED)).average_accuracy() < naive_accuracy + 0.1


# -- what each phase moves -----------------------------------------------------------------------------------------


def test_the_first_task_is_the_hypernetworks_and_has_nothing_to_infer() -> None:
    ours, theirs = after(1), trainer(trial("hypernetwork", "class", options=CLASSIFIER))
    untrained = trainer(spec())
    theirs.run_task()
    untrained.strategy.grow(0)
    generators = [running.strategy.generator.state_dict() for running in (ours, theirs)]  # type: ignore[attr-defined]
    assert all(torch.equal(value, generators[1][name]) for name, value in generators[0].items())
    before, now = (method(running).inference.state_dict() for running in (untrained, ours))
    assert all(torch.equal(value, now[name]) for name, value in before.items())


def parts(ours: HypernetworkTIR) -> dict[str, nn.Module]:
    return {
        "classifiers": ours.generator,
        "inference": ours.inference,
        "decoders": ours.vae.protected.generator,
        "encoder": ours.vae.encoder,
    }


def test_each_phase_moves_its_own_part_only() -> None:
    running = after(1, training={"optimizer": "adamw", "weight_decay": 0.1})
    ours = method(running)
    train, marks = ours.train, []

    def mark(mode: bool) -> None:  # the trainer calls it at the beginning of each phase
        state = {name: part.state_dict() for name, part in parts(ours).items()}
        marks.append({name: {key: value.clone() for key, value in own.items()} for name, own in state.items()})
        train(mode)

    ours.train = mark  # type: ignore[method-assign]
    running.run_task()
    moved = [
        {
            name
            for name, own in before.items()
            if any(not torch.equal(value, later[name][key]) for key, value in own.items())
        }
        for before, later in pairwise(marks[1:5])
    ]
    assert moved == [{"classifiers"}, {"inference"}, {"decoders", "encoder"}]


def test_embeddings_of_old_tasks_never_move() -> None:
    running = after(0, training={"reset_optimizer": False, "weight_decay": 0.1})
    seen: list[Tensor] = []
    while not running.done:
        running.run_task()
        ours = method(running)
        embeddings = [
            pair for task in zip(ours.embeddings, ours.vae.protected.embeddings, strict=True) for pair in task
        ]
        assert all(torch.equal(before, now) for before, now in zip(seen, embeddings, strict=False))
        seen = [embedding.detach().clone() for embedding in embeddings]
    assert len(seen) == 6


def test_classifiers_and_decoders_are_protected_each_with_its_own_strength() -> None:
    def drift(beta: float, vae_beta: float) -> tuple[float, float]:
        running = after(1, options={"beta": beta, "vae": {**VAE, "beta": vae_beta}})
        made = (method(running).protected, method(running).vae.protected)
        before = [generator.weights([0])[0] for generator in made]
        running.run_task()
        moved = [generator.weights([0])[0] for generator in made]
        classifier, decoder = (float((b - a).norm() / a.norm()) for a, b in zip(before, moved, strict=True))
        return classifier, decoder

    classifiers, decoders = drift(1000.0, 0.0), drift(0.0, 100.0)
    assert classifiers[0] < 0.05 < 0.15 < classifiers[1]
    assert decoders[1] < 0.05 < 0.15 < decoders[0]


# -- size, options -------------------------------------------------------------------------------------------------


def test_everything_is_charged() -> None:
    ours = method(after(2))
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts(ours).items()}
    assert sizes["inference"] == 65 * 32 + 33 * 2
    assert ours.parameter_count() == sum(sizes.values()) + 2 * 8 + 2 * 96
    held = sizes["classifiers"] + sizes["decoders"]
    assert ours.state_bytes() == 4 * (ours.parameter_count() + held), "generators as they were are charged too"
    made = (65 * 32 + 33 * 2) + (11 * 32 + 33 * 64)
    assert ours.compression_ratio() == (sizes["classifiers"] + sizes["decoders"] + 16 + 192) / made
    with pytest.raises(MethodError, match="max_compression_ratio"):
        trainer(spec(limits={"max_compression_ratio": 0.1})).run_task()


SWEEP = """
name: q
stream: {name: split, dataset: digits, tasks: 5, scenario: SCENARIO, normalize: unit}
model: {name: mlp, hidden: [32]}
strategies: {hypernetwork_tir: search}
search: {trials: 2, seeds: [0]}
"""


def test_its_usual_space_reaches_both_hypernetworks() -> None:
    (entry,) = SweepSpec.parse(SWEEP.replace("SCENARIO", "class"), catalog()).entries
    assert {"beta", "hidden", "task_embedding_dim", "vae.beta", "vae.chunk_size"} <= entry.space.keys()


def test_a_given_task_id_is_refused() -> None:
    with pytest.raises(SpecError, match="cannot do scenario 'task', only class, domain"):
        SweepSpec.parse(SWEEP.replace("SCENARIO", "task"), catalog())


@pytest.mark.parametrize("normalize", ["mean_std", "none"])
def test_pixels_outside_the_unit_interval_are_refused(normalize: str) -> None:
    with pytest.raises(SpecError, match=r"stream.normalize: the generator draws pixels in \[0, 1\]; use unit"):
        trainer(spec(stream={"normalize": normalize}))


def test_options_are_strict() -> None:
    assert HypernetworkTIRConfig().vae.decoder_hidden == (50, 150)
    for wrong in (
        {"vae": {"decoder_hidden": []}},
        {"vae": {"betas": 1}},
        {"replay_share": 2},
        {"task_inference": "entropy"},
    ):
        with pytest.raises(ValidationError):
            HypernetworkTIRConfig.model_validate_json(json.dumps(wrong))
