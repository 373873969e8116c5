"""What a stream holds of its data sets, and what of that a pretrained backbone has learned from already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

CONTENTS = "contents"
"""The key of a weights file's origin under which :func:`told` is kept."""


@dataclass(frozen=True)
class Content:
    """What a stream holds of one data set.

    Attributes:
        dataset: its name.
        digest: of every pixel and label.
        classes: ids of the classes that some task holds, in order.
    """

    dataset: str
    digest: str
    classes: tuple[int, ...]


def told(contents: Sequence[Content]) -> list[dict[str, Any]]:
    """As plain data, for the origin of weights that were learned from it."""
    return [{**asdict(content), "classes": list(content.classes)} for content in contents]


def seen(origin: Mapping[str, Any], contents: Iterable[Content]) -> str:
    """What of a stream's data the weights of an origin have learned from, in words; empty where nothing is known.

    A data set is the same where its content is, or its name (the folder, of Parquet sets). Validation rows and the
    tasks to come count as seen wherever a class does: which rows of it were trained on depends on the seed.

    Args:
        origin: what a file of weights says of where it comes from (:attr:`raycl.models.weights.Weights.origin`).
    """
    found = []
    for content in contents:
        known = frozenset(content.classes) & _learned(origin, content)
        if known:
            found.append(f"{len(known)} of {len(content.classes)} classes of data set {content.dataset!r}")
    return ", ".join(found)


def _learned(origin: Mapping[str, Any], content: Content) -> frozenset[int]:
    """Classes of a data set that the weights have learned from, those of what training started from included."""
    everything = frozenset(content.classes)
    learned: frozenset[int] = frozenset()
    for known in origin.get(CONTENTS, ()):
        if known["dataset"] == content.dataset or known["digest"] == content.digest:
            learned |= frozenset(known["classes"])
        elif _place(known["dataset"]) == _place(content.dataset):  # the same images under other labels
            learned |= everything
    if CONTENTS not in origin and _place(content.dataset) in map(_place, _names(origin.get("stream"))):
        learned |= everything  # a file from before contents were kept says no more than the name
    start = origin.get("start")
    return learned | _learned(start, content) if isinstance(start, Mapping) else learned


def _names(stream: Any) -> list[str]:
    """The data sets that a ``stream`` block names, slices of their classes left out."""
    if not isinstance(stream, Mapping):
        return []
    return [part.partition("[")[0] for part in stream.get("parts") or [stream.get("dataset") or ""] if part]


def _place(dataset: str) -> str:
    """A data set's name without the columns that are read of it."""
    return dataset.partition("?")[0]
