"""What ``raycl check`` prints: everything that a sweep would run, told without Ray and without data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raycl.catalog import catalog
from raycl.errors import DataError, MethodError, Problem, SpecError, UnknownName
from raycl.models.network import Network
from raycl.models.weights import check_name
from raycl.results.tables import human_bytes
from raycl.spec.options import MemoryConfig, ModelConfig
from raycl.spec.source import dotted, parse
from raycl.spec.sweep import Entry, SweepSpec
from raycl.streams.source import Outline, stream_outline
from raycl.streams.task import Layout, Part, Split, TaskSource
from raycl.trainer import Trainer

PROCESS_BYTES = 550e6
"""Resident memory of a trial's process before its network and batches: Python, torch and Ray, as measured on Linux."""


def check_models(sweep: SweepSpec) -> None:
    """Build every method once with its network, where its images' shape is known without data.

    Raises:
        SpecError: some cannot be built; with their places in the file.
    """
    problems: list[Problem] = []
    for entry in (entry for entry in sweep.entries if not entry.barred):
        _check_weights(sweep, entry)
        resolved, outline = sweep.resolved(entry, entry.middle), _outline(sweep, entry)
        if outline is None:
            continue
        try:
            _network(resolved.model, outline)
            if resolved.model.weights is None and resolved.stream.encode is None:
                Trainer(sweep.trial(entry, entry.middle, 0, "final"), _Unread(outline))
        except SpecError as error:
            problems += _placed(sweep, entry, error.problems).problems
        except MethodError as error:
            problems += _placed(sweep, entry, [Problem(f"strategies.{entry.alias}", str(error))]).problems
    if problems:
        raise SpecError(list(dict.fromkeys(problems)))


@dataclass(frozen=True)
class _Unread(TaskSource):
    """A stream of which only the extent is known: enough to build a method, and not to train it."""

    outline: Outline

    @property
    def layout(self) -> Layout:
        classes = tuple(tuple(range(size)) for size in self.outline.sizes)
        channels = self.outline.image_shape[0]
        return Layout(classes, self.outline.image_shape, "", (0.5,) * channels, (0.5,) * channels)

    def part(self, task: int, split: Split) -> Part:
        raise DataError(f"the {split} data of task {task} have not been read")

    def prefetch(self, task: int, split: Split) -> None:
        """There is nothing to fetch."""


def _check_weights(sweep: SweepSpec, entry: Entry) -> None:
    """Names of pretrained weights are known, or paths; whether the files are there is seen when the sweep runs."""
    resolved = sweep.resolved(entry, entry.middle)
    model, encode = resolved.model, resolved.stream.encode
    named = {"model.weights": model.weights, "stream.encode.weights": encode.weights if encode else None}
    for path, name in named.items():
        if name is None:
            continue
        try:
            check_name(name)
        except UnknownName as error:
            raise _placed(sweep, entry, [Problem(path, str(error))]) from error


def _placed(sweep: SweepSpec, entry: Entry, problems: Sequence[Problem]) -> SpecError:
    """Problems of an entry's merged blocks, with their places in the file."""
    source, placed = parse(sweep.text, sweep.file), sweep.blocks[entry.key].source_path
    return SpecError([source.problem(placed(tuple(p.path.split("."))), p.rule, p.value) for p in problems])


def _network(model: ModelConfig, outline: Outline) -> Network:
    build = catalog().models.get(model.name).build
    try:
        network: Network = build(model, outline.image_shape, torch.Generator().manual_seed(0))
    except RuntimeError as error:  # torch has no class of its own for memory that cannot be had
        first = str(error).splitlines()[0]
        raise SpecError([Problem("model", f"cannot be built ({first}); make it smaller", model.name)]) from error
    return network


def summary(sweep: SweepSpec) -> RenderableType:
    """The summary of a checked sweep."""
    head = Text.assemble((sweep.name, "bold"), (f"  {sweep.hash}", "dim"))
    warnings = [Text(f"warning: {text}", style="yellow") for text in sweep.warnings]
    return Group(head, _trials(sweep), _facts(sweep), *warnings)


def _trials(sweep: SweepSpec) -> Table:
    """A line per strategy and variant: what is searched, and how many trials each phase has."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    variants = any(sweep.variants)
    if variants:
        table.add_column("variant", no_wrap=True)
    table.add_column("strategy", no_wrap=True)
    table.add_column("searched")
    phases = ("search", "finalists", "final", "total")
    for phase in phases:
        table.add_column(phase, justify="right")
    shown = ""
    for entry in sweep.entries:
        names = [entry.variant if entry.variant != shown else ""] if variants else []
        if entry.variant != shown:
            table.add_section()
        shown = entry.variant
        runs = sweep.runs(entry)
        counts = ["n/a"] * 4 if entry.barred else [str(getattr(runs, phase)) for phase in phases]
        table.add_row(*names, _name(entry), _searched(entry), *counts, style="dim" if entry.barred else "")
    runs_of = [sweep.runs(entry) for entry in sweep.entries]
    table.add_section()
    sums = [str(sum(getattr(runs, phase) for runs in runs_of)) for phase in phases]
    table.add_row(*([""] if variants else []), "all", "", *sums, style="bold")
    return table


def _name(entry: Entry) -> str:
    return entry.alias if entry.alias == entry.strategy else f"{entry.alias} ({entry.strategy})"


def _searched(entry: Entry) -> Text:
    if entry.barred:
        return Text(entry.barred)
    lines = [f"{path}: {distribution}" for path, distribution in entry.space.items()]
    return Text("\n".join(lines) or "-")


def _facts(sweep: SweepSpec) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for variant in sweep.variants:
        entry = next(entry for entry in sweep.entries if entry.variant == variant)
        suffix = f" {variant}" if variant else ""
        table.add_row(f"stream{suffix}", _stream(sweep, entry))
        table.add_row(f"model{suffix}", _model(sweep, entry))
    keeping = [entry for entry in sweep.entries if not entry.barred and sweep.blocks[entry.key].strategy.uses_memory]
    kept = [_replay(sweep, entry) for entry in keeping]
    per_trial = max((memory.shards for memory in kept if memory.home == "actor"), default=0)
    names = ", ".join(dict.fromkeys(entry.alias for entry in keeping))
    actors = "stream shards: 1 per node, for all trials"
    table.add_row("actors", actors + (f"; replay actors: {per_trial} per trial of {names}" if per_trial else ""))
    cpus, gpus = sweep.resources.cpus, sweep.resources.gpus
    needs = f"{cpus} CPU{'' if cpus == 1 else 's'}" + (f" and {gpus:g} GPU" if gpus else "")
    table.add_row("at once", f"at most {sweep.most_at_once} trials, {needs} each")
    table.add_row("memory", _memory(sweep))
    return table


def _replay(sweep: SweepSpec, entry: Entry) -> MemoryConfig:
    return sweep.resolved(entry, entry.middle).memory


def _stream(sweep: SweepSpec, entry: Entry) -> str:
    stream = sweep.resolved(entry, entry.middle).stream
    outline = stream_outline(stream.model_dump(mode="json"))
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


def _model(sweep: SweepSpec, entry: Entry) -> str:
    model = sweep.resolved(entry, entry.middle).model
    outline = _outline(sweep, entry)
    if outline is None:
        return model.name
    parameters = sum(parameter.numel() for parameter in _network(model, outline).parameters())
    return f"{model.name}, {parameters:,} parameters and the output units"


def _outline(sweep: SweepSpec, entry: Entry) -> Outline | None:
    return stream_outline(sweep.resolved(entry, entry.middle).stream.model_dump(mode="json"))


def _memory(sweep: SweepSpec) -> str:
    """Images per node, replay rows per trial at most, and a process."""
    outlines = [_outline(sweep, next(e for e in sweep.entries if e.variant == variant)) for variant in sweep.variants]
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
    """Pixels of a full replay memory at the largest capacity that is searched."""
    blocks, outline = sweep.blocks[entry.key], _outline(sweep, entry)
    if not blocks.strategy.uses_memory or outline is None:
        return 0.0
    memory = _replay(sweep, entry)
    searched = [found for path, found in blocks.space.items() if dotted(path) == "memory.capacity"]
    capacity = max([end for found in searched for _, end in found.ends] or [memory.capacity])
    units = {"total": 1, "class": sum(outline.sizes), "task": outline.num_tasks}[memory.unit]
    return float(capacity * units * math.prod(outline.image_shape))
