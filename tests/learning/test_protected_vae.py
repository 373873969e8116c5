"""Decoders that a hypernetwork keeps: what old ones draw, what moves them, and what the loss is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycl.learning.fused import FusedOptimizer
from raycl.learning.protected_vae import ProtectedVAE, ProtectedVAEOptions
from raycl.models.vae import Decoder, evidence_loss

SHAPE = (1, 4, 5)
SMALL: dict[str, Any] = {
    "chunk_size": 100,
    "task_embedding_dim": 8,
    "chunk_embedding_dim": 8,
    "latent_dim": 3,
    "encoder_hidden": [16],
    "decoder_hidden": [12],
}


def made(tasks: int, **options: Any) -> ProtectedVAE:
    config = ProtectedVAEOptions.model_validate({**SMALL, **options}, strict=False)
    random = torch.Generator().manual_seed(0)
    vae = ProtectedVAE(SHAPE, config, (random, random), torch.device("cpu"))
    for _ in range(tasks):
        vae.grow()
    return vae


def adam(parameters: Sequence[nn.Parameter]) -> FusedOptimizer:
    return FusedOptimizer("adam", [{"params": parameters, "lr": 1e-2, "weight_decay": 0.0}])


def decoder_of(vae: ProtectedVAE, task: int) -> Decoder:
    """An ordinary decoder with a task's generated weights."""
    decoder, weights = Decoder(SHAPE, (12,), 3), iter(vae.protected.weights([task])[0].split(vae.decoder.sizes))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(next(weights).view(parameter.shape))
    return decoder


def images(kind: int, rows: int = 32) -> Tensor:
    """Bright above (0), below (1), left (2)."""
    x = torch.full((rows, *SHAPE), 0.1)
    [x[:, :, :2], x[:, :, 2:], x[:, :, :, :2]][kind].fill_(0.9)
    return x


@pytest.mark.parametrize(("old", "replays", "each"), [(1, 10, 10), (3, 10, 4), (4, 2, 1)])
def test_each_old_decoder_draws_an_equal_number_of_images(old: int, replays: int, each: int) -> None:
    vae = made(old + 1)
    vae.begin(replays)
    state = vae._random.get_state()
    drawn = vae.replay()
    vae._random.set_state(state)
    z = torch.randn(old * each, 3, generator=vae._random).split(each)
    with torch.no_grad():
        expected = torch.cat([decoder_of(vae, task)(own).sigmoid() for task, own in enumerate(z)])
    assert torch.allclose(drawn, expected, atol=1e-6)
    assert torch.equal(vae.origins, torch.arange(old).repeat_interleave(each))
    assert not torch.equal(vae.replay(), drawn), "new latent vectors in every update"


def test_old_decoders_are_made_when_the_task_begins() -> None:
    """What is learned later on does not reach the replays of this task."""
    vae = made(3)
    vae.begin(8)
    state = vae._random.get_state()
    before = vae.replay()
    with torch.no_grad():
        for parameter in vae.protected.generator.parameters():
            parameter.add_(1.0)
    vae._random.set_state(state)
    assert torch.equal(vae.replay(), before)
    vae.begin(8)
    vae._random.set_state(state)
    assert not torch.equal(vae.replay(), before)


def test_the_loss_is_the_evidence_per_pixel_with_the_current_decoder() -> None:
    vae, x = made(3), images(0)
    state = vae._random.get_state()
    loss = vae.loss(x)
    vae._random.set_state(state)
    noise = torch.randn(len(x), 3, generator=vae._random)
    for task, close in ((2, True), (1, False)):
        expected = evidence_loss(vae.encoder, decoder_of(vae, task), x, noise).mean() / 20
        assert torch.allclose(loss, expected, rtol=1e-5) == close


def learn(vae: ProtectedVAE, kind: int, updates: int = 150) -> None:
    """One task: every parameter that it trains, by an optimiser of its own."""
    vae.grow()
    vae.begin(8)
    optimizers = {name: adam(own) for name, own in vae.parameters().items()}
    for _ in range(updates):
        vae.backward(vae.loss(images(kind)), optimizers["decoder_theta"], 0.0)
        for optimizer in optimizers.values():
            optimizer.step()
    vae.end(dict)


def brightness(vae: ProtectedVAE, task: int) -> Tensor:
    """Mean image of a task's decoder ``[height, width]``."""
    z = torch.randn(200, 3, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        mean: Tensor = decoder_of(vae, task)(z).sigmoid().mean((0, 1))
    return mean


def drift(beta: float) -> tuple[float, float]:
    """How far the first task's decoder and its mean image move while two more are learned."""
    vae = made(0, beta=beta)
    learn(vae, 0)
    weights, image = vae.protected.weights([0])[0], brightness(vae, 0)
    learn(vae, 1)
    learn(vae, 2)
    moved = (vae.protected.weights([0])[0] - weights).norm() / weights.norm()
    return float(moved), float((brightness(vae, 0) - image).abs().mean())


def test_old_decoders_stay_where_they_were_and_drift_without_the_regulariser() -> None:
    held, free = drift(10.0), drift(0.0)
    assert held[0] < 0.1 < 3 * held[0] + 0.1 < free[0]
    assert held[1] < 0.05
    assert free[1] > 0.15, "the mutant forgets what the first task looked like"


def untouched(where: str) -> list[set[str]]:
    """Whose gradients are those of the loss alone, in a task's first two updates."""
    vae = made(0, beta=10.0, lookahead=where)
    learn(vae, 0)
    vae.grow()
    vae.begin(8)
    optimizer = adam(vae.parameters()["decoder_theta"])
    found: list[set[str]] = []
    for _ in range(2):
        state = vae._random.get_state()
        loss = vae.loss(images(1))
        slopes = {name: torch.autograd.grad(loss, own, retain_graph=True) for name, own in vae.parameters().items()}
        vae._random.set_state(state)
        vae.backward(vae.loss(images(1)), optimizer, 0.0)
        pairs = {name: zip(slopes[name], own, strict=True) for name, own in vae.parameters().items()}
        found.append({name for name, own in pairs.items() if all(torch.equal(slope, one.grad) for slope, one in own)})
        optimizer.step()
    return found


def test_the_regulariser_reaches_theta_alone_and_looks_ahead() -> None:
    """In a task's first update theta is where it is held: only one step ahead is there anything to regularise."""
    others = {"decoder_embedding", "encoder"}
    assert untouched("detached") == [others, others]
    assert untouched("off") == [{"decoder_theta", *others}, others]


def test_embeddings_of_old_tasks_are_in_no_optimiser_and_the_encoder_is_not_held() -> None:
    vae = made(0, beta=10.0)
    learn(vae, 0)
    first, encoder = vae.protected.embeddings[0].detach().clone(), vae.encoder.moments.weight.detach().clone()
    learn(vae, 1)
    assert torch.equal(vae.protected.embeddings[0], first)
    assert not torch.equal(vae.encoder.moments.weight, encoder)
    trained = [parameter for own in vae.parameters().values() for parameter in own]
    assert not any(parameter is vae.protected.embeddings[0] for parameter in trained)
    assert any(parameter is vae.protected.embeddings[1] for parameter in trained)


def test_every_task_draws_what_it_learned() -> None:
    vae = made(0, beta=1.0)
    for kind in range(3):
        learn(vae, kind)
    for kind in range(3):
        assert (brightness(vae, kind) - images(kind)[0, 0]).abs().mean() < 0.15


def test_its_state_can_be_put_back() -> None:
    vae, other = made(2), made(2)
    with torch.no_grad():
        for parameter in (*vae.protected.generator.parameters(), *vae.protected.embeddings, *vae.encoder.parameters()):
            parameter.add_(torch.rand(parameter.shape))
    other.load_state_dict(vae.state_dict())
    for x in (vae, other):
        x._random.manual_seed(1)
        x.begin(4)
    assert torch.equal(vae.replay(), other.replay())
    assert torch.equal(vae.loss(images(0)), other.loss(images(0)))
    assert vae.parameter_count() == sum(parameter.numel() for parameter in vae.encoder.parameters()) + (
        sum(parameter.numel() for parameter in vae.protected.generator.parameters()) + 2 * 8
    )
