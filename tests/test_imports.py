"""Data flows down one list, and a file imports only what stands above it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from streams.image_sets import write_mnist

ROOT = Path(__file__).parents[1]

ORDER = (
    "errors",
    "addresses spec",
    "registry",
    "models",
    "streams",
    "memory",
    "learning",
    "strategies",
    "catalog matrix",
    "trial",
    "results",
    "sweep",
    "distributed cli",
    "__main__",
)
"""Folders and files of raycl/ from top to bottom; those of one line stand side by side and know nothing of each other.
A file or folder that is not here has no place yet: give it one."""

ARROWS = 76
"""The most pairs of folders and root files of raycl/ of which one imports the other."""

HOMES = {"ray": "raycl.distributed", "mlflow": "raycl.results.trackers.mlflow"}
"""Packages that one place alone may import."""

BARRED = {"raycl.spec": {"torch", "torchvision", "numpy", "optuna"}}
"""Packages that a folder may not import."""


def sources() -> dict[str, str]:
    """Module name -> source, of every file of the package."""
    files = sorted((ROOT / "raycl").rglob("*.py"))
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file.read_text()
        for file in files
    }


def imports(module: str, tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in the file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            yield node.module or ""


def level(module: str) -> int:
    """The place of a module in :data:`ORDER`."""
    part = _part(module)
    found = [place for place, line in enumerate(ORDER) if part in line.split()]
    assert found, f"raycl/{part} has no place in the order; give it one in {Path(__file__).name}"
    return found[0]


def _part(module: str) -> str:
    """The folder or file of raycl/ that a module belongs to."""
    return module.split(".")[1]


def broken(files: Mapping[str, str]) -> list[str]:
    """Every import or print that breaks a rule."""
    faults = []
    for module, source in files.items():
        tree = ast.parse(source)
        if module != "raycl":
            faults += [f"{module} imports {name}" for name in imports(module, tree) if not allowed(module, name)]
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        faults += [f"{module} prints" for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    return faults


def allowed(module: str, name: str) -> bool:
    package = name.split(".")[0]
    if package == "raycl":
        return name == "raycl" or _part(name) == _part(module) or level(name) < level(module)
    if package in HOMES:
        return _within(module, HOMES[package])
    return not any(_within(module, folder) and package in names for folder, names in BARRED.items())


def _within(module: str, folder: str) -> bool:
    return module == folder or module.startswith(folder + ".")


def test_a_file_imports_only_what_stands_above_it() -> None:
    assert broken(sources()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("raycl.spec.sweep", "import torch"),
        ("raycl.spec.sweep", "from raycl.strategies.registry import STRATEGIES"),
        ("raycl.streams.source", "from raycl.trial.trainer import Trainer"),
        ("raycl.memory.replay", "def f():\n    import ray"),
        ("raycl.strategies.ewc", "from raycl.results import store"),
        ("raycl.trial.trainer", "from ray.util import x"),
        ("raycl.results.store", "import mlflow.tracking"),
        ("raycl.trial.evaluator", "import raycl.results.store"),
        ("raycl.catalog", "import raycl.matrix"),
        ("raycl.trial.session", "from raycl.sweep.run import run_sweep"),
        ("raycl.sweep.run", "from raycl.distributed.cluster import connected"),
        ("raycl.sweep.here", "import ray"),
        ("raycl.cli.live", "print('hello')"),
    ],
)
def test_each_kind_of_breach_is_found(module: str, source: str) -> None:
    assert len(broken({module: source})) == 1


def test_a_file_without_a_place_is_found() -> None:
    with pytest.raises(AssertionError, match="has no place"):
        broken({"raycl.trial.trainer": "import raycl.helpers"})


def arrows(files: Mapping[str, str]) -> set[tuple[str, str]]:
    """The pairs of folders and root files of which the first imports the second, wherever in its files."""
    pairs = {
        (_part(module), _part(name))
        for module, source in files.items()
        for name in imports(module, ast.parse(source))
        if module != "raycl" and name.startswith("raycl.")
    }
    return {(importing, imported) for importing, imported in pairs if importing != imported}


def test_the_rooms_of_the_house_know_few_others() -> None:
    assert arrows({"raycl.a.b": "import raycl.c.d, raycl.a.x, raycl", "raycl.a.e": "from raycl.c import f"}) == {
        ("a", "c")
    }
    assert len(arrows(sources())) <= ARROWS


def names(source: str) -> Iterator[str]:
    """Public classes, types and constants that a file makes; a letter alone stands for any type."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            made = (part for target in targets for part in getattr(target, "elts", [target]))
            yield from (t.id for t in made if isinstance(t, ast.Name) and t.id[0].isupper() and len(t.id) > 1)


def test_no_public_name_of_a_file_stands_for_two_things() -> None:
    text = "class Ant: ...\nBee = dict[str, int]\nCow: TypeAlias = int\nMOST, LEAST = 3, 1\n_Dog = 1\nT = 2\nfly = 3"
    assert list(names(text)) == ["Ant", "Bee", "Cow", "MOST", "LEAST"]
    made: dict[str, list[str]] = {}
    for module, source in sources().items():
        for name in names(source):
            made.setdefault(name, []).append(module)
    assert {name: where for name, where in made.items() if len(where) > 1} == {}


def test_no_two_files_import_each_other() -> None:
    """At import time; what a function imports, or a type checker, may point back."""
    files = sources()
    graph = {module: _neighbours(module, ast.parse(source), files) for module, source in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these files import each other: {' -> '.join(reversed(error.args[1]))}")


def _neighbours(module: str, tree: ast.Module, files: Mapping[str, str]) -> set[str]:
    """Modules of raycl that the file imports first of all; ``from package import name`` may mean ``package.name``."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names} & files.keys()
            found |= names or {node.module or ""}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & files.keys()) - {module}


def test_the_sweep_specification_loads_without_torch_and_ray() -> None:
    code = "import sys, raycl.spec.sweep; print(sorted({'torch', 'ray', 'mlflow', 'optuna'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


SLOW = {"torch", "torchvision", "sklearn", "optuna", "pandas", "matplotlib", "mlflow"}
"""Packages that take a third of a second to import, or two."""


def heavy(code: str) -> set[str]:
    """What is slow to import and was imported, after some code in a process of its own."""
    told = f"import json, sys; print(json.dumps(sorted({SLOW!r} & sys.modules.keys())))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{told}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_process_that_only_serves_rows_starts_without_torch(tmp_path: Path) -> None:
    """A stream actor: it reads MNIST or digits, checks every part, and hands them out."""
    write_mnist(tmp_path)
    code = """
from pathlib import Path
from raycl.distributed.streams import StreamShard
from raycl.sweep.data import Read, StreamKey
for dataset in ("mnist", "digits"):
    key = StreamKey.of({"name": "split", "dataset": dataset, "tasks": 5}, 0, "train")
    shard = StreamShard(%r)
    problem, digests, _ = shard.check([Read(key, ("train", "test"))])
    assert not problem and digests, problem
    assert shard.layout(key).num_tasks == 5
    assert len(shard.part(key, 0, "train").labels)
"""
    assert heavy(code % str(tmp_path)) == set()


def test_pixels_that_move_need_torch(tmp_path: Path) -> None:
    """The check above sees what a process imports."""
    assert heavy("from raycl.streams.task import Recipe\nimport torch\nRecipe(1).apply(torch.zeros(1, 1, 2, 2))") == {
        "torch"
    }


def test_notebooks_of_results_import_results_matrices_and_simulated_searches_only() -> None:
    for notebook in sorted((ROOT / "analysis").glob("[0-9]*.ipynb")):
        cells = json.loads(notebook.read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        tree = ast.parse("\n".join(line for line in code.splitlines() if not line.lstrip().startswith(("%", "!"))))
        own = [name for name in imports(notebook.name, tree) if name.split(".")[0] == "raycl"]
        plain = ("raycl.matrix", "raycl.sweep.simulate")
        assert all(_within(name, "raycl.results") or name in plain for name in own), (notebook.name, own)
