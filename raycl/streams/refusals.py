"""What makes a stream unfit: tasks that are the same task, classes without images, other data than before."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import permutations

import numpy as np

from raycl.errors import DataError
from raycl.streams.datasets import TELLING, Images, copied
from raycl.streams.stream import Stream, TaskClasses
from raycl.streams.task import SplitName, TaskSource


def check_distinct(
    stream: Stream, tasks: Sequence[TaskClasses], contents: Mapping[str, str], shape: tuple[int, int, int]
) -> None:
    """No two tasks show the same images under the same labels: learning the one would be learning the other.

    Args:
        contents: what names the content of each data set.
        shape: channels, height, width of the base images.

    Raises:
        DataError: two tasks do, and the stream does not say that it repeats itself.
    """
    if stream.repeats:
        return
    alike: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for task, chosen in enumerate(tasks):
        alike.setdefault((contents[chosen.dataset], chosen.classes), []).append(task)
    shared = [members for members in alike.values() if len(members) > 1]
    if not shared:
        return
    import torch  # late: whoever hands out rows of a split stream has no other need of it

    # Noise tells recipes apart by what they do: a turn by 360 degrees, or a permutation that moves nothing, is none.
    noise = torch.randint(0, 256, (1, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for members in shared:
        first: dict[bytes, int] = {}
        for task in members:
            shown = stream.recipe(task, *shape[1:]).apply(noise).numpy().tobytes()
            if shown in first:
                raise DataError(
                    f"tasks {first[shown]} and {task} of stream {stream.config.name!r} are equal: the same classes, "
                    f"pixel by pixel (got {len(members)} tasks of these classes); take fewer tasks, or others"
                )
            first[shown] = task


def check_copies(images: Mapping[str, Images]) -> None:
    """No data set of a stream is tested on what another one of it is trained on.

    Args:
        images: of each data set as it was read; copies within one are refused where it is read.

    Raises:
        DataError: all test images of one are training images of another.
    """
    for (tested, one), (trained, other) in permutations(images.items(), 2):
        enough = len(set(one.names[1])) >= TELLING
        if one.image_shape == other.image_shape and enough and copied(one, other) == len(one.test_labels):
            raise DataError(
                f"every test image of {tested!r} is a training image of {trained!r}, which this stream trains on; "
                "take data sets with images of their own"
            )


def check_split(source: TaskSource, split: SplitName) -> None:
    """Every class of every task has images in a split.

    Raises:
        DataError: a class has none: it could not be learned, or a figure of its task would say nothing about it.
    """
    for task, classes in enumerate(source.layout.classes):
        counts = np.bincount(source.part(task, split).labels, minlength=len(classes))
        if not counts.all():
            names = ", ".join(str(classes[label]) for label in np.flatnonzero(counts == 0))
            remedy = "raise stream.train_per_task" if split == "train" else "add some"
            raise DataError(
                f"task {task} of the stream has no {split} images of class {names} of its data set, so it cannot be "
                f"{'learned' if split == 'train' else 'scored'}; {remedy}, or choose classes (stream.class_order) "
                "that have them"
            )


def check_data(source: TaskSource, known: Collection[str]) -> None:
    """The data are those that finished trials have learned from.

    Raises:
        DataError: they are others, so that figures of both would be averaged.
    """
    digest = source.layout.data_digest
    others = sorted(set(known) - {digest})
    if others:
        raise DataError(
            "a results folder must hold trials of the same data: those here are not the ones that its finished "
            f"trials have learned from (digest {digest} here, {', '.join(others)} there); restore the data, or choose "
            "another results folder"
        )
