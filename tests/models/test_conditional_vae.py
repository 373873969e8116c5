"""The conditional autoencoder: closed forms, growth, seeds, and that it learns how rows of a class differ."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raycl.models.conditional_vae import LEAST, SPREAD, ConditionalVAE
from raycl.models.vae import divergence

SHAPE = (2, 2, 2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(classes: int = 3, seed: int = 0) -> ConditionalVAE:
    model = ConditionalVAE(SHAPE, (32,), 2, seeded(seed))
    model.grow(classes)
    return model


def rows(count: int = 300) -> tuple[Tensor, Tensor]:
    """Each class has a mean of its own, and one direction along which its rows differ; nothing is below 0."""
    y = torch.arange(count) % 3
    along = torch.eye(8)[y] + torch.eye(8)[y + 3]
    x = torch.eye(8)[y + 5] * 4 + 2 + along * torch.randn(count, 1, generator=seeded(1))
    return x.clamp(min=0).view(-1, *SHAPE), y


def test_mean_and_deviation_of_each_class_in_closed_form() -> None:
    model, (x, y) = made(), rows()
    model.observe(x, y)
    for unit in range(3):
        own = x[y == unit].flatten(1)
        torch.testing.assert_close(model.mean[unit], own.mean(0))
        differs = own.std(0) > 0.5
        assert differs.sum() == 2
        torch.testing.assert_close(model.deviation[unit][differs], own.std(0, correction=0)[differs])
        assert (model.deviation[unit][~differs] > 0).all(), "a number that never differs"
    assert model.deviation.min() >= 0.9 * LEAST * model.deviation.mean()


def test_other_classes_stay_as_they_were_seen() -> None:
    model, (x, y) = made(), rows()
    model.observe(x, y)
    before = model.mean.clone(), model.deviation.clone()
    model.observe(x[y == 1] + 1, y[y == 1])
    changed = (model.mean != before[0]).any(1) | (model.deviation != before[1]).any(1)
    assert changed.tolist() == [False, True, False]


def test_the_loss_is_per_row_and_depends_on_the_class() -> None:
    model, (x, y) = made(), rows(12)
    model.observe(x, y)
    noise = torch.randn(12, 2, generator=seeded(2))
    each = torch.cat([model.loss(x[[row]], y[[row]], noise[[row]]) for row in range(12)])
    torch.testing.assert_close(model.loss(x, y, noise), each)
    assert not torch.isclose(model.loss(x, (y + 1) % 3, noise), each).any()
    standard = (x.flatten(1) - model.mean[y]) / model.deviation[y]
    mean, log_variance = model.encoder(standard, y).split(2, dim=1)
    drawn = model.decoder(mean + noise * (0.5 * log_variance).exp(), y)
    expected = 0.5 * ((drawn - standard) / SPREAD).square().sum(1) + divergence(mean, log_variance)
    torch.testing.assert_close(each, expected)


def test_growing_keeps_what_is_known() -> None:
    model, (x, y) = made(), rows()
    model.observe(x, y)
    with torch.no_grad():
        for part in (model.encoder, model.decoder):
            part.classes += torch.randn(part.classes.shape, generator=seeded(3))
    noise = torch.randn(len(y), 2, generator=seeded(2))
    before = model.sample(y, noise)
    model.grow(5)
    assert torch.equal(model.sample(y, noise), before)
    assert len(model.mean) == len(model.decoder.classes) == 5


def test_the_generator_decides_weights() -> None:
    first, again, other = (made(seed=seed).decoder.first.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def drawn(model: ConditionalVAE, updates: int) -> tuple[Tensor, Tensor]:
    """Rows of a model that has learned so many updates, and their classes."""
    x, y = rows()
    model.observe(x, y)
    optimizer, random = torch.optim.Adam(model.parameters(), 5e-3), seeded(4)
    for _ in range(updates):
        loss = model.loss(x, y, torch.randn(len(y), 2, generator=random)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return model.sample(y, torch.randn(len(y), 2, generator=random)), y


@pytest.mark.parametrize("updates", [0, 300])
def test_rows_are_of_the_class_that_was_asked_for_and_in_range(updates: int) -> None:
    found, y = drawn(made(), updates)
    x, _ = rows()
    assert found.shape == x.shape
    assert found.min() >= 0
    for unit in range(3):
        torch.testing.assert_close(found[y == unit].mean(0), x[y == unit].mean(0), atol=0.6, rtol=0)


def test_it_learns_how_rows_of_a_class_differ() -> None:
    """The two numbers of a class that move together do so in what is drawn."""
    found, y = drawn(made(), 300)
    for unit in range(3):
        own = found[y == unit].flatten(1)[:, [unit, unit + 3]]
        assert own.std(0).min() > 0.5
        assert torch.corrcoef(own.T)[0, 1] > 0.9
