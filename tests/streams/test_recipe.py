"""Recipes: padding, rotation and permutation of stored pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from raycl.streams.task import Recipe

Apply = Callable[[Recipe, Tensor], Tensor]


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (5, 3, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def permuted_in_every_image_alike(apply: Apply, images: Tensor) -> bool:
    """Whether new pixel i is old pixel permutation[i], and the inverse permutation recovers the image."""
    permutation = np.random.RandomState(1).permutation(48)
    once = apply(Recipe(permutation=permutation), images)
    defined = torch.stack([images.flatten(2)[:, :, old] for old in permutation], dim=2)
    back = apply(Recipe(permutation=np.argsort(permutation)), once)
    return torch.equal(once.flatten(2), defined) and torch.equal(back, images)


def test_permutation(images: Tensor) -> None:
    assert permuted_in_every_image_alike(Recipe.apply, images)
    after = Recipe(permutation=np.random.RandomState(1).permutation(48)).apply(images)
    assert after.dtype == torch.uint8
    assert after.shape == images.shape
    assert torch.equal(after.flatten(2).sort(2).values, images.flatten(2).sort(2).values)


def test_permutation_check_fails_on_a_scatter_and_on_channels_mixed(images: Tensor) -> None:
    def scattered(recipe: Recipe, images: Tensor) -> Tensor:
        assert recipe.permutation is not None
        return Recipe(permutation=np.argsort(recipe.permutation)).apply(images)

    def channels_mixed(recipe: Recipe, images: Tensor) -> Tensor:
        assert recipe.permutation is not None
        return images.permute(0, 2, 3, 1).flatten(1).view(5, 48, 3)[:, recipe.permutation].view(5, 3, 6, 8)

    assert not permuted_in_every_image_alike(scattered, images)
    assert not permuted_in_every_image_alike(channels_mixed, images)


def test_padding_is_black_and_is_permuted_too(images: Tensor) -> None:
    padded = Recipe(pad=2).apply(images)
    assert padded.shape == (5, 3, 10, 12)
    assert torch.equal(padded[:, :, 2:-2, 2:-2], images)
    assert int(padded.sum()) == int(images.sum())
    permutation = np.random.RandomState(0).permutation(120)
    both = Recipe(pad=2, permutation=permutation).apply(images)
    assert torch.equal(both, Recipe(permutation=permutation).apply(padded))


def test_rotation_is_counter_clockwise_and_fills_with_black() -> None:
    image = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    image[0, 0, 4, 8] = 200
    turned = Recipe(angle=90.0).apply(image)
    assert int(turned[0, 0, 0, 4]) == pytest.approx(200, abs=1)
    white = torch.full((1, 1, 9, 9), 255, dtype=torch.uint8)
    assert int(Recipe(angle=45.0).apply(white)[0, 0, 0, 0]) == 0


def test_rotation_by_slabs_equals_rotation_one_by_one() -> None:
    images = torch.randint(0, 256, (1030, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    turned = Recipe(pad=1, angle=30.0).apply(images)
    assert turned.shape == (1030, 1, 10, 10)
    for row in (0, 1023, 1024, 1029):
        assert torch.equal(turned[row], Recipe(pad=1, angle=30.0).apply(images[row : row + 1])[0])


def test_no_recipe_is_the_image_itself(images: Tensor) -> None:
    assert torch.equal(Recipe().apply(images), images)
    assert torch.equal(Recipe(angle=0.0).apply(images), images)
    assert Recipe(angle=10.0).costly
    assert not Recipe(pad=2, permutation=np.arange(120)).costly
