"""What an installer and a newcomer meet: metadata, the wheel and what it carries, its sweeps, the command's help."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner, Result

import raycl
from raycl.cli import shipped
from raycl.cli.app import app

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = {canonicalize_name(one.name): one for one in map(Requirement, PROJECT["dependencies"])}
NAMES = {"PIL": "pillow", "pydantic_core": "pydantic", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Distributions that are not called as what they install is imported."""
SWEEPS = sorted(file.relative_to(ROOT / "sweeps").with_suffix("").as_posix() for file in ROOT.glob("sweeps/**/*.yaml"))


def command(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(part) for part in arguments], env={"COLUMNS": "160"})
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- metadata ------------------------------------------------------------------------------------------------------


def test_the_metadata_say_who_what_and_under_which_licence() -> None:
    assert {"description", "readme", "authors", "keywords", "classifiers", "requires-python"} <= PROJECT.keys()
    assert (PROJECT["license"], PROJECT["license-files"]) == ("Apache-2.0", ["LICENSE"])
    licence = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (raycl.__version__, PROJECT["license"])
    assert citation["authors"] == PROJECT["authors"]
    assert re.search(rf"^## {re.escape(raycl.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_what_is_imported_is_declared_and_nothing_else() -> None:
    imported, read = set(), set()
    for file in (ROOT / "raycl").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "distribution":
                read |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    others = imported - sys.stdlib_module_names - {"raycl"}
    assert {NAMES.get(name, name) for name in others} | read == set(REQUIRED)
    assert read == {"scikit-learn"}, "of which a file is read, and nothing imported"


def test_every_requirement_has_a_least_version_and_takes_the_tested_one() -> None:
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    tested = {canonicalize_name(name): version for name, version in tested.items()}
    for name, requirement in REQUIRED.items():
        assert ">=" in {one.operator for one in requirement.specifier}, name
        assert tested[name] in requirement.specifier, name
    assert "2.61.0" not in REQUIRED["ray"].specifier, "the next minor version may have other private modules"


def test_the_rows_that_tests_cite_stand_in_contributings_table() -> None:
    rows = set(re.findall(r"^\| (\d+b?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    cited = [
        (file.name, row)
        for file in (ROOT / "tests").rglob("test_*.py")
        for found in re.findall(r"rows? ([\d\w, ]+) of CONTRIBUTING's table", file.read_text())
        for row in re.findall(r"\d+b?", found)
    ]
    assert {"10", "12", "23", "34"} <= {row for _, row in cited}
    assert [place for place in cited if place[1] not in rows] == []


# -- the wheel -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this working copy, made from a copy of it: a build leaves files beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("raycl", "sweeps"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index")
    done = subprocess.run([*pip, "-w", folder, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_carries_every_module_the_types_the_sweeps_and_the_licence(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    assert wheel.name == f"raycl-{raycl.__version__}-py3-none-any.whl"
    modules = {file.relative_to(ROOT).as_posix() for file in (ROOT / "raycl").rglob("*.py")}
    assert {name for name in held if name.endswith(".py")} == modules
    assert {name for name in held if name.endswith(".yaml")} == {f"raycl/sweeps/{name}.yaml" for name in SWEEPS}
    assert {"raycl/py.typed", f"raycl-{raycl.__version__}.dist-info/licenses/LICENSE"} <= held


class Installed:
    """The wheel in an environment of its own, which sees the packages of this one, but not this one's raycl."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.site = folder / "venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        self._bin = folder / "venv" / "bin"
        self.empty = folder / "empty"
        self.empty.mkdir()
        venv.create(folder / "venv", symlinks=True)
        paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (self.site / "packages.pth").write_text(
            "\n".join(paths)
        )  # an editable install's own .pth is not followed there
        install = ("install", "--no-deps", "--no-index", "--ignore-installed", wheel)
        self._done([sys.executable, "-m", "pip", "--python", self._bin / "python", *install])

    def run(self, name: str, *arguments: str) -> str:
        """What a program of the environment prints, run in an empty folder."""
        return self._done([self._bin / name, *arguments])

    def _done(self, given: list[str | Path]) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY", "MLFLOW"))}
        kept |= {"OMP_NUM_THREADS": "1", "COLUMNS": "160"}
        done = subprocess.run(given, cwd=self.empty, env=kept, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_runs_the_quick_start_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    installed = Installed(wheel, tmp_path)
    file = Path(installed.run("python", "-c", "import raycl; print(raycl.__file__)").strip())
    assert file == installed.site / "raycl" / "__init__.py"
    listed = installed.run("raycl", "ls", "sweeps")
    assert all(re.search(rf"^ *{name} ", listed, re.MULTILINE) for name in SWEEPS)
    assert "hypernetwork" in installed.run("raycl", "check", "quickstart")
    table = installed.run("raycl", "run", "quickstart", "--backend", "here", "--results", "tmp")
    assert all(f"{name} " in table for name in ("joint", "naive", "replay", "gdumb", "ewc", "hypernetwork"))
    assert [path.name for path in installed.empty.iterdir()] == ["tmp"]
    assert (installed.empty / "tmp" / "sweep.json").is_file()


# -- sweeps that come with raycl -----------------------------------------------------------------------------------


def test_ls_lists_every_shipped_sweep_with_its_question() -> None:
    listed = command("ls", "sweeps").output
    assert [name for name in SWEEPS if not re.search(rf"^ *{name} ", listed, re.MULTILINE)] == []
    in_folders = ["/" in name for name in shipped.shipped()]
    assert in_folders == sorted(in_folders), "those without a folder come first"
    assert all(shipped.question(file).endswith("?") for file in shipped.shipped().values())
    assert "Which method keeps the most when ten digits" in listed
    assert "Cost:      1 minute" in command("ls", "sweeps", "quickstart").output
    assert "did you mean 'methods/ewc'?" in command("ls", "sweeps", "ewc", code=2).stderr


def test_the_sweeps_of_a_wheel_are_found_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "sweeps", tmp_path / "raycl" / "sweeps" / "methods"):
        folder.mkdir(parents=True)
        (folder / f"{folder.name}.yaml").write_text("name: x\n")
    monkeypatch.setattr(raycl, "__file__", str(tmp_path / "raycl" / "__init__.py"))
    assert shipped.shipped() == {"methods/methods": tmp_path / "raycl" / "sweeps" / "methods" / "methods.yaml"}
    shutil.rmtree(tmp_path / "raycl" / "sweeps")
    assert shipped.shipped() == {"sweeps": tmp_path / "sweeps" / "sweeps.yaml"}


def test_copy_lays_a_sweep_here_and_overwrites_nothing_unasked(here: Path) -> None:
    original = (ROOT / "sweeps" / "methods" / "ewc.yaml").read_bytes()
    assert "`raycl run ewc.yaml`" in command("copy", "methods/ewc").output
    assert (here / "ewc.yaml").read_bytes() == original
    (here / "ewc.yaml").write_text("mine")
    assert (
        "ewc.yaml: stands there already; give another FILE, or --force" in command("copy", "methods/ewc", code=2).stderr
    )
    assert (here / "ewc.yaml").read_text() == "mine"
    command("copy", "methods/ewc", "--force")
    assert (here / "ewc.yaml").read_bytes() == original
    (here / "folder").mkdir()
    command("copy", "methods/ewc", "folder")
    command("copy", "methods/ewc", "other.yaml")
    assert (here / "folder" / "ewc.yaml").read_bytes() == (here / "other.yaml").read_bytes() == original
    assert "cannot be written: No such file" in command("copy", "quickstart", "none/x.yaml", code=2).stderr
    assert "did you mean 'quickstart'?" in command("copy", "quikstart", code=2).stderr


def test_a_name_runs_a_shipped_sweep_unless_a_file_has_it(here: Path) -> None:
    (here / "quickstart").mkdir()  # where results may lie
    assert "hypernetwork" in command("check", "quickstart").output
    assert "online" in command("check", "methods/ewc").output
    (here / "joint").write_text((ROOT / "sweeps" / "quickstart.yaml").read_text().replace("quickstart", "of_the_user"))
    assert "of_the_user" in command("check", "joint").output
    (here / "quickstart").rmdir()
    (here / "quickstart").write_text("name: [1]\n")
    assert command("check", "quickstart", code=2).stderr.startswith("quickstart:1:")


def test_a_name_that_is_none_is_told_with_the_nearest(here: Path) -> None:
    told = command("check", "quikstart", code=2).stderr
    assert told.startswith(
        "error: there is no file 'quikstart', and no sweep of that name comes with raycl; did you mean"
    )
    assert "'quickstart'? (`raycl ls sweeps` lists them)" in told
    assert "did you mean 'methods/ewc'?" in command("check", "ewc", code=2).stderr
    assert command("check", "quickstart.yaml", code=2).stderr.startswith("quickstart.yaml: file: cannot be read")
    assert "Is a directory" in command("check", ".", code=2).stderr


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_module_tells_the_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raycl", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"raycl {raycl.__version__}\n"


def test_help_lists_every_command_with_what_it_does() -> None:
    registered = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    files = {file.stem for file in (ROOT / "raycl" / "cli").glob("*.py")} & {
        "copy",
        "check",
        "export",
        "ls",
        "run",
        "show",
    }
    assert files <= set(registered), "a command's file without its command"
    panel = command("--help").output.split("Commands")[1]
    assert dict(re.findall(r"^│ (\w+) +(\w+)", panel, re.MULTILINE)) == {
        name: one.help.split()[0] for name, one in registered.items()
    }
