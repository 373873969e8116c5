"""Which methods the final seeds tell apart from the best one: paired comparisons with a baseline, in each variant.

What is not told apart forms a group with the baseline; a difference that the seeds do not support is no rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from raycl.results.comparison import Line
from raycl.results.statistics import LEVEL, Difference, Interval, holm

ChosenBy = Literal["name", "validation", "test"]


@dataclass(frozen=True)
class Against:
    """A method beside the baseline of its variant, over the seeds that both have.

    Attributes:
        difference: the method's metric less the baseline's; its interval is of this one comparison.
        p: two-sided, corrected for all comparisons of the variant; NaN where it is not defined, and of upper bounds,
            which are compared with nothing.
    """

    difference: Interval
    p: float

    @property
    def apart(self) -> bool:
        """Whether the seeds tell the method apart from the baseline."""
        return self.p < 1 - LEVEL


@dataclass(frozen=True)
class Baseline:
    """What the methods of one variant are compared with.

    Attributes:
        family: of the lines that are compared with it: their variant, and their folder where others ask otherwise.
        key: of its line.
        chosen_by: whoever named it; validation data; or, where nothing was searched, the test data themselves: then
            every pair of methods is a comparison, whichever of them turn out to be looked at.
        comparisons: how many p-values were corrected together.
        against: the other scored lines, by key.
        group: keys of the lines that are not told apart from the baseline, and its own; no upper bounds.
    """

    family: str
    key: str
    chosen_by: ChosenBy
    comparisons: int
    against: Mapping[str, Against]
    group: tuple[str, ...]

    def tests(self, key: str) -> bool:
        """Whether a line's seeds allow for a comparison: two or more that the baseline has too, not all equal."""
        return key in self.against and not math.isnan(self.against[key].p)


def baselines(lines: Sequence[Line], named: str | None = None) -> dict[str, Baseline]:
    """The baseline of each family of lines, and how the other methods stand to it.

    Variants in which no method has test figures have none, nor have those in which the method named has none.

    Args:
        lines: in the order of their rank.
        named: name or alias of the method that is to be the baseline; default: the best on validation data of all that
            are no upper bounds.
    """
    found: dict[str, Baseline] = {}
    for family in dict.fromkeys(line.family for line in lines):
        scored = [line for line in lines if line.family == family and line.scored_on == "test" and line.by_seed]
        rivals = [line for line in scored if not line.upper_bound]
        able = [line for line in scored if named in (line.alias, line.name)] if named is not None else rivals
        if able:
            chosen_by: ChosenBy = "name" if named is not None else "validation" if able[0].search else "test"
            found[family] = _baseline(able[0], chosen_by, rivals, scored)
    return found


def _baseline(base: Line, chosen_by: ChosenBy, rivals: Sequence[Line], scored: Sequence[Line]) -> Baseline:
    """Compare a variant's methods with one of them."""
    others = [line for line in rivals if line is not base]
    family = [(line, base) for line in others]
    if chosen_by == "test":
        family += combinations(others, 2)
    corrected = holm([_p(Difference.of(line.by_seed, other.by_seed)) for line, other in family])
    p_values = {line.key: p for (line, _), p in zip(family[: len(others)], corrected, strict=False)}
    against = {}
    for line in (line for line in scored if line is not base):
        difference = Difference.of(line.by_seed, base.by_seed)
        if difference is not None:
            against[line.key] = Against(difference.interval, p_values.get(line.key, math.nan))
    apart = {key for key, found in against.items() if found.apart}
    tied = [line.key for line in scored if line is base or not (line.upper_bound or line.key in apart)]
    return Baseline(base.family, base.key, chosen_by, len(family), against, tuple(tied))


def _p(difference: Difference | None) -> float:
    return math.nan if difference is None else difference.p
