"""The vocabulary of streams: layouts, parts of tasks, and the recipe that turns stored pixels into a task's pixels.

torch is imported where pixels move: a process that only hands out rows is up in half the time without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from raycl.streams.contents import Content

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Layout:
    """What is known of a stream without holding its images.

    Attributes:
        classes: for each task the data set's class ids; the position in the tuple is the task-local label.
        image_shape: channels, height, width of a task's images, padding included.
        split_hash: names the rows of every part of every task, and the recipes; equal hash, equal data.
        mean, std: per channel, of the training images in [0, 1] (of features, as they are), of the first task where
            ``normalize`` asks for it and else of all; used by ``normalize: mean_std`` and ``mean_std_first_task``.
        dtype: of the images: ``uint8``, or a float type where they are features of a frozen backbone.
        contents: what the tasks hold of each data set.
        seen: what of it the backbone that encodes it has learned from before, in words; empty where nothing.
        data_digest: names the content of the data sets, every pixel and label, whatever the seed; empty: not read.
    """

    classes: tuple[tuple[int, ...], ...]
    image_shape: tuple[int, int, int]
    split_hash: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str = "uint8"
    data_digest: str = ""
    contents: tuple[Content, ...] = ()
    seen: str = ""

    @property
    def num_tasks(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Recipe:
    """How a task's images come from the shared base images: zero padding, then a rotation or a pixel permutation.

    Attributes:
        pad: zero pixels on each side.
        permutation: int64 ``[height * width]``, new pixel i is old pixel ``permutation[i]``, in every channel; or None.
        angle: degrees counter-clockwise, bilinear, zero fill; or None.
    """

    pad: int = 0
    permutation: np.ndarray | None = None
    angle: float | None = None

    @property
    def costly(self) -> bool:
        """Whether applying the recipe to each batch costs more than applying it once to the whole part."""
        return self.angle is not None

    def apply(self, images: Tensor) -> Tensor:
        """uint8 ``[n, channels, height, width]`` -> uint8 of the same layout, padded, rotated, permuted."""
        if self.pad:
            images = _padded(images, self.pad)
        if self.angle:
            images = _rotated(images, self.angle)
        if self.permutation is not None:
            pixels = images.flatten(2)
            # gather copies bytes six times faster than index_select, which handles one pixel of all images at a time.
            index = self._index(images.device).expand(*pixels.shape[:2], -1)
            images = pixels.gather(2, index).view_as(images)
        return images

    @cached_property
    def _indices(self) -> dict[torch.device, Tensor]:
        return {}

    def _index(self, device: torch.device) -> Tensor:
        """The permutation on ``device``, sent there once: a copy per batch would wait for the device every time."""
        if device not in self._indices:
            import torch

            self._indices[device] = torch.tensor(self.permutation, device=device)
        return self._indices[device]


def _padded(images: Tensor, pad: int) -> Tensor:
    from torch.nn.functional import pad as padded

    return padded(images, (pad,) * 4)


def _rotated(images: Tensor, angle: float) -> Tensor:
    """uint8 ``[n, channels, height, width]``, turned in slabs, for each is held as floats on the way."""
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import rotate

    turned = torch.empty_like(images)
    for start in range(0, len(images), 1024):
        slab = slice(start, start + 1024)
        turned[slab] = rotate(images[slab], angle, InterpolationMode.BILINEAR)
    return turned


@dataclass(frozen=True)
class Part:
    """One split of one task: rows of a base array that many tasks share without copying it.

    Attributes:
        images: uint8, or float features, ``[base rows, channels, height, width]``, read-only, shared.
        rows: int64 ``[n]``, the base rows that belong to this part.
        labels: int64 ``[n]``, task-local labels.
        base: names the base array; parts with equal names share it.
    """

    images: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    recipe: Recipe
    base: str

    def __len__(self) -> int:
        return len(self.rows)


class TaskSource(Protocol):
    """Serves one stream, for one seed. The local source and the one over Ray actors meet the same contract."""

    @property
    def layout(self) -> Layout: ...

    def part(self, task: int, split: SplitName) -> Part:
        """Return one split of one task.

        Raises:
            DataError: the data set is missing, or the task does not exist.
            InfrastructureError: the actor that serves it cannot be reached.
        """
        ...

    def prefetch(self, task: int, split: SplitName) -> None:
        """Begin to fetch a part that will be asked for soon. Costs nothing where there is nothing to hide."""
        ...


@dataclass(frozen=True)
class Batch:
    """Rows that are learned together; every column has one entry per row.

    Attributes:
        image: uint8, or float features, ``[batch, channels, height, width]``, un-augmented, as a memory keeps it.
        x: float32 of the same shape, normalised and augmented, as the network sees it.
        y: int64 ``[batch]``, output units (:class:`raycl.streams.scenario.Scenario`).
        task: int64 ``[batch]``, the task each row came from; 0 throughout where boundaries are hidden.
        replayed: bool ``[batch]``, whether the row came from memory or a generator.
        columns: further columns by name, such as stored logits; NaN where a row has none.
        only: the task that every row came from, where it is known without looking; None where it is not.
    """

    image: Tensor
    x: Tensor
    y: Tensor
    task: Tensor
    replayed: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)
    only: int | None = None

    def __len__(self) -> int:
        return self.y.size(0)  # len of a tensor runs through Python first

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        """The rows of a mask, an index or a slice, every column kept."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        x, y, task, replayed = self.x[rows], self.y[rows], self.task[rows], self.replayed[rows]
        return Batch(self.image[rows], x, y, task, replayed, columns, self.only)

    @staticmethod
    def cat(batches: list[Batch]) -> Batch:
        """One batch after another. A column that one of them lacks is NaN (0 for whole numbers) there."""
        if len(batches) == 1:
            return batches[0]
        import torch

        names = {name: batch.columns[name] for batch in batches for name in batch.columns}
        columns = {name: torch.cat([_column(batch, name, like) for batch in batches]) for name, like in names.items()}
        return Batch(
            torch.cat([batch.image for batch in batches]),
            torch.cat([batch.x for batch in batches]),
            torch.cat([batch.y for batch in batches]),
            torch.cat([batch.task for batch in batches]),
            torch.cat([batch.replayed for batch in batches]),
            columns,
            batches[0].only if len({batch.only for batch in batches}) == 1 else None,
        )


def _column(batch: Batch, name: str, like: Tensor) -> Tensor:
    """A batch's own column, or one of absent entries that are shaped alike."""
    if name in batch.columns:
        return batch.columns[name]
    import torch

    rows, fill = len(batch), float("nan") if like.is_floating_point() else 0
    return torch.full((rows, *like.shape[1:]), fill, dtype=like.dtype, device=like.device)
