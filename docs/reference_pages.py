"""The pages that are made while the site is built: keys, methods, models, streams, data sets, columns, sweep files.

They are read off the options classes and the registries, so they say what the installed raycl does. MkDocs loads this
file as a hook (``hooks:`` in ``mkdocs.yml``); :func:`pages` needs no MkDocs, and is what tests look at.
"""

from __future__ import annotations

import html
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pydantic import BaseModel

from raycl.catalog import catalog
from raycl.cli.ls import dataset, flow, metric, options, scenarios
from raycl.cli.shipped import question, shipped
from raycl.matrix import METRICS
from raycl.results.columns import MEANING, TABLES
from raycl.spec.options import ModelConfig, StreamConfig
from raycl.spec.overrides import STRATEGY_OVERRIDES, VARIANT_OVERRIDES
from raycl.spec.schema import BLOCKS as SHARED
from raycl.spec.space import DISTRIBUTIONS
from raycl.spec.sweep_file import REQUIRED, TOP_KEYS

ROOT = Path(__file__).parents[1]
BLOCKS = {"stream": StreamConfig, "model": ModelConfig, **SHARED}
API = {
    "raycl.trial.check": "a sweep out of a file, a text or a mapping: `raycl.load_sweep`",
    "raycl.trial.alone": "one trial in this process: `raycl.run_trial`, `raycl.trainer`",
    "raycl.sweep.library": "a whole sweep: `raycl.run`",
    "raycl.results.view": "its results: `raycl.Results`",
    "raycl.strategies.registry": "methods by name: `raycl.strategy`",
    "raycl.models.registry": "models by name: `raycl.model`",
    "raycl.streams.registry": "streams and data sets by name: `raycl.stream`, `raycl.dataset`",
    "raycl.spec.sweep": "a sweep file, read and checked",
    "raycl.spec.options": "the base of every options class, and of those of streams and models",
    "raycl.spec.training": "how one task is learned",
    "raycl.spec.schedule": "how the learning rate changes while it is",
    "raycl.spec.needs": "what options and methods need of the other blocks",
    "raycl.spec.setting": "what these needs are asked of: the checked blocks of one method",
    "raycl.strategies.base": "what a method is",
    "raycl.strategies.phases": "the loops of a task, as data",
    "raycl.strategies.context": "what a method is given",
    "raycl.streams.stream": "what a stream is",
    "raycl.streams.datasets": "what a data set is",
    "raycl.models.network": "a backbone with a head that grows",
    "raycl.memory.buffer": "what a replay memory is",
    "raycl.matrix": "the accuracy matrix and its metrics",
    "raycl.results.reading": "a results folder as tables and matrices",
    "raycl.results.statistics": "intervals, paired comparisons, and corrections for their number",
    "raycl.results.variance": "how much of a spread each source of randomness makes",
    "raycl.spec.seeds": "seeds of each source, and designs over them",
    "raycl.errors": "what is raised",
}
"""The public modules, each a page."""

SIZES = ("images", "classes", "train", "test")
"""Of a data set, as `raycl ls datasets` has them."""

Pages = dict[str, str]


@cache
def pages() -> Pages:
    """Path below ``docs/`` -> Markdown."""
    return {
        "reference/sweep-file.md": _sweep_file(),
        "reference/methods/index.md": _methods(),
        **{f"reference/methods/{name}.md": _method(name) for name in catalog().strategies.names()},
        "reference/models.md": _entries("Models", "models", "model", ModelConfig),
        "reference/streams.md": _entries("Streams", "streams", "stream", StreamConfig),
        "reference/datasets.md": _datasets(),
        "reference/columns.md": _columns(),
        "sweeps/index.md": _sweeps(),
        **{page(path): _sweep(path) for path in sweep_files()},
        "api/index.md": _api(),
        **{f"api/{module}.md": f"# {module}\n\n::: {module}\n" for module in API},
    }


# -- the sweep file ------------------------------------------------------------------------------------------------


def _sweep_file() -> str:
    top = table(("key", "about"), ([f"`{key}`{_star(key)}", about] for key, about in TOP_KEYS.items()))
    blocks = "\n".join(f"## {block}\n\n{_said(config)}\n\n{option_table(config)}" for block, config in BLOCKS.items())
    return f"""# The sweep file

Every key with its type, bounds, default and meaning, as this version of raycl checks them. `raycl ls training` prints
the same for a block, and `raycl schema` the whole as a JSON Schema for editors. Unknown keys are refused.

## Top level

{top}
\\* required

Each [stream](streams.md), each [model](models.md) and each [method](methods/index.md) has options of its own beside
those that are common, below.

## strategies

A key for each method: its name, or any name with `strategy:` inside. The value holds the method's own options and
overrides of other blocks, by dotted path below {_words(STRATEGY_OVERRIDES)}. The word `search` in place of the whole
value, or of one value, takes the usual search space.

## variants

A key for each variant: any name. The value holds overrides by dotted path below {_words(VARIANT_OVERRIDES)}. Each
variant is searched and scored on its own.

## Distributions

Wherever a value of a method, `training`, `model` or `memory` stands, a distribution may stand: the value is searched.

{table(("distribution", "draws"), (_distribution(word) for word in DISTRIBUTIONS))}
{blocks}"""


def _star(key: str) -> str:
    return " *" if key in REQUIRED else ""


def _distribution(word: str) -> tuple[str, str]:
    family = DISTRIBUTIONS[word]
    return f"`{word}: {family.arguments.partition('],')[0].rstrip(']')}]`", first_line(family)


# -- methods -------------------------------------------------------------------------------------------------------


def _methods() -> str:
    known = catalog().strategies
    rows = (
        (f"[{name}]({name}.md)", first_line(known.get(name)), scenarios(known.get(name)), known.get(name).paper)
        for name in known.names()
    )
    return f"# Methods\n\n{table(('name', 'method', 'scenarios', 'paper'), rows)}"


def _method(name: str) -> str:
    entry = catalog().strategies.get(name)
    facts = {
        "Paper": entry.paper,
        "Scenarios": scenarios(entry),
        "Task boundaries": "may be hidden" if entry.boundary_free else "must be given",
        "Replay memory": "yes: the `memory` block applies" if entry.uses_memory else "",
        "Upper bound": "yes: it may see data of other tasks, and every result says so" if entry.upper_bound else "",
    }
    told = "\n".join(f"- **{fact}:** {cell(value)}" for fact, value in facts.items() if value)
    parts = [
        f"# {name}\n\n{cell(first_line(entry))}\n\n{told}",
        f"## What it does\n\n{_module(entry)}",
        f"## Options\n\n{option_table(entry.Config) or 'None of its own.'}",
        _usual(name, entry),
        _published(entry),
        _rules(entry),
        _between_tasks(entry),
        _shown_by(name),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _module(entry: Any) -> str:
    """A method's module docstring: paper, equations, departures."""
    text = markdown(inspect.getdoc(sys.modules[entry.__module__]) or "")
    return re.sub(
        r"^Departures?:\s*(\w?)", lambda first: f"### Departures\n\n{first[1].upper()}", text, flags=re.MULTILINE
    )


def _usual(name: str, entry: Any) -> str:
    if not entry.Config.search_space:
        return ""
    lines = "\n".join(f"    {path}: {flow(data)}" for path, data in entry.Config.search_space.items())
    return (
        f"## Usual search space\n\nWhat `{name}: search` stands for:\n\n```yaml\nstrategies:\n  {name}:\n{lines}\n```"
    )


def _published(entry: Any) -> str:
    """What ``auto`` comes to."""
    rows = [
        (scenario, f"`{path}`", f"`{value}`")
        for scenario, chosen in entry.published.items()
        for path, value in chosen.items()
    ]
    if not rows:
        return "## What auto means\n\nWhat the [shared blocks](../sweep-file.md) say; the paper asks for nothing else."
    told = "Where these options are left open (`auto`, or not given), this method takes what its authors have:"
    return f"## What auto means\n\n{told}\n\n{table(('scenario', 'option', 'value'), rows)}"


def _rules(entry: Any) -> str:
    """What is refused, and what does nothing."""
    refused = [f"- `{need.path}` {cell(need.rule)}" for need in (*entry.needs, *entry.Config.needs)]
    idle = [f"- {_words(each.paths)}: {cell(each.why)}" for each in (*entry.ignores, *entry.Config.ignores)]
    parts = []
    if refused:
        parts.append("## What is refused\n\n" + "\n".join(refused))
    if idle:
        parts.append(
            "## Options that do nothing here\n\nWhere the reason holds; they are told, and not searched.\n\n"
            + "\n".join(idle)
        )
    return "\n\n".join(parts)


def _between_tasks(entry: Any) -> str:
    """What a protocol may choose when: see the page on protocols."""
    late: dict[str, list[str]] = {}
    for option, first in entry.acts_from.items():
        late.setdefault(f"task {first}" if isinstance(first, int) else "task 1 or 2, by other options", []).append(
            option
        )
    told = [f"- {_words(names)}: nothing of it is seen before {when}" for when, names in sorted(late.items())]
    if entry.between_tasks:
        told.append(f"- {_words(entry.between_tasks)}: may change from one task to the next")
    if entry.stability:
        told.append(f"- {_words(own.option for own in entry.stability)}: decays under `stability_decay`")
    return "## Chosen as it goes\n\n" + "\n".join(told) if told else ""


def _shown_by(name: str) -> str:
    shown = sorted((path for path in sweep_files() if name in methods_of(path)), key=lambda path: path.stem != name)
    if not shown:
        return ""
    links = "\n".join(f"- [{path.relative_to(ROOT)}](../../{page(path)}): {cell(question(path))}" for path in shown)
    return f"## Sweeps with it\n\n{links}"


# -- models, streams, data sets ------------------------------------------------------------------------------------


def _entries(title: str, kind: str, block: str, shared: type[BaseModel]) -> str:
    registry = getattr(catalog(), kind)
    parts = [
        f"# {title}\n\nAny of these may stand as `name` in the `{block}` block, with its own options beside those that "
        f"[every {block} has](sweep-file.md#{block})."
    ]
    for name in registry.names():
        entry = registry.get(name)
        own = entry if inspect.isclass(entry) else entry.Config
        module = markdown(inspect.getdoc(sys.modules[entry.Config.__module__]) or "")
        said = dict.fromkeys([markdown(inspect.getdoc(own) or ""), module])
        told = "\n\n".join(said)
        parts.append(f"## {name}\n\n{told}\n\n{option_table(entry.Config, without=_same(entry.Config, shared))}")
    return "\n\n".join(parts) + "\n"


def _same(block: type[BaseModel], shared: type[BaseModel]) -> set[str]:
    """Keys that are as every entry has them."""
    common = {option.key: option for option in options(shared)}
    return {option.key for option in options(block) if common.get(option.key) == option}


def _datasets() -> str:
    rows, said = [], []
    registry = catalog().datasets
    for name in registry.names():
        entry = registry.get(name)
        facts = dataset(entry)
        rows.append((f"`{name}`", *(facts.get(key, "") for key in SIZES), first_line(type(entry))))
        if entry.info is None:
            said.append(f"## {name}\n\n{markdown(inspect.getdoc(sys.modules[type(entry).__module__]) or '')}")
    told = "\n\n".join(said)
    return f"""# Data sets

Any of these may stand as `dataset` in the `stream` block. All but `digits` are read from the data root.

{table(("name", "image", "classes", "train", "test", "about"), rows)}
{told}
"""


# -- results, sweep files, Python ----------------------------------------------------------------------------------


def _columns() -> str:
    parts = [
        "# Columns of the results\n\nBeside these, `trials` has a column `hp.PATH` for every option that the trial ran "
        "with (what `auto` came to stands there), `measure.NAME` for numbers of a method's own after the last task and "
        "for diagnostics before it, and the metrics inside tasks where they were measured."
    ]
    for name, (told, form) in TABLES.items():
        rows = ((f"`{field.name}`", str(field.type), _meaning(field.name)) for field in form)
        parts.append(f"## {name}\n\n{told}\n\n{table(('column', 'type', 'meaning'), rows)}")
    return "\n\n".join(parts)


def _meaning(column: str) -> str:
    return MEANING[column] if column not in METRICS else markdown(metric(column)).split("\n\n")[0].replace("\n", " ")


@cache
def sweep_files() -> tuple[Path, ...]:
    """Every sweep that is shipped: one for each method first, then papers, the larger questions, and tables."""
    folders = ("methods", "papers", "sweeps", "tables")
    return tuple(sorted(shipped().values(), key=lambda path: (folders.index(path.parent.name), path)))


def page(path: Path) -> str:
    """Where a sweep file stands in the site."""
    return str(PurePosixPath(path.relative_to(ROOT)).with_suffix(".md"))


@cache
def methods_of(path: Path) -> frozenset[str]:
    """The methods that a sweep names, whatever it calls them."""
    named = yaml.safe_load(path.read_text())["strategies"]
    return frozenset(
        (value or {}).get("strategy", alias) if isinstance(value, dict) else alias for alias, value in named.items()
    )


def _sweeps() -> str:
    named = ((path.relative_to(ROOT / "sweeps"), cell(question(path))) for path in sweep_files())
    rows = ((f"[{path}]({path.with_suffix('.md')})", asked) for path, asked in named)
    told = "Each is a question; its head names the command, what to expect, and the cost."
    return f"# Sweep files\n\n{told}\n\n{raw_table(('file', 'question'), rows)}"


def _sweep(path: Path) -> str:
    return f"# {path.relative_to(ROOT)}\n\n```yaml\n{path.read_text()}```\n"


def _api() -> str:
    rows = ((f"[{module}]({module}.md)", about) for module, about in API.items())
    return f"# Python\n\n{table(('module', 'holds'), rows)}"


# -- Markdown ------------------------------------------------------------------------------------------------------


def option_table(block: type[BaseModel], without: Iterable[str] = ()) -> str:
    """The keys of an options class, or nothing where it has none."""
    left_out = set(without)
    rows = [
        (f"`{option.key}`", option.value, option.default, option.about)
        for option in options(block)
        if option.key not in left_out
    ]
    return table(("option", "value", "default", "about"), rows) if rows else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text, in which backquotes and links count."""
    return raw_table(headings, ([cell(value) for value in row] for row in rows))


def raw_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def cell(text: str) -> str:
    """Text in one line, in which backquotes and links count, and nothing else does."""
    text = html.escape(markdown(text).replace("\n", " ").replace("``", "`"), quote=False)
    text = re.sub(r"[|*]|(?<!\w)_|_(?!\w)", lambda mark: f"&#{ord(mark[0])};", text)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)


def markdown(docstring: str) -> str:
    """A docstring as Markdown: no roles, and a blank line before each list."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", docstring)
    return re.sub(r"^(?!- |  )(.+)\n(?=- )", r"\1\n\n", text, flags=re.MULTILINE)


def first_line(entry: Any) -> str:
    """What a class says of itself first."""
    return (inspect.getdoc(entry) or "").split("\n\n")[0].replace("\n", " ")


def _said(block: type[BaseModel]) -> str:
    return markdown(inspect.getdoc(block) or "")


def _words(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


# -- what MkDocs calls ---------------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Add the pages, and their place in the navigation."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    config.nav = [*config.nav, *_navigation()]
    return files


def _navigation() -> Iterator[dict[str, Any]]:
    methods = [path for path in pages() if path.startswith("reference/methods/")]
    others = (f"reference/{name}.md" for name in ("models", "streams", "datasets", "columns"))
    yield {"Reference": ["reference/sweep-file.md", {"Methods": methods}, *others]}
    yield {"Sweep files": [path for path in pages() if path.startswith("sweeps/")]}
    yield {"Python": [path for path in pages() if path.startswith("api/")]}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw by themselves: the site asks no other server for anything."""
    from latex2mathml.converter import convert

    def drawn(found: re.Match[str]) -> str:
        return f'<div class="formula">{convert(found[1].strip(), display="block")}</div>'

    return re.sub(r"^```math\n(.*?)^```$", drawn, markdown, flags=re.DOTALL | re.MULTILINE)
