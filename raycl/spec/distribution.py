"""What every distribution of a search space can tell, and those that depend on another option."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from raycl.spec.trial import Scalar

WHEN = "when"
"""Beside a distribution: on which other options it depends."""


class DistributionError(ValueError):
    """A distribution is malformed.

    Attributes:
        rule: what must hold.
        at: the offending part, below the mapping: ``("loguniform", 0)``.
        value: what was found there.
    """

    def __init__(self, rule: str, at: tuple[str | int, ...] = (), value: Any = None) -> None:
        super().__init__(rule)
        self.rule, self.at, self.value = rule, at, value


@dataclass(frozen=True)
class Distribution(ABC):
    """What a searched value is drawn from."""

    word: ClassVar[str]
    arguments: ClassVar[str]

    @property
    @abstractmethod
    def ends(self) -> tuple[tuple[tuple[str | int, ...], Any], ...]:
        """The values that stand for all others when rules are checked, each with its place below the mapping."""

    @property
    @abstractmethod
    def middle(self) -> Scalar:
        """A value to try first: the middle of a range, of its logarithm where that is uniform, or the first choice."""

    @abstractmethod
    def contains(self, value: Scalar) -> bool:
        """Whether ``value`` may be drawn."""

    @property
    def count(self) -> int | None:
        """How many values may be drawn; None where there are more than can be counted."""
        return None

    @abstractmethod
    def at(self, share: float) -> Scalar:
        """The value below which this share of all draws lies; ``share`` in [0, 1)."""

    @abstractmethod
    def share(self, value: Scalar) -> float:
        """Where a value lies among all draws, in [0, 1]: :meth:`at` of it is the value; of one of many, the middle."""

    @property
    def values_in_order(self) -> Iterator[Scalar]:
        """Every value that may be drawn, where they can be counted."""
        return (self.at((index + 0.5) / (self.count or 0)) for index in range(self.count or 0))

    @abstractmethod
    def to_data(self) -> dict[str, Any]:
        """As it stands in a sweep file."""

    def encode(self, value: Any) -> Scalar | None:
        """The scalar that stands for a value of the options; None where it may not be drawn."""
        return value if isinstance(value, (str, int, float)) and self.contains(value) else None

    def decode(self, drawn: Scalar) -> Any:
        """The value that goes into the options for a drawn scalar."""
        return drawn

    def __str__(self) -> str:
        ((word, arguments),) = self.to_data().items()
        return f"{word}({', '.join(format_value(part).removesuffix('.0') for part in arguments)})"


@dataclass(frozen=True)
class Conditional(Distribution):
    """What is searched only where another searched option has one of some values: ``{uniform: [.8, 1], when: {mode:
    online}}``. Elsewhere the option stands at its default, and in no point.

    Attributes:
        when: that option by its dotted path -> the values beside which this one is searched.
    """

    inner: Distribution
    when: tuple[tuple[str, tuple[Scalar, ...]], ...]

    def acts(self, point: Mapping[str, Scalar]) -> bool:
        """Whether the option is searched beside these values of the others."""
        return all(path in point and any(same(point[path], value) for value in values) for path, values in self.when)

    @property
    def ends(self) -> tuple[tuple[tuple[str | int, ...], Any], ...]:
        return self.inner.ends

    @property
    def middle(self) -> Scalar:
        return self.inner.middle

    @property
    def count(self) -> int | None:
        return self.inner.count

    @property
    def values_in_order(self) -> Iterator[Scalar]:
        return self.inner.values_in_order

    def contains(self, value: Scalar) -> bool:
        return self.inner.contains(value)

    def at(self, share: float) -> Scalar:
        return self.inner.at(share)

    def share(self, value: Scalar) -> float:
        return self.inner.share(value)

    def encode(self, value: Any) -> Scalar | None:
        return self.inner.encode(value)

    def decode(self, drawn: Scalar) -> Any:
        return self.inner.decode(drawn)

    def to_data(self) -> dict[str, Any]:
        return {**self.inner.to_data(), WHEN: {path: list(values) for path, values in self.when}}

    def __str__(self) -> str:
        told = " and ".join(f"{path} is {' or '.join(map(str, values))}" for path, values in self.when)
        return f"{self.inner}, when {told}"


def conditions(data: Any) -> tuple[tuple[str, tuple[Scalar, ...]], ...]:
    if not isinstance(data, Mapping) or not data:
        raise DistributionError("must name searched options and their values, such as {mode: online}", (WHEN,), data)
    found = []
    for path, values in data.items():
        listed = values if isinstance(values, list) else [values]
        if not listed or not all(isinstance(value, (str, int, float)) for value in listed):
            raise DistributionError("must be a value, or a list of values", (WHEN, path), values)
        found.append((str(path), tuple(listed)))
    return tuple(found)


def format_value(value: Any) -> str:
    """A value as it would stand in YAML, cut after 60 characters."""
    if isinstance(value, float):
        short = f"{value:g}"
        exact = short if not math.isfinite(value) or float(short) == value else repr(value)
        text = f"{exact}.0" if exact.lstrip("-").isdigit() else exact
    elif isinstance(value, str):
        text = repr(value)
    else:
        text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def same(own: Any, other: Any) -> bool:
    """Equal, and both or neither a truth value: True is not 1 here."""
    return bool(own == other) and isinstance(own, bool) == isinstance(other, bool)
