"""Batches by index from arrays in memory: pixels to network inputs, and pools of rows from several parts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raycl.memory.buffer import Table
from raycl.strategies.base import Rows
from raycl.streams.task import Batch, Layout, Part, Recipe


def normalization(normalize: str, layout: Layout) -> tuple[list[float], list[float]]:
    """Per channel m and s, for which a network sees ``(value - m) / s``; pixels are values in [0, 1].

    Args:
        normalize: ``stream.normalize`` of the sweep file. Features are in their own unit already.
    """
    channels = len(layout.mean)
    if normalize.startswith("mean_std"):  # a feature that is the same for every image says nothing
        return list(layout.mean), [value or 1.0 for value in layout.std]
    bytes_as_they_are = normalize == "none" and layout.dtype == "uint8"
    return [0.0] * channels, [1 / 255 if bytes_as_they_are else 1.0] * channels


class Pixels:
    """uint8 pixels, or features, to what a network sees, and the stream's random augmentation.

    Args:
        normalize: ``stream.normalize`` of the sweep file. Features are in their own unit already.
        augment: ``none``, ``flip``, ``crop`` (4 pixels of zero padding) or ``crop_flip``.
        generator: draws the augmentation.
    """

    def __init__(
        self, normalize: str, augment: str, layout: Layout, generator: torch.Generator, device: torch.device
    ) -> None:
        ones = torch.ones(len(layout.mean))
        mean, std = torch.tensor(layout.mean), torch.tensor(layout.std)
        std = torch.where(std > 0, std, 1)  # a feature that is the same for every image says nothing
        unit = 255 if layout.dtype == "uint8" else 1
        scale, shift = {
            "unit": (ones / unit, 0 * ones),
            "mean_std": (1 / (unit * std), mean / std),
            "mean_std_first_task": (1 / (unit * std), mean / std),
            "none": (ones, 0 * ones),
        }[normalize]
        self._scale = scale.view(-1, 1, 1).to(device)
        self._shift = shift.view(-1, 1, 1).to(device) if normalize.startswith("mean_std") else None
        self._background = -shift.view(-1, 1, 1).to(device)
        self._augment = augment
        self._generator = generator

    def normalize(self, image: Tensor) -> Tensor:
        """uint8 or float ``[batch, channels, height, width]`` -> float32 of the same shape, in memory of its own."""
        x = image.to(torch.float32, copy=True).mul_(self._scale)
        return x if self._shift is None else x.sub_(self._shift)

    def augment(self, x: Tensor) -> Tensor:
        """float32 ``[batch, channels, height, width]`` -> the same shape, each row cropped and mirrored on its own."""
        if self._augment == "none":
            return x
        if "crop" in self._augment:
            x = self._crop(x)
        if "flip" in self._augment:
            mirror = torch.rand(len(x), generator=self._generator) < 0.5
            x = torch.where(mirror.view(-1, 1, 1, 1).to(x.device), x.flip(3), x)
        return x

    def _crop(self, x: Tensor, border: int = 4) -> Tensor:
        batch, channels, height, width = x.shape
        background = self._background.to(x.device)
        padded = background.expand(batch, channels, height + 2 * border, width + 2 * border).clone()
        padded[:, :, border : border + height, border : border + width] = x
        corner = torch.randint(0, 2 * border + 1, (2, batch, 1), generator=self._generator).to(x.device)
        rows = corner[0] + torch.arange(height, device=x.device)
        columns = corner[1] + torch.arange(width, device=x.device)
        index = torch.arange(batch, device=x.device)
        picked = padded.permute(0, 2, 3, 1)[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return picked.permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Segment:
    """Rows of one base array that go through one recipe.

    Attributes:
        images: uint8, or float features, ``[base rows, channels, height, width]``.
        rows: int64 ``[n]`` into ``images``; None: all, in order.
        y, task: int64 ``[n]``, output units and task ids.
        only: the task of all rows, where they have one.
    """

    images: Tensor
    rows: Tensor | None
    y: Tensor
    task: Tensor
    recipe: Recipe | None
    replayed: bool = False
    columns: Table | None = None
    only: int | None = None

    def __len__(self) -> int:
        return self.y.size(0)

    def joined(self, other: Segment) -> Segment | None:
        """Both as one segment, where both read the same base array without a recipe."""
        if self.rows is None or other.rows is None or self.recipe is not None or other.recipe is not None:
            return None
        if self.images.data_ptr() != other.images.data_ptr():
            return None
        rows, y = torch.cat([self.rows, other.rows]), torch.cat([self.y, other.y])
        only = self.only if self.only == other.only else None
        return Segment(self.images, rows, y, torch.cat([self.task, other.task]), None, only=only)

    @property
    def own_bytes(self) -> int:
        """What the segment holds beside a base array that other tasks read too; a permutation as array and as index."""
        own = [self.y, self.task, self.images if self.rows is None else self.rows]
        permutation = None if self.recipe is None else self.recipe.permutation
        held = 0 if permutation is None else 2 * permutation.nbytes
        return held + sum(tensor.numel() * tensor.element_size() for tensor in own)

    def first(self, limit: int | None) -> Segment:
        """The first ``limit`` rows; None: all."""
        if limit is None or limit >= len(self):
            return self
        images, rows = (self.images[:limit], None) if self.rows is None else (self.images, self.rows[:limit])
        columns = self.columns and {name: column[:limit] for name, column in self.columns.items()}
        return replace(self, images=images, rows=rows, y=self.y[:limit], task=self.task[:limit], columns=columns)

    def image(self, index: Tensor | None) -> Tensor:
        """uint8 or float ``[n, channels, height, width]``: the rows ``index``, or all, as the recipe leaves them."""
        rows = self.rows
        if index is not None:
            rows = index if rows is None else rows.index_select(0, index)
        image = self.images if rows is None else self.images.index_select(0, rows)
        return image if self.recipe is None else self.recipe.apply(image)

    def gather(self, index: Tensor, pixels: Pixels, augment: bool) -> Batch:
        """The rows ``index`` as a batch."""
        index = index.to(self.y.device)
        image = self.image(index)
        x = pixels.normalize(image)
        y, task = self.y.index_select(0, index), self.task.index_select(0, index)
        columns = {name: column[index] for name, column in self.columns.items()} if self.columns else {}
        replayed = torch.full(y.shape, self.replayed, device=y.device)
        return Batch(image, pixels.augment(x) if augment else x, y, task, replayed, columns, self.only)


def part_segment(part: Part, y: Tensor, task: int, device: torch.device, limit: int | None = None) -> Segment:
    """A part of a task as a segment; a costly recipe is applied once, here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        images = torch.from_numpy(part.images)  # shared and read-only; only ever read through an index
    rows = torch.from_numpy(part.rows[:limit].copy())
    y = y[:limit].clone().to(device)  # a view would keep the labels that are left out
    tasks = torch.full_like(y, task)
    if part.recipe.costly:
        turned = part.recipe.apply(images.index_select(0, rows)).to(device)
        return Segment(turned, None, y, tasks, None, only=task)
    plain = part.recipe.pad == 0 and part.recipe.permutation is None
    return Segment(images.to(device), rows.to(device), y, tasks, None if plain else part.recipe, only=task)


def side_by_side(segments: Sequence[Segment], pixels: Pixels) -> Batch:
    """All rows of several tasks as one batch, in their order, not augmented."""
    image = torch.cat([segment.image(None) for segment in segments])
    y, task = (torch.cat([getattr(segment, name) for segment in segments]) for name in ("y", "task"))
    return Batch(image, pixels.normalize(image), y, task, torch.zeros_like(y, dtype=torch.bool))


def table_segment(rows: Table, device: torch.device) -> Segment:
    """Rows of a replay memory as a segment."""
    known = ("image", "label", "task")
    columns = {name: column.to(device) for name, column in rows.items() if name not in known}
    return Segment(
        rows["image"].to(device), None, rows["label"].to(device), rows["task"].to(device), None, True, columns
    )


@dataclass(frozen=True)
class MadeSegment:
    """Rows that a strategy made itself; they are used as they stand."""

    rows: Rows

    @property
    def y(self) -> Tensor:
        return self.rows.y

    def __len__(self) -> int:
        return len(self.rows.y)

    def gather(self, index: Tensor, pixels: Pixels, augment: bool) -> Batch:
        """The rows ``index`` as a batch without pixels."""
        rows = self.rows
        image = torch.empty(len(index), 0, dtype=torch.uint8)
        columns = {name: column[index] for name, column in rows.columns.items()}
        return Batch(image, rows.x[index], rows.y[index], rows.task[index], rows.replayed[index], columns)


class RowPool:
    """The rows of several segments under one numbering."""

    def __init__(self, segments: Iterable[Segment | MadeSegment], pixels: Pixels) -> None:
        self.segments = _merge([segment for segment in segments if len(segment)])
        self.pixels = pixels
        sizes = torch.tensor([0, *(len(segment) for segment in self.segments)])
        self._starts = sizes.cumsum(0)
        self._rows = int(self._starts[-1])

    def __len__(self) -> int:
        return self._rows

    def gather(self, index: Tensor, augment: bool = True) -> Batch:
        """The rows ``index`` as a batch, grouped by segment."""
        if len(self.segments) == 1:
            return self.segments[0].gather(index, self.pixels, augment)
        owner = torch.bucketize(index, self._starts[1:], right=True)
        batches = [
            self.segments[number].gather(index[owner == number] - self._starts[number], self.pixels, augment)
            for number in owner.unique().tolist()
        ]
        return Batch.cat(batches)

    def labels(self) -> Tensor:
        """int64 ``[len]``, output units."""
        return torch.cat([segment.y for segment in self.segments])

    def batches(self, index: Tensor, batch_size: int, augment: bool = True) -> Iterator[Batch]:
        """Batches over ``index``, in its order."""
        for rows in index.split(batch_size):
            yield self.gather(rows, augment)


def _merge(segments: Sequence[Segment | MadeSegment]) -> list[Segment | MadeSegment]:
    """Join neighbours that read the same base array without a recipe, so that one gather serves them all."""
    merged: list[Segment | MadeSegment] = []
    for segment in segments:
        last = merged[-1] if merged else None
        joined = last.joined(segment) if isinstance(last, Segment) and isinstance(segment, Segment) else None
        if joined is None:
            merged.append(segment)
        else:
            merged[-1] = joined
    return merged
