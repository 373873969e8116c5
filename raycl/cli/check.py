"""What ``raycl check`` prints: everything that a sweep would run, told without Ray and without data."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raycl.results.foreseen import ASSUMED, SOURCE, Expected, expected, few_seeds
from raycl.results.layout import human_bytes
from raycl.spec.choosing import trainings
from raycl.spec.memory import MemoryConfig
from raycl.spec.options import ModelConfig
from raycl.spec.protocols import ProtocolConfig
from raycl.spec.seed_rules import seeds_of
from raycl.spec.seeds import SEED_SOURCES, runs_of
from raycl.spec.setting import Registries
from raycl.spec.source import dotted
from raycl.spec.sweep import Entry, SweepSpec
from raycl.spec.sweep_options import TableConfig
from raycl.spec.trial import SweepPhase
from raycl.streams.source import Outline
from raycl.trial.check import LARGEST_BUILD, Budget, TooLarge, capacities, network, outline_of, unfit

SHOWN_RUNS = 8
"""Of each phase, by their seeds."""
PROCESS_BYTES = 550e6
"""Resident memory of a trial's process before its network and batches: Python, torch and Ray, as measured on Linux."""


def summary(sweep: SweepSpec, root: str) -> RenderableType:
    """The summary of a checked sweep.

    Args:
        root: where results folders lie, whose sweeps tell how far a method's seeds lie apart.
    """
    head = Text.assemble((sweep.name, "bold"), (f"  {sweep.hash}", "dim"))
    few = few_seeds(sweep)
    told = (*sweep.warnings, *([str(few)] if few else []))
    warnings = [Text(f"warning: {text}", style="yellow") for text in told]
    return Group(head, _trials(sweep), _facts(sweep, root), *warnings)


def _trials(sweep: SweepSpec) -> Table:
    """A line per strategy and variant: what is searched, and how many trials each phase has."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    variants = any(sweep.variants)
    if variants:
        table.add_column("variant", no_wrap=True)
    table.add_column("strategy", no_wrap=True)
    table.add_column("searched")
    phases = ("table",) if sweep.table is not None else ("search", "finalists", "final", "total")
    for phase in phases:
        table.add_column(phase, justify="right")
    shown = ""
    for entry in sweep.entries:
        names = [entry.variant if entry.variant != shown else ""] if variants else []
        if entry.variant != shown:
            table.add_section()
        shown = entry.variant
        runs = sweep.runs(entry)
        counts = ["n/a"] * len(phases) if entry.barred else [str(getattr(runs, phase)) for phase in phases]
        table.add_row(*names, _name(entry), _searched(sweep, entry), *counts, style="dim" if entry.barred else "")
    runs_of = [sweep.runs(entry) for entry in sweep.entries]
    table.add_section()
    sums = [str(sum(getattr(runs, phase) for runs in runs_of)) for phase in phases]
    table.add_row(*([""] if variants else []), "all", "", *sums, style="bold")
    return table


def _name(entry: Entry) -> str:
    return entry.alias if entry.alias == entry.strategy else f"{entry.alias} ({entry.strategy})"


def _searched(sweep: SweepSpec, entry: Entry) -> Text:
    if entry.barred:
        return Text(entry.barred)
    lines = [f"{path}: {distribution}" for path, distribution in entry.space.items()]
    points = entry.points if entry.space else None
    asked = sweep.table.points if sweep.table else sweep.search.trials if sweep.search else 0
    if points is not None and points <= asked:
        lines.append(f"{points} point{'' if points == 1 else 's, all of them'}")
    return Text("\n".join(lines) or "-")


def _facts(sweep: SweepSpec, root: str) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    models: dict[tuple[str, Outline | None], str] = {}
    for variant in sweep.variants:
        entry = next(entry for entry in sweep.entries if entry.variant == variant)
        suffix = f" {variant}" if variant else ""
        table.add_row(f"stream{suffix}", _stream(sweep, entry))
        table.add_row(f"model{suffix}", _model(sweep, entry, models))
        table.add_row(f"measured{suffix}", _measured(sweep, variant))
    keeping = [entry for entry in sweep.entries if not entry.barred and sweep.blocks[entry.key].strategy.uses_memory]
    kept = [_replay(sweep, entry) for entry in keeping]
    per_trial = max((memory.shards for memory in kept if memory.home == "actor"), default=0)
    names = ", ".join(dict.fromkeys(entry.alias for entry in keeping))
    actors = "stream shards: 1 per node, for all trials"
    table.add_row("actors", actors + (f"; replay actors: {per_trial} per trial of {names}" if per_trial else ""))
    if seeds := _seeds(sweep):
        table.add_row("seeds", seeds)
    if told := _judged(sweep):
        table.add_row("protocol", told)
    if sweep.as_it_goes is not None:
        table.add_row("protocol", _protocol(sweep, sweep.as_it_goes))
    if sweep.table is not None:
        table.add_row("table", _table(sweep, sweep.table))
    if told := _precision(sweep):
        table.add_row("precision", told)
    cpus, gpus = sweep.resources.cpus, sweep.resources.gpus
    needs = f"{cpus} CPU{'' if cpus == 1 else 's'}" + (f" and {gpus:g} GPU" if gpus else "")
    table.add_row("at once", f"at most {sweep.most_at_once} trials, {needs} each")
    table.add_row("memory", _memory(sweep))
    if intervals := expected(sweep, root):
        table.add_row("intervals", _intervals(intervals))
    if rooms := capacities(sweep):
        table.add_row("capacity", "auto: " + ", ".join(f"{key} {rows:,}" for key, rows in rooms.items()))
    for key, reason in unfit(sweep).items():
        table.add_row("limits", Text(f"{key} fits nowhere: {reason}", style="yellow"))
    return table


def _precision(sweep: SweepSpec) -> str:
    """The methods that compute in bfloat16, at each point or at some; empty where none does."""
    keys = [entry.key for entry in sweep.entries if not entry.barred]
    used = {key: {one.training.precision for one in sweep.corners_of(key)} for key in keys}
    told = [key + (" at some points" if len(found) > 1 else "") for key, found in used.items() if "bf16" in found]
    which = "all methods" if told == keys and len(keys) > 1 else ", ".join(told)
    return f"bf16 in updates and predictions of {which}; all else in float32" if told else ""


def _intervals(found: Mapping[str, Expected]) -> str:
    """Half-widths to expect of the methods' accuracies."""
    if max(one.n for one in found.values()) < 2:
        return "none, of one final seed"
    told = [f"{key} ± {100 * one.margin:.1f}" for key, one in found.items() if one.known_from]
    assumed = next((one for one in found.values() if not one.known_from), None)
    parts = [f"{', '.join(told)}, from stored sweeps"] if told else []
    if assumed is not None:
        typical = f"of a deviation of {100 * ASSUMED:.2g} points, {SOURCE}"
        parts.append(f"{'others ' if told else ''}± {100 * assumed.margin:.1f}, {typical}")
    return f"accuracy over {max(one.n for one in found.values())} final seeds, 95 %: {'; '.join(parts)}"


def _seeds(sweep: SweepSpec) -> str:
    """The runs of every phase, where sources of randomness have seeds of their own; empty elsewhere."""
    phases = {
        dotted(path[:-1]): runs_of(seeds) for path, seeds in seeds_of(sweep.search, sweep.final, sweep.table).items()
    }
    if all(run.plain is not None for runs in phases.values() for run in runs):
        return ""
    told = []
    for phase, runs in phases.items():
        shown = [run.label for run in runs[:SHOWN_RUNS]] + ["..."] * (len(runs) > SHOWN_RUNS)
        told.append(f"{phase}: {', '.join(shown)}" + (f" ({len(runs)})" if len(runs) > 1 else ""))
    return f"{'; '.join(told)}; in the order {'/'.join(SEED_SOURCES)}"


def _judged(sweep: SweepSpec) -> str:
    """On what search trials are judged, where that is not the whole of the sweep's stream."""
    search = sweep.search
    if search is None or (search.judged is None and not search.searched_on):
        return ""
    if search.judged is None:
        other = ", ".join(f"{key} {value}" for key, value in search.searched_on.items())
        return f"searched on another stream: {other}"
    count = search.judged.tasks
    left = "the others, with a fresh model" if search.judged.disjoint else "all"
    return f"search trials learn the first {'task' if count == 1 else f'{count} tasks'}, final trials {left}"


def _protocol(sweep: SweepSpec, rule: ProtocolConfig) -> str:
    """What trials that choose as they go will cost."""
    told = []
    for entry in (entry for entry in sweep.entries if not entry.barred):
        least, most = trainings(sweep, entry, _tasks(sweep, entry))
        told.append(f"{entry.key} {least:,}" + (f" to {most:,}" if most > least else ""))
    return f"{rule.name}: trainings of a task in each final trial, {', '.join(told)}"


def _table(sweep: SweepSpec, table: TableConfig) -> str:
    """What a table will cost, and what it is for."""
    able = [entry for entry in sweep.entries if not entry.barred]
    tasks = sum(sweep.runs(entry).table * _tasks(sweep, entry) for entry in able)
    trials, runs = sum(sweep.runs(entry).table for entry in able), len(table.runs)
    return (
        f"{trials:,} trials (points x {runs} seed{'s' * (runs > 1)}), {tasks:,} trainings of a task; measured on "
        "validation and on test data after every task, and nothing is selected: `raycl simulate` answers from it"
    )


def _tasks(sweep: SweepSpec, entry: Entry) -> int:
    outline = outline_of(sweep, entry)
    return sweep.resolved(entry, entry.middle).stream.tasks if outline is None else outline.num_tasks


def _replay(sweep: SweepSpec, entry: Entry) -> MemoryConfig:
    return sweep.resolved(entry, entry.middle).memory


def _stream(sweep: SweepSpec, entry: Entry) -> str:
    stream = sweep.resolved(entry, entry.middle).stream
    outline = outline_of(sweep, entry)
    told = f"{stream.name} {stream.dataset}, {stream.tasks} tasks, {stream.scenario}-incremental"
    if stream.boundaries == "hidden":
        told += ", boundaries hidden"
    if stream.encode is not None:
        told += f", features of {stream.encode.weights}"
    if outline is None:
        return f"{told}; {'the weights tell' if stream.encode else 'the data set tells'} its size once it is read"
    sizes = sorted(set(outline.sizes))
    classes = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"{told}, {classes} classes a task, images {' x '.join(map(str, outline.image_shape))}"


def _measured(sweep: SweepSpec, variant: str) -> str:
    """Which cells of their matrices a variant's trials hold, by phase."""
    able = [entry for entry in sweep.entries if entry.variant == variant and not entry.barred]
    if not able:
        return "nothing"
    entry = next((entry for entry in able if entry.space), able[0])
    tasks = sweep.resolved(entry, entry.middle).stream.tasks
    phases: list[SweepPhase] = ["search"] if sweep.runs(entry).search else []
    phases += ["final"] if sweep.final is not None else []
    phases += ["table"] if sweep.table is not None else []
    told = {phase: sweep.trial(entry, entry.middle, 0, phase).evaluation.told(tasks) for phase in phases}
    return "; ".join(f"{phase}: {cells or 'all rows, each whole'}" for phase, cells in told.items())


def _model(sweep: SweepSpec, entry: Entry, told: dict[tuple[str, Outline | None], str]) -> str:
    """The network is built to be counted: once, however many variants share it; ``told`` holds those before."""
    model, outline = sweep.resolved(entry, entry.middle).model, outline_of(sweep, entry)
    key = model.model_dump_json(), outline
    if key not in told:
        told[key] = model.name if outline is None else _size(sweep.catalog, model, outline)
    return told[key]


def _size(catalog: Registries, model: ModelConfig, outline: Outline) -> str:
    try:
        with Budget(LARGEST_BUILD):
            parameters = sum(parameter.numel() for parameter in network(catalog, model, outline).parameters())
    except TooLarge:
        return f"{model.name}, more than {LARGEST_BUILD:,} parameters"
    return f"{model.name}, {parameters:,} parameters and the output units"


def _memory(sweep: SweepSpec) -> str:
    """Images per node, replay rows per trial at most, and a process."""
    outlines = [outline_of(sweep, next(e for e in sweep.entries if e.variant == variant)) for variant in sweep.variants]
    known = [outline for outline in outlines if outline is not None]
    told = []
    if len(known) == len(outlines):
        told.append(f"images {human_bytes(sum(outline.base_bytes for outline in set(known)))} per node, shared")
        rows = max((_replay_bytes(sweep, entry) for entry in sweep.entries if not entry.barred), default=0)
        if rows:
            told.append(f"replay up to {human_bytes(rows)} per trial (twice that while it is stored)")
    told.append(f"about {human_bytes(PROCESS_BYTES)} per trial process")
    return "; ".join(told)


def _replay_bytes(sweep: SweepSpec, entry: Entry) -> float:
    """Pixels of a full replay memory at the largest capacity that is searched; as many as a limit allows."""
    blocks, outline = sweep.blocks[entry.key], outline_of(sweep, entry)
    if not blocks.strategy.uses_memory or outline is None:
        return 0.0
    memory = _replay(sweep, entry)
    if memory.capacity == "auto":
        return float(sweep.resolved(entry, entry.middle).limits.max_state_bytes or 0)
    searched = [found for path, found in blocks.space.items() if dotted(path) == "memory.capacity"]
    capacity = max([end for found in searched for _, end in found.ends] or [memory.capacity])
    units = {"total": 1, "class": sum(outline.sizes), "task": outline.num_tasks}[memory.unit]
    return float(capacity * units * math.prod(outline.image_shape))
