"""The variational autoencoder: closed forms, shapes, seeds, and that it learns to draw."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raycl.models.network import initialize
from raycl.models.vae import VAE, Decoder, GeneratedDecoder, divergence, evidence_loss, reconstruction_loss


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vae(seed: int = 0) -> VAE:
    return VAE((1, 4, 5), (16, 12), 3, seeded(seed))


@torch.no_grad()
def drawn_by(model: VAE, count: int, random: torch.Generator) -> Tensor:
    """Images ``[count, 1, 4, 5]``: the means of the pixels for z ~ N(0, I)."""
    return model.decoder(torch.randn(count, 3, generator=random)).sigmoid()


def images(count: int = 64) -> Tensor:
    """Two kinds of image: bright above or bright below, with some noise."""
    kind = torch.arange(count) % 2
    above = torch.tensor([0.9, 0.1])[kind]
    rows = torch.stack([above, above, 1 - above, 1 - above], 1)
    noise = 0.2 * torch.rand(count, 1, 4, 5, generator=seeded(1)) - 0.1
    return rows[:, None, :, None] + noise


def test_the_divergence_is_that_of_normal_distributions() -> None:
    mean, log_variance = torch.randn(2, 7, 3, generator=seeded())
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(divergence(mean, log_variance), expected, rtol=1e-5)


def test_reconstruction_is_a_cross_entropy_summed_over_pixels() -> None:
    logits, x = 2 * torch.randn(7, 1, 4, 5, generator=seeded()), torch.rand(7, 1, 4, 5, generator=seeded(1))
    expected = nn.functional.binary_cross_entropy(logits.sigmoid(), x, reduction="none").sum((1, 2, 3))
    assert torch.allclose(reconstruction_loss(logits, x), expected, rtol=1e-4)
    assert torch.isfinite(reconstruction_loss(1e4 * logits, x)).all()


def test_the_loss_is_per_image() -> None:
    model, x, noise = vae(), images(6), torch.randn(6, 3, generator=seeded())
    each = torch.cat([model.loss(x[[row]], noise[[row]]) for row in range(6)])
    assert torch.allclose(model.loss(x, noise), each, rtol=1e-4)


def test_the_decoder_mirrors_the_encoder() -> None:
    def widths(module: nn.Module) -> list[tuple[int, int]]:
        return [(layer.in_features, layer.out_features) for layer in module.modules() if isinstance(layer, nn.Linear)]

    model = vae()
    assert widths(model.encoder) == [(20, 16), (16, 12), (12, 6)]
    assert widths(model.decoder) == [(3, 12), (12, 16), (16, 20)]


def test_the_generator_decides_weights() -> None:
    first, again, other = (drawn_by(vae(seed), 5, seeded(2)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_it_learns_to_draw_both_kinds_of_image() -> None:
    model, x, random = vae(), images(), seeded(4)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        loss = model.loss(x, torch.randn(len(x), 3, generator=random)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = drawn_by(model, 400, random)
    assert drawn.shape == (400, 1, 4, 5)
    assert 0 <= drawn.min() <= drawn.max() <= 1
    above, below = drawn[:, :, :2].mean((1, 2, 3)), drawn[:, :, 2:].mean((1, 2, 3))
    assert torch.minimum(above, below).mean() == pytest.approx(0.1, abs=0.1)
    assert 0.25 < (above > below).float().mean() < 0.75


# -- decoders whose weights something else makes -------------------------------------------------------------------


def decoders(sets: int) -> list[Decoder]:
    made = [Decoder((1, 4, 5), (12, 16), 3) for _ in range(sets)]
    for number, decoder in enumerate(made):
        initialize(decoder, seeded(number))
    return made


def flat(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def side_by_side(sets: list[Decoder], z: Tensor) -> Tensor:
    generated = GeneratedDecoder((1, 4, 5), (12, 16), 3)
    assert generated.sizes == [parameter.numel() for parameter in sets[0].parameters()]
    assert generated.numel == sum(generated.sizes)
    return generated(generated.layers(torch.stack([flat(decoder) for decoder in sets])), z)


def test_generated_decoders_draw_what_decoders_of_these_weights_draw() -> None:
    ours, z = decoders(4), torch.randn(4, 6, 3, generator=seeded())
    expected = torch.stack([decoder(own) for decoder, own in zip(ours, z, strict=True)])
    assert expected.shape == (4, 6, 1, 4, 5)
    assert torch.allclose(side_by_side(ours, z), expected, atol=1e-6)
    assert not torch.allclose(side_by_side(ours[::-1], z), expected, atol=1e-2), "the mutant: sets mixed up"


def test_the_evidence_with_a_generated_decoder_is_that_of_the_autoencoder() -> None:
    model, x, noise = vae(), images(6), torch.randn(6, 3, generator=seeded())
    generated = GeneratedDecoder((1, 4, 5), (12, 16), 3)
    layers = generated.layers(flat(model.decoder)[None])
    found = evidence_loss(model.encoder, lambda z: generated(layers, z[None])[0], x, noise)
    assert torch.allclose(found, model.loss(x, noise), rtol=1e-5)
