"""Distributions that may stand in place of a value, by Ray Tune's names: ``{loguniform: [1e-4, 1e-2]}``.

As in Ray Tune the upper end of whole-number ranges is exclusive: ``{randint: [8, 129]}`` draws 8..128.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from raycl.errors import nearest
from raycl.spec.distribution import WHEN, Conditional, Distribution, DistributionError, conditions, format_value, same
from raycl.spec.options import EXACT, LARGEST
from raycl.spec.trial import Scalar

SEARCH = "search"
"""The word that stands for a method's, or a field's, usual search space."""
MOST_CHOICES = 1000
MOST_STEPS = 1_000_000_000
"""Multiples that ``quniform`` counts between its ends."""


@dataclass(frozen=True)
class _Range(Distribution):
    low: float
    high: float
    arguments: ClassVar[str] = "[low, high]"

    @property
    def ends(self) -> tuple[tuple[tuple[str | int, ...], Any], ...]:
        return (((self.word, 0), self.low), ((self.word, 1), self.high))

    def contains(self, value: Scalar) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def encode(self, value: Any) -> Scalar | None:
        """1 and 1.0 are one point of a real range, and not two."""
        found = super().encode(value)
        return None if found is None else float(found)

    def to_data(self) -> dict[str, list[Any]]:
        return {self.word: [self.low, self.high]}

    @classmethod
    def parse(cls, arguments: Sequence[Any]) -> Distribution:
        low, high = _ends(cls.word, arguments, 2)
        return cls(low, high)


class Uniform(_Range):
    """Real, uniform between ``low`` and ``high``."""

    word = "uniform"

    @property
    def middle(self) -> Scalar:
        return (self.low + self.high) / 2

    def at(self, share: float) -> Scalar:
        return min(self.low + share * (self.high - self.low), self.high)

    def share(self, value: Scalar) -> float:
        return (float(value) - self.low) / (self.high - self.low)


class LogUniform(_Range):
    """Real, with a uniform logarithm."""

    word = "loguniform"

    @property
    def middle(self) -> Scalar:
        return math.sqrt(self.low) * math.sqrt(self.high)

    def at(self, share: float) -> Scalar:
        low, high = math.log(self.low), math.log(self.high)
        return min(max(math.exp(low + share * (high - low)), self.low), self.high)

    def share(self, value: Scalar) -> float:
        return math.log(float(value) / self.low) / math.log(self.high / self.low)


@dataclass(frozen=True)
class QUniform(_Range):
    """Real, uniform over multiples of ``q`` between ``low`` and ``high``, both included."""

    q: float
    word: ClassVar[str] = "quniform"
    arguments: ClassVar[str] = "[low, high, q]"

    @property
    def middle(self) -> Scalar:
        return self.low + round((self.high - self.low) / 2 / self.q) * self.q

    @property
    def count(self) -> int | None:
        return round((self.high - self.low) / self.q) + 1

    def at(self, share: float) -> Scalar:
        return _exact_multiple(self.low + int(share * (self.count or 1)) * self.q, self.q)

    def share(self, value: Scalar) -> float:
        return (round((float(value) - self.low) / self.q) + 0.5) / (self.count or 1)

    def contains(self, value: Scalar) -> bool:
        return super().contains(value) and self._counted(float(value))

    def _counted(self, value: float) -> bool:
        """Whether a value is ``low`` and whole steps, but for what the sum rounds off at the larger end."""
        steps = round((value - self.low) / self.q)
        return abs(self.low + steps * self.q - value) <= 4 * math.ulp(max(abs(self.low), abs(self.high)))

    def to_data(self) -> dict[str, list[Any]]:
        return {self.word: [self.low, self.high, self.q]}

    @classmethod
    def parse(cls, arguments: Sequence[Any]) -> Distribution:
        low, high, q = _ends(cls.word, arguments, 3)
        if (high - low) / q > MOST_STEPS:
            raise DistributionError(f"q must be at least (high - low) / {MOST_STEPS:,}", (cls.word, 2), q)
        for index, end in enumerate((low, high)):
            if not _multiple(end, q):
                raise DistributionError(f"both ends must be multiples of q = {q:g}", (cls.word, index), end)
        return cls(_exact_multiple(low, q), _exact_multiple(high, q), q)


@dataclass(frozen=True)
class _IntRange(Distribution):
    low: int
    high: int
    arguments: ClassVar[str] = "[low, high], high excluded"

    @property
    def ends(self) -> tuple[tuple[tuple[str | int, ...], Any], ...]:
        return (((self.word, 0), self.low), ((self.word, 1), self.high - 1))

    @property
    def count(self) -> int | None:
        return self.high - self.low

    def contains(self, value: Scalar) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value < self.high

    def to_data(self) -> dict[str, list[Any]]:
        return {self.word: [self.low, self.high]}

    @classmethod
    def parse(cls, arguments: Sequence[Any]) -> Distribution:
        for index, end in enumerate(arguments):
            if isinstance(end, float):
                raise DistributionError("must be a whole number", (cls.word, index), end)
        _ends(cls.word, arguments, 2)
        return cls(*arguments)


class RandInt(_IntRange):
    """Whole numbers ``low .. high - 1``, uniform."""

    word = "randint"

    @property
    def middle(self) -> Scalar:
        return (self.low + self.high - 1) // 2

    def at(self, share: float) -> Scalar:
        return self.low + int(share * (self.high - self.low))

    def share(self, value: Scalar) -> float:
        return (int(value) - self.low + 0.5) / (self.high - self.low)


class LogRandInt(_IntRange):
    """Whole numbers ``low .. high - 1``, with a uniform logarithm."""

    word = "lograndint"

    @property
    def middle(self) -> Scalar:
        return round(math.sqrt(self.low) * math.sqrt(self.high - 1))

    def at(self, share: float) -> Scalar:
        low, high = self._logarithms
        return min(max(round(math.exp(low + share * (high - low))), self.low), self.high - 1)

    def share(self, value: Scalar) -> float:
        low, high = self._logarithms
        return (math.log(int(value)) - low) / (high - low)

    @property
    def values_in_order(self) -> Iterator[Scalar]:
        return iter(range(self.low, self.high))

    @property
    def _logarithms(self) -> tuple[float, float]:
        """Each whole number has the range of those that are rounded to it."""
        return math.log(self.low - 0.5), math.log(self.high - 0.5)


@dataclass(frozen=True)
class Choice(Distribution):
    """One of some values.

    Attributes:
        choices: scalars as samplers and tables take them: a list or null stands here as its JSON text.
        values: the choices as they go into the options.
    """

    choices: tuple[Scalar, ...]
    values: tuple[Any, ...]
    word: ClassVar[str] = "choice"
    arguments: ClassVar[str] = "[value, value, ...]"

    @property
    def ends(self) -> tuple[tuple[tuple[str | int, ...], Any], ...]:
        return tuple(((self.word, index), value) for index, value in enumerate(self.values))

    @property
    def middle(self) -> Scalar:
        return self.choices[0]

    def contains(self, value: Scalar) -> bool:
        return any(same(choice, value) for choice in self.choices)

    @property
    def count(self) -> int | None:
        return len(self.choices)

    def at(self, share: float) -> Scalar:
        return self.choices[int(share * len(self.choices))]

    def share(self, value: Scalar) -> float:
        return (self.choices.index(value) + 0.5) / len(self.choices)

    def encode(self, value: Any) -> Scalar | None:
        plain = json.loads(json.dumps(value, default=str))
        labels = zip(self.choices, self.values, strict=True)
        return next((label for label, own in labels if same(own, plain)), None)

    def decode(self, drawn: Scalar) -> Any:
        return self.values[self.choices.index(drawn)]

    def to_data(self) -> dict[str, list[Any]]:
        return {self.word: list(self.values)}

    @classmethod
    def parse(cls, arguments: Sequence[Any]) -> Distribution:
        if len(arguments) > MOST_CHOICES:
            raise DistributionError(f"may hold at most {MOST_CHOICES} values", (cls.word,), len(arguments))
        labels: dict[Scalar, None] = {}
        for index, value in enumerate(arguments):
            label = value if isinstance(value, (str, int, float)) else json.dumps(value, separators=(",", ":"))
            if label in labels:
                raise DistributionError("every choice may stand once", (cls.word, index), value)
            labels[label] = None
        if not labels:
            raise DistributionError("must hold at least one value", (cls.word,), [])
        return cls(tuple(labels), tuple(arguments))


_FAMILY: tuple[type[_Range] | type[_IntRange] | type[Choice], ...] = (
    Uniform,
    LogUniform,
    QUniform,
    RandInt,
    LogRandInt,
    Choice,
)
DISTRIBUTIONS = {family.word: family for family in _FAMILY}
"""Every distribution by its name in sweep files."""


def find(data: Any) -> Distribution | None:
    """The distribution that ``data`` denotes, or None where it is an ordinary value.

    Raises:
        DistributionError: it is meant as a distribution, but is none.
    """
    if isinstance(data, Mapping) and len(data) == 2 and WHEN in data:
        inner = find({word: arguments for word, arguments in data.items() if word != WHEN})
        return None if inner is None else Conditional(inner, conditions(data[WHEN]))
    if not isinstance(data, Mapping) or len(data) != 1:
        return None
    ((word, arguments),) = data.items()
    family = DISTRIBUTIONS.get(word)
    if family is None:
        if isinstance(arguments, list) and (hint := nearest(word, DISTRIBUTIONS)):
            raise DistributionError(f"unknown distribution {word!r}{hint}")
        return None
    if not isinstance(arguments, list):
        raise DistributionError(f"must be a list {family.arguments}", (word,), arguments)
    return family.parse(arguments)


def _ends(word: str, arguments: Sequence[Any], count: int) -> tuple[float, ...]:
    """The checked arguments of a range: finite numbers, low < high, low > 0 for logarithms, q > 0."""
    if len(arguments) != count:
        raise DistributionError(f"must be a list {DISTRIBUTIONS[word].arguments}", (word,), list(arguments))
    for index, end in enumerate(arguments):
        if isinstance(end, bool) or not isinstance(end, (int, float)) or not math.isfinite(end):
            raise DistributionError("must be a finite number", (word, index), end)
        most = EXACT if word.endswith("randint") else LARGEST
        if abs(end) > most:
            raise DistributionError(f"must lie within {format_value(most)} of 0", (word, index), end)
    if not arguments[0] < arguments[1]:
        raise DistributionError("low must lie below high", (word,), list(arguments))
    if word.startswith("log") and arguments[0] <= 0:
        raise DistributionError("a logarithmic range must begin above 0", (word, 0), arguments[0])
    if count == 3 and arguments[2] <= 0:
        raise DistributionError("q must be above 0", (word, 2), arguments[2])
    return tuple(float(end) for end in arguments)


def _multiple(value: float, step: float) -> bool:
    """Whether ``value`` is a multiple of ``step``, but for the rounding of decimals: 0.3 is one of 0.1."""
    return math.isclose(value, round(value / step) * step, rel_tol=1e-12)


def _exact_multiple(value: float, step: float) -> float:
    """The float nearest to the multiple that is meant, in decimals: 3 * 0.1 -> 0.3. So samplers find both ends."""
    return float(round(value / step) * Decimal(repr(step)))
