"""What must hold between a search and the spaces that it goes through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from raycl.errors import DataError
from raycl.spec.acting import inert
from raycl.spec.blocks import Blocks, corner_points, point_path
from raycl.spec.check import Extents, as_judged
from raycl.spec.choice_rules import refused_choices
from raycl.spec.distribution import WHEN, Conditional, format_value
from raycl.spec.entry import Entry
from raycl.spec.points import Point, acts
from raycl.spec.problems import Finding, Problems
from raycl.spec.protocols import FirstTasks
from raycl.spec.rules import BrokenRules, moved_stream
from raycl.spec.setting import Setting
from raycl.spec.sweep_options import SearchConfig

BESIDE_A_TABLE = {
    "search": "a table evaluates one design of points in place of a search; leave one of them out",
    "final": "a table selects nothing, and measures its points on test data: a winner among them would be scored on "
    "data that have been seen; leave final out, and ask `raycl simulate`",
}


def check_table(data: Mapping[str, Any], problems: Problems) -> None:
    """A table stands alone: what chooses, or scores what was chosen, is simulated on it."""
    for key, why in BESIDE_A_TABLE.items():
        if "table" in data and key in data:
            problems.refuse((key,), f"does not go with table: {why}", key=True)
    if not {"search", "final", "table"} & data.keys():
        problems.refuse(("search",), "give search, final or both, or a table; otherwise there is nothing to run")


def check_sampling(search: SearchConfig, entries: Sequence[Entry], problems: Problems) -> None:
    """What a sampler can do with the spaces, and named points lie in them."""
    for entry in entries if search.sampler == "grid" else ():
        points = entry.points
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
                elif not acts(entry.space[path], named):
                    rule = f"is searched by {entry.key} as {entry.space[path]}; name that value beside it"
                    problems.refuse(("search", "enqueue", index, path), rule, format_value(value))


def untried(
    search: SearchConfig, entries: Iterable[Entry], first: Callable[[Entry], Iterable[tuple[Point, str]]]
) -> Iterator[Finding]:
    """Named points that are not tried for all that: there are more than trials, or they stand there twice.

    Args:
        first: the points that are tried before others, whole, each with where it comes from.
    """
    rule = search.as_it_goes
    if not search.enqueue or (rule is not None and rule.stability_decay is not None):
        return
    for entry in (entry for entry in entries if entry.space and not entry.barred):
        points: list[Point] = []
        for point in (point for point, how in first(entry) if how == "enqueued"):
            if point in points:
                told = f"names a point of {entry.key} twice, which is tried once"
                yield Finding(("search", "enqueue"), told, format_value(point))
            else:
                points.append(point)
        if len(points) > search.trials:
            told = f"names {len(points)} points of {entry.key}, of which only the first {search.trials} are tried"
            yield Finding(("search", "enqueue"), f"{told}; raise search.trials, or name fewer")


def check_protocol(
    search: SearchConfig, entry: Entry, blocks: Blocks, setting: Setting, extents: Extents, problems: Problems
) -> None:
    """What the search's protocol can judge of a method."""
    if entry.barred:
        return
    if search.as_it_goes is not None:
        for found in refused_choices(search.as_it_goes, entry.alias, blocks, setting):
            problems.refuse(*found)
    if search.judged is not None:
        _check_first_tasks(search.judged, entry, setting, problems)
        if search.inert == "refuse" and entry.space:
            corners = (blocks.resolve(extents.catalog, values) for values, _ in corner_points(blocks.space))
            _refuse_inert(search.judged.tasks, entry, blocks, [as_judged(one, extents) for one in corners], problems)
    if search.searched_on:
        _check_moved(search.searched_on, setting, extents, problems)


def _check_first_tasks(judged: FirstTasks, entry: Entry, setting: Setting, problems: Problems) -> None:
    count = setting.stream.tasks
    if judged.tasks > count - judged.disjoint:
        why = "must leave tasks to report on" if judged.disjoint else "the stream has fewer tasks"
        problems.refuse(("search", "protocol"), f"first_tasks: {why}, of {count}; judge by fewer", str(judged.tasks))
    if entry.space and getattr(setting.strategy, "at_once", False):
        rule = "learns all tasks at once, so no first ones can judge it; write values, or use end_of_training"
        problems.refuse(("strategies", entry.alias), rule, key=True)


def _refuse_inert(judged: int, entry: Entry, blocks: Blocks, settings: Sequence[Setting], problems: Problems) -> None:
    silent = set.intersection(*(set(inert(setting, entry.space, judged)) for setting in settings))
    able = ", ".join(path for path in entry.space if path not in silent) or "none"
    for path in (path for path in blocks.space if point_path(path) in silent):
        rule = (
            f"cannot act on the first {'task' if judged == 1 else f'{judged} tasks'}, by which first_tasks judges; "
            f"judge by more, write a value, or let its points tie (search.inert: allow); what can act: {able}"
        )
        problems.refuse(blocks.source_path(path), rule, str(blocks.space[path]))


def _check_moved(given: Mapping[str, Any], setting: Setting, extents: Extents, problems: Problems) -> None:
    """The stream of the search takes its options, and has the shape of the one that is reported on."""
    place = ("search", "protocol", "transfer", "stream")
    try:
        moved = moved_stream(setting.stream, given)
    except BrokenRules as error:
        for broken in error.broken:
            problems.refuse((*place, *broken.path), broken.rule, broken.value, broken.key)
        return
    if moved == setting.stream:
        problems.refuse(place, "must differ from the stream that is reported on", key=True)
    try:
        shapes = [found and sorted(found.sizes) for found in (extents.of(moved), extents.of(setting.stream))]
    except DataError as error:
        problems.refuse(place, str(error), key=True)
        return
    if moved.scenario != setting.stream.scenario or (None not in shapes and shapes[0] != shapes[1]):
        rule = "must have the scenario, the tasks and as many classes in each as the stream that is reported on"
        problems.refuse(place, rule, key=True)


def check_conditions(blocks: Blocks, problems: Problems, why: str = "") -> None:
    """A condition names another option that is searched, without a condition of its own, and values of it.

    Args:
        why: told beside an option that is not searched.
    """
    named = {point_path(path): found for path, found in blocks.space.items()}
    for path, found in blocks.space.items():
        for parent, values in found.when if isinstance(found, Conditional) else ():
            place, known = (*blocks.source_path(path), WHEN, parent), named.get(parent)
            if known is None or isinstance(known, Conditional):
                rule = f"must be an option that is searched as well, and always{why}"
                problems.refuse(place, rule, parent, key=True)
                continue
            for value in (value for value in values if known.encode(value) is None):
                problems.refuse(place, f"must be among what is searched: {known}", format_value(value))
