"""The documentation is complete and true: every key and name stands in it, and what it shows runs."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from support import counts, finish, matrix, trainer, trial
from typer.testing import CliRunner

import raycl
from raycl.catalog import catalog
from raycl.cli.app import app
from raycl.cli.ls import options
from raycl.matrix import METRICS
from raycl.results.columns import TABLES
from raycl.spec.own_files import FILES, import_code
from raycl.spec.space import DISTRIBUTIONS
from raycl.spec.sweep import SweepSpec
from raycl.spec.sweep_file import TOP_KEYS
from raycl.strategies.registry import STRATEGIES
from raycl.trial import checkpoint

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = sorted(DOCS.rglob("*.md"))
KINDS = ("strategies", "models", "streams", "datasets")


def generator() -> ModuleType:
    """The module that makes the pages, which is no part of the package."""
    spec = spec_from_file_location("reference_pages", DOCS / "reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MADE = generator()


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The pages as a reader sees them: without entities and the marks of code."""
    return {path: re.sub("</?code>|`", "", html.unescape(text)) for path, text in MADE.pages().items()}


def blocks(text: str, mark: str) -> list[str]:
    """The fenced blocks that a comment marks."""
    return re.findall(rf"^<!-- {mark} -->\n```\w+\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


# -- pages that are made -------------------------------------------------------------------------------------------


def test_every_key_of_the_sweep_file_stands_in_its_page(pages: dict[str, str]) -> None:
    page = pages["reference/sweep-file.md"]
    assert all(f"| {key} " in page for key in TOP_KEYS)
    assert all(f"| {word}: [" in page for word in DISTRIBUTIONS)
    assert set(MADE.BLOCKS) == TOP_KEYS.keys() - {"name", "strategies", "variants", "report"}
    for block, config in MADE.BLOCKS.items():
        section = re.search(rf"^## {block}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
        assert section, block
        for option in options(config):
            assert f"| {option.key} | {option.value} | {option.default} | " in section[1], (block, option.key)


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_stands_in_its_page(kind: str, pages: dict[str, str]) -> None:
    for name in getattr(catalog(), kind).names():
        page = pages[f"reference/methods/{name}.md"] if kind == "strategies" else pages[f"reference/{kind}.md"]
        assert f"# {name}\n" in page or f"| {name} |" in page


def test_every_option_of_every_entry_stands_in_its_page(pages: dict[str, str]) -> None:
    shared = {option for config in MADE.BLOCKS.values() for option in options(config)}
    for kind in ("strategies", "models", "streams"):
        registry = getattr(catalog(), kind)
        for name in registry.names():
            page = pages[f"reference/methods/{name}.md"] if kind == "strategies" else pages[f"reference/{kind}.md"]
            for option in set(options(registry.get(name).Config)) - (set() if kind == "strategies" else shared):
                assert f"| {option.key} | {option.value} | {option.default} |" in page, (name, option.key)


def test_a_method_is_told_with_its_paper_its_auto_and_its_sweeps(pages: dict[str, str]) -> None:
    for name in catalog().strategies.names():
        method, page = catalog().strategies.get(name), pages[f"reference/methods/{name}.md"]
        assert method.paper in page
        for chosen in method.published.values():
            assert all(f"| {path} | {value} |" in page for path, value in chosen.items())
        for path in (ROOT / "sweeps" / "methods").glob(f"{name}.yaml"):
            assert f"[sweeps/methods/{path.name}](../../sweeps/methods/{name}.md)" in page
    assert "### Departures" in pages["reference/methods/ewc.md"]


def test_every_column_of_the_results_has_a_meaning(pages: dict[str, str]) -> None:
    columns = {field.name for _, form in TABLES.values() for field in form}
    assert columns - set(METRICS) == MADE.MEANING.keys()
    assert all(f"| {column} | " in pages["reference/columns.md"] for column in columns)


def test_every_shipped_sweep_has_a_page_with_its_question(pages: dict[str, str]) -> None:
    for path in (ROOT / "sweeps").rglob("*.yaml"):
        assert path.read_text().strip() in MADE.pages()[MADE.page(path)]
        assert MADE.question(path).endswith(("?", ".")), path


# -- pages that are written ----------------------------------------------------------------------------------------


def test_the_page_of_metrics_has_each_of_them_with_a_formula() -> None:
    text = (DOCS / "metrics.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    assert [name for name in sections if "_" in name or name == "forgetting"] == list(METRICS)
    assert all("```math\n" in sections[name] for name in (*METRICS, "Intransigence"))


@pytest.mark.parametrize("path", [path for path in WRITTEN if blocks(path.read_text(), "runs")], ids=lambda p: p.stem)
def test_what_a_page_shows_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known = [getattr(catalog(), kind) for kind in KINDS]
    before = [dict(registry._registered) for registry in known]
    scope: dict[str, Any] = {"__name__": "shown"}
    module = ModuleType("shown")
    module.__dict__.update(scope)
    monkeypatch.setitem(sys.modules, "shown", module)
    (tmp_path / "shown.py").write_text("\n\n".join(blocks(path.read_text(), "runs")))
    try:
        exec(compile((tmp_path / "shown.py").read_text(), str(tmp_path / "shown.py"), "exec"), module.__dict__)
    finally:
        for registry, entries in zip(known, before, strict=True):
            registry._registered = entries


def test_the_sweep_files_of_the_pages_are_valid() -> None:
    shown = [text for path in WRITTEN for text in blocks(path.read_text(), "a sweep")]
    assert len(shown) == 3
    assert all(SweepSpec.parse(text, catalog()).warnings == () for text in shown)


def shown_commands() -> list[list[str]]:
    """Every command of raycl in the indented lines of the pages and of the README."""
    text = "\n".join(path.read_text() for path in (*WRITTEN, ROOT / "README.md"))
    return [line.split("#")[0].split() for line in re.findall(r"^    (?:\$ )?raycl (.*)", text, re.MULTILINE)]


def test_the_commands_of_the_pages_exist_with_their_options() -> None:
    known = {command.name or getattr(command.callback, "__name__", ""): command for command in app.registered_commands}
    assert shown_commands()
    for name, *arguments in shown_commands():
        told = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
        assert name in known
        assert all(argument in told for argument in arguments if argument.startswith("--")), (name, arguments)
        for argument in arguments:
            assert not argument.startswith(("sweeps/", "docs/")) or (ROOT / argument).exists(), argument


def test_what_only_reads_runs_as_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    quick = [line for line in shown_commands() if line[0] in ("ls", "check", "schema") and "--import" not in line]
    assert {line[0] for line in quick} == {"ls", "check", "schema"}
    for line in quick:
        if line != ["check", "my_question.yaml"]:
            assert CliRunner().invoke(app, line).exit_code == 0, line


def test_the_command_table_is_complete() -> None:
    known = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    table = (DOCS / "commands.md").read_text()
    assert set(re.findall(r"^\| `raycl (\w+)", table, re.MULTILINE)) == known


def test_every_link_between_pages_leads_to_one() -> None:
    made = MADE.pages()
    for path in WRITTEN:
        for link in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
            target = Path(os.path.normpath(path.parent / link))
            assert target.exists() or str(target.relative_to(DOCS)) in made, (path.name, link)


# -- the method of one's own ---------------------------------------------------------------------------------------


@pytest.fixture
def weight_average(tmp_path: Path) -> Iterator[None]:
    """The method of the page, imported as ``--import`` does it."""
    (code,) = blocks((DOCS / "own" / "method.md").read_text(), "weight_average")
    (tmp_path / "weight_average.py").write_text(code)
    import_code(str(tmp_path / "weight_average.py"))
    yield
    del STRATEGIES._registered["weight_average"], FILES["weight_average"], sys.modules["weight_average"]


def test_the_method_of_the_page_resumes_to_the_last_bit(weight_average: None) -> None:
    spec = trial("weight_average")
    straight = trainer(spec)
    rows = finish(straight)
    first = trainer(spec)
    begun = first.run_task()
    second = trainer(spec)
    second.load_state_dict(checkpoint.decode(checkpoint.encode(first.state_dict())))
    assert counts(begun + finish(second)) == counts(rows)
    for name, mean in straight.strategy.mean.items():
        assert torch.equal(mean, second.strategy.mean[name])
        assert not torch.equal(mean, dict(straight.strategy.network.named_parameters())[name])


def test_the_mean_of_the_page_is_that_of_its_head(weight_average: None) -> None:
    """Of one update: decay of where weights began, and the rest of where they are."""
    learning = trainer(trial("weight_average", "task", options={"decay": 0.75}, training={"iterations": 1}))
    begun = trainer(trial("naive", "task"))
    begun.strategy.grow(0)
    learning.run_task()
    start, now = (dict(each.strategy.network.named_parameters()) for each in (begun, learning))
    for name, mean in learning.strategy.mean.items():
        torch.testing.assert_close(mean, (0.75 * start[name] + 0.25 * now[name]).detach())


def test_the_method_of_the_page_is_naive_without_its_decay_and_slow_with_much_of_it(weight_average: None) -> None:
    naive, free, slow = (
        matrix(spec).accuracy
        for spec in (
            trial("naive"),
            trial("weight_average", options={"decay": 0.0}),
            trial("weight_average", options={"decay": 0.9999}),
        )
    )
    assert np.array_equal(naive, free, equal_nan=True)
    assert slow[0, 0] < naive[0, 0], "a mean over more than the task has hardly left the start"


# -- the figures of a results folder ---------------------------------------------------------------------------------

PLASTICITY = """
name: plasticity
stream: {name: permuted, dataset: digits, tasks: 12, scenario: domain, train_per_task: 20}
model: {name: mlp, hidden: [8]}
training: {batch_size: 10, epochs: 1}
strategies: {naive: {}, continual_backprop: {}}
evaluation: {every: end, online: true, diagnostics: [dead_units]}
final: {seeds: [10, 11]}
"""


def test_the_figures_of_the_sweep_on_plasticity_are_made_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plasticity.yaml").write_text(PLASTICITY)
    raycl.run(raycl.load_sweep("plasticity.yaml"), "results/plasticity", backend="here")
    capsys.readouterr()
    (code,) = blocks((DOCS / "metrics.md").read_text(), "plasticity of a results folder")
    exec(compile(code, "metrics.md", "exec"), {})
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == ["naive", "continual_backprop"]
    assert all(re.search(r" [+-]\d+\.\d\d ± \d+\.\d\d, last ten \d+\.\d\d %", line) for line in told)
    assert (tmp_path / "plasticity.png").read_bytes().startswith(b"\x89PNG")


# -- the site ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    missing = [name for name in ("mkdocs", "material", "mkdocstrings", "latex2mathml") if find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; pip install -c constraints.txt -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = (tmp_path / "site" / "metrics.html").read_text()
    assert built.count("<math") == built.count('class="formula"') > len(METRICS)
    for page in (tmp_path / "site").rglob("*.html"):
        asked = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?:[^\" >]+)", page.read_text())
        assert not [url for url in asked if "canonical" not in url], page
