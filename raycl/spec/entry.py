"""One method of a sweep, in one of its variants."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from raycl.spec.distribution import Distribution
from raycl.spec.points import active, points_in
from raycl.spec.trial import Scalar


def entry_key(variant: str, alias: str) -> str:
    """``variant/alias``, or the alias alone where there are no variants."""
    return f"{variant}/{alias}" if variant else alias


@dataclass(frozen=True)
class Entry:
    """One method in one variant: searched, and scored, on its own.

    Attributes:
        variant: empty where the sweep has no variants.
        alias: the method's name in the sweep; ``strategy`` is its name in the registry.
        space: what is searched, by dotted path; the strategy's own options stand without a prefix.
        barred: why the method cannot run in this variant ("n/a" in tables), or None.
        mark: names the changes of raycl since its first results that touch this entry; empty where none does.
    """

    variant: str
    alias: str
    strategy: str
    space: dict[str, Distribution]
    barred: str | None = None
    mark: str = ""

    @property
    def key(self) -> str:
        """``variant/alias``, or the alias alone."""
        return entry_key(self.variant, self.alias)

    @property
    def stored_as(self) -> str:
        """The name under which its suggestions and its winner are kept.

        Those that come from the numbers of an earlier raycl stay where they are, and are not taken for these.
        """
        return f"{self.key}@{self.mark}" if self.mark else self.key

    @cached_property
    def points(self) -> int | None:
        """How many points its space has; None where there are more than can be counted."""
        return points_in(self.space)

    @property
    def middle(self) -> dict[str, Scalar]:
        """A point in the middle of the space, for a first look."""
        return active(self.space, {path: found.middle for path, found in self.space.items()})
