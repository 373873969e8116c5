"""What must hold between a search and the spaces that it goes through."""

from __future__ import annotations

from collections.abc import Sequence

from raycl.spec.blocks import Blocks, point_path
from raycl.spec.distribution import WHEN, Conditional, format_value
from raycl.spec.entry import Entry
from raycl.spec.points import points_in
from raycl.spec.problems import Problems
from raycl.spec.sweep_options import SearchConfig


def check_sampling(search: SearchConfig, entries: Sequence[Entry], problems: Problems) -> None:
    """What a sampler can do with the spaces, and named points lie in them."""
    for entry in entries if search.sampler == "grid" else ():
        points = points_in(entry.space)
        if points is None or points > search.trials:
            told = "more points than can be counted" if points is None else f"{points:,} points"
            rule = "grid tries every point: search choices and steps alone, and as many trials as there are points"
            problems.refuse(("search", "sampler"), rule, f"{entry.key}: {told}")
    for index, given in enumerate(search.enqueue):
        named = {path: value for path, value in given.items() if path != "strategy"}
        alias = given.get("strategy")
        able = [entry for entry in entries if alias in (None, entry.alias) and named.keys() <= entry.space.keys()]
        if not able:
            searched = sorted({path for entry in entries if alias in (None, entry.alias) for path in entry.space})
            rule = f"no method searches all of these options (searched: {', '.join(searched) or 'nothing'})"
            problems.refuse(("search", "enqueue", index), rule, format_value(given))
        for path, value in named.items():
            for entry in able:
                if entry.space[path].encode(value) is None:
                    rule = f"must lie in what {entry.key} searches: {entry.space[path]}"
                    problems.refuse(("search", "enqueue", index, path), rule, format_value(value))


def check_conditions(blocks: Blocks, problems: Problems) -> None:
    """A condition names another option that is searched, without a condition of its own, and values of it."""
    named = {point_path(path): found for path, found in blocks.space.items()}
    for path, found in blocks.space.items():
        for parent, values in found.when if isinstance(found, Conditional) else ():
            place, known = (*blocks.source_path(path), WHEN, parent), named.get(parent)
            if known is None or isinstance(known, Conditional):
                rule = "must be an option that is searched as well, and always"
                problems.refuse(place, rule, parent, key=True)
                continue
            for value in (value for value in values if known.encode(value) is None):
                problems.refuse(place, f"must be among what is searched: {known}", format_value(value))
