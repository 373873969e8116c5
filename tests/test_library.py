"""raycl as a library: the lines of a notebook, on both backends, and parts of a user's own."""

from __future__ import annotations

import doctest
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from typer.testing import CliRunner

import raycl
from raycl.catalog import catalog
from raycl.cli.app import app
from raycl.errors import MethodError, SpecError, UnknownName
from raycl.results.trackers.mlflow import MLflowMirror
from raycl.spec.own_files import FILES, import_code

PUBLIC = {
    *("AccuracyMatrix", "RayclError", "Results", "SpecError", "Strategy", "Stream", "SweepSpec", "Trainer", "Trial"),
    *("__version__", "dataset", "load_sweep", "model", "run", "run_trial", "strategy", "stream", "stream_from_arrays"),
    "trainer",
}
SWEEP = """
name: own
stream: {name: split, dataset: digits, tasks: 5, scenario: class, validation_fraction: 0.2}
model: {name: mlp, hidden: [16]}
training: {iterations: 10, batch_size: 16}
strategies:
  naive: {}
  half: {training.learning_rate: {loguniform: [1e-3, 1e-2]}}
search: {trials: 2, generation: 2, startup: 2}
final: {seeds: [10, 11]}
"""
METHOD = '''
import raycl
from raycl.strategies.naive import Naive

FACTOR = 0.5

@raycl.strategy("half")
class Half(Naive):
    """Learns from half of the loss."""

    paper = "nobody"

    def loss(self, batch):
        return {name: FACTOR * part for name, part in super().loss(batch).items()}
'''


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    monkeypatch.setattr(MLflowMirror, "add", lambda self, record: None)  # it takes seconds for each folder
    known = catalog()
    registries = (known.strategies, known.streams, known.datasets, known.models)
    before = [dict(registry._registered) for registry in registries]
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry._registered = entries
    for name in FILES:
        sys.modules.pop(name, None)
    FILES.clear()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a sweep file and the file of a method."""
    (tmp_path / "x.yaml").write_text(SWEEP)
    (tmp_path / "half_loss.py").write_text(METHOD)
    return tmp_path


def test_the_public_names_are_these_and_each_has_its_docstring() -> None:
    assert set(raycl.__all__) == PUBLIC
    assert set(dir(raycl)) >= PUBLIC
    for name in PUBLIC - {"__version__"}:
        value = getattr(raycl, name)
        assert inspect.getdoc(value), name
        assert getattr(raycl, name) is value, "a sub-package of this name would win at the second access"
    modules = {module.name for module in pkgutil.iter_modules(raycl.__path__)}
    assert not modules & PUBLIC
    with pytest.raises(AttributeError, match="no attribute 'strategi'"):
        _ = raycl.strategi  # type: ignore[attr-defined]


def test_importing_raycl_loads_nothing_heavy() -> None:
    code = "import sys, raycl; print(sorted({'torch', 'ray', 'mlflow', 'optuna', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_examples_of_docstrings_run(name: str, tmp_path: Path) -> None:
    value = getattr(raycl, name)
    given = {"raycl": raycl, "np": np, "torch": torch, "nn": torch.nn, name: value}
    if name == "Results":
        sweep = {"name": "s", "stream": {"name": "split", "dataset": "digits", "tasks": 2}}
        sweep |= {"model": {"name": "mlp"}, "training": {"iterations": 1}}
        sweep |= {"strategies": {"replay": {}, "naive": {}}, "final": {"seeds": [0, 1]}}
        given["folder"] = raycl.run(sweep, tmp_path / "r").uri
    for test in doctest.DocTestFinder(recurse=False).find(value, name, globs=given):
        runner = doctest.DocTestRunner()
        runner.run(test)
        assert not runner.failures, name


def test_the_package_s_own_example_runs() -> None:
    assert doctest.testmod(raycl).failed == 0
    assert doctest.testmod(raycl).attempted > 0


LINES = """
import raycl

@raycl.strategy("half")
class Half(raycl.Strategy):
    Config = __import__("raycl.strategies.naive", fromlist=["x"]).Naive.Config
    scenarios = frozenset({"class", "task", "domain"})
    paper = "nobody"

    def loss(self, batch):
        return {name: part / 2 for name, part in super().loss(batch).items()}

sweep = raycl.load_sweep(FILE)
trial = raycl.run_trial(sweep, "half", seed=0, point={"training.learning_rate": 0.002})
"""
RUN = """
results = raycl.run(sweep, FOLDER, backend=BACKEND)
print(results.ending.complete, results.trials.num_rows, sorted(results.winners), trial.matrix.num_tasks)
import hashlib, numpy
matrices = [results.matrices[name].accuracy for name in sorted(results.matrices)]
print(sorted(results.matrices), hashlib.sha256(numpy.stack(matrices).tobytes()).hexdigest())
print(results.table)
results
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_lines_of_a_notebook_give_equal_matrices_on_both_backends(place: Path) -> None:
    texts = [f"FILE = {str(place / 'x.yaml')!r}\n" + LINES]
    texts += [f"FOLDER, BACKEND = {str(place / backend)!r}, {backend!r}\n" + RUN for backend in ("here", "ray")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in texts])
    NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": place}}).execute()
    told = []
    for cell in notebook.cells[1:]:
        printed = [output for output in cell.outputs if output.output_type == "stream" and output.name == "stdout"]
        told.append("".join(output["text"] for output in printed))
        (shown,) = [output["data"] for output in cell.outputs if output.output_type == "execute_result"]
        assert "half" in shown["text/html"]
    assert told[0].split()[:2] == ["True", "6"]
    without_seconds = [text.splitlines()[:2] for text in told]
    assert without_seconds[0] == without_seconds[1]


def test_a_class_s_code_is_part_of_its_trials_names(place: Path) -> None:
    names = []
    for factor in ("0.5", "0.25"):
        (place / f"half{factor[2:]}.py").write_text(METHOD.replace("0.5", factor))
        _import(place / f"half{factor[2:]}.py")
        sweep = raycl.load_sweep(place / "x.yaml")
        names.append([sweep.trial(entry, entry.middle, 0, "search").hash for entry in sweep.entries])
    assert names[0][0] == names[1][0], "naive is the same"
    assert names[0][1] != names[1][1]


def test_a_model_s_code_is_part_of_its_trials_names(place: Path) -> None:
    text = """
import raycl
from torch import nn

@raycl.model("narrow")
def narrow(config, image_shape, generator):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU())
"""
    file = place / "x.yaml"
    file.write_text(SWEEP.replace("{name: mlp, hidden: [16]}", "{name: narrow}").replace("  half: ", "  ewc: "))
    names = {}
    for version, width in (("first", "12"), ("same", "12"), ("other", "13")):
        (place / f"{version}.py").write_text(text.replace("12", width))
        _import(place / f"{version}.py")
        sweep = raycl.load_sweep(file)
        names[version] = sweep.trial(sweep.entries[0], {}, 0, "final").hash
    assert names["first"] == names["same"] != names["other"]


def _import(path: Path) -> None:
    import_code(str(path))


def cli(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(part) for part in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


def test_a_file_is_imported_by_check_ls_and_run(place: Path) -> None:
    file, own = place / "x.yaml", place / "half_loss.py"
    assert "unknown strategy" in cli("check", file, code=2)
    assert "half" in cli("check", file, "--import", own)
    assert "Learns from half of the loss" in cli("ls", "strategies", "half", "--import", own)
    here = ("--backend", "here", "--results", place / "r", "--import", own)
    assert "half" in cli("run", file, *here)
    assert raycl.Results(place / "r").trials.num_rows == 6


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_file_s_method_runs_on_ray_and_is_the_same_code_there(place: Path) -> None:
    file, own = place / "x.yaml", place / "half_loss.py"
    command = [sys.executable, "-m", "raycl", "run", file, "--import", own, "--results"]
    for backend in ("ray", "here"):
        done = subprocess.run(
            [*command, place / backend, "--backend", backend], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    on_ray, here = (raycl.Results(place / backend) for backend in ("ray", "here"))
    for column in ("trial", "code", "average_accuracy"):
        assert on_ray.trials[column].to_pylist() == here.trials[column].to_pylist(), column


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nosuchmodule", r"ModuleNotFoundError: No module named 'nosuchmodule' .line 1 of bad.py"),
        ("x = 1\nx +", r"invalid syntax .line 2 of bad.py"),
        ("\n1 / 0", r"ZeroDivisionError: division by zero .line 2 of bad.py"),
        (METHOD.replace('"half"', '"ewc"'), r"strategy 'ewc' is there already; choose another name"),
    ],
)
def test_own_code_that_fails_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(UnknownName, match=told):
        _import(tmp_path / "bad.py")
    with pytest.raises(UnknownName, match="there is no such file"):
        _import(tmp_path / "none.py")


def test_a_dict_is_held_to_all_that_check_refuses() -> None:
    sweep = {"name": "x", "stream": {"name": "split", "dataset": "digits", "tasks": 5}, "final": {"seeds": [0]}}
    sweep |= {"model": {"name": "mlp"}}
    with pytest.raises(SpecError, match=r"strategies.ewc.penatly: unknown key; did you mean 'penalty'"):
        raycl.load_sweep({**sweep, "strategies": {"ewc": {"penatly": 1}}})
    with pytest.raises(SpecError, match="images of 8 x 8 pixels can be halved fewer times"):
        raycl.load_sweep({**sweep, "strategies": {"naive": {}}, "model": {"name": "cnn", "channels": [4, 4, 4, 4]}})
    with pytest.raises(SpecError, match="must be plain"):
        raycl.load_sweep({**sweep, "strategies": {"naive": object()}})


def test_own_arrays_model_and_loop() -> None:
    generator = np.random.default_rng(0)
    y = np.arange(120) % 4
    x = generator.integers(0, 40, (120, 1, 8, 8), dtype=np.uint8)
    x[np.arange(120), 0, 2 * y] += 200

    @raycl.model("narrow")
    def narrow(config: object, image_shape: tuple[int, int, int], generator: torch.Generator) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 12), torch.nn.ReLU())

    block = raycl.stream_from_arrays(x[:80], y[:80], test=(x[80:], y[80:]), tasks=[[3, 1], [0, 2]])
    learner = raycl.trainer(
        block, "replay", model={"name": "narrow"}, training={"epochs": 40, "batch_size": 8}, memory={"capacity": 20}
    )
    while not learner.done:
        rows = learner.run_task()
    assert learner.scenario.num_tasks == 2
    assert rows[-1].correct.sum() > 0.9 * rows[-1].total.sum()
    logits = learner.strategy.predict(torch.from_numpy(x[80:84]).float() / 255, None)
    assert [[3, 1, 0, 2][unit] for unit in logits.argmax(1).tolist()] == y[80:84].tolist()


def test_two_starts_of_an_own_model_are_equal_and_another_seed_s_is_not() -> None:
    @raycl.model("flat")
    def flat(config: object, image_shape: tuple[int, int, int], generator: torch.Generator) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))

    stream = {"name": "split", "dataset": "digits", "tasks": 5}
    first, again, other = (raycl.trainer(stream, "naive", model={"name": "flat"}, seed=seed) for seed in (0, 0, 1))
    start, same, another = (next(one.strategy.network.backbone.parameters()) for one in (first, again, other))
    assert torch.equal(start, same)
    assert not torch.equal(start, another)


def test_a_trial_that_fails_says_why_and_where() -> None:
    sweep = raycl.load_sweep(
        {
            "name": "x",
            "stream": {"name": "split", "dataset": "digits", "tasks": 5},
            "model": {"name": "mlp"},
            "training": {"optimizer": "sgd", "learning_rate": 1e30},
            "strategies": {"naive": {}},
            "final": {"seeds": [0]},
        }
    )
    with pytest.raises(MethodError, match="must stay finite") as told:
        raycl.run_trial(sweep, "naive", phase="final")
    assert "Traceback" in told.value.__notes__[0]
    with pytest.raises(UnknownName, match=r"naive searches nothing .got training.learning_rate"):
        raycl.run_trial(sweep, "naive", point={"training.learning_rate": 1e-3}, phase="final")


def test_modules_of_the_surface_say_what_they_export() -> None:
    for name, module in raycl._PUBLIC.items():
        assert hasattr(import_module(module), name), (module, name)
