"""What Ray is told by its surroundings: the working directory stays out of trials, and others' settings too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import pytest
from mistakes import SMALLEST
from ray._private import ray_constants, worker
from ray._private.runtime_env import uv_runtime_env_hook

from raycl.distributed import environment as surroundings
from raycl.distributed.environment import DriversPath, environment, for_ray, leading, no_shipping, quiet
from raycl.results.reading import read_trials

RAYCL = Path(sys.executable).with_name("raycl")

PATHS = """
import json, sys
import ray
from ray.job_config import JobConfig
from raycl.distributed.environment import DriversPath, no_shipping

config = {"plain": JobConfig, "ours": DriversPath}[sys.argv[1]]()
with no_shipping():
    ray.init(address="local", job_config=config, num_cpus=1, include_dashboard=False, log_to_driver=False,
             logging_level="CRITICAL", object_store_memory=100_000_000)

@ray.remote
def found():
    import importlib.util
    origins = {name: importlib.util.find_spec(name).origin for name in ("statistics", "raycl", "beside_the_script")}
    return {**origins, "path": sys.path}

print(json.dumps(ray.get(found.remote())))
"""


@pytest.fixture
def shadowing(tmp_path: Path) -> Path:
    """A folder in which somebody keeps files of names that matter."""
    folder = tmp_path / "here"
    (folder / "raycl").mkdir(parents=True)
    (folder / "raycl" / "__init__.py").write_text('raise RuntimeError("another raycl")\n')
    (folder / "statistics.py").write_text('raise RuntimeError("no statistics")\n')
    return folder


def _found(config: str, folder: Path) -> dict[str, Any]:
    """Where a worker looks for modules, whose driver is a script elsewhere and stands in ``folder``."""
    script = folder.parent / "scripts" / "driver.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(PATHS)
    script.with_name("beside_the_script.py").write_text("")
    repository = str(Path(__file__).parents[2])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY")}
    done = subprocess.run(
        [sys.executable, script, config],
        cwd=folder,
        env={**kept, "PYTHONPATH": repository, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _inside(folder: Path, found: dict[str, Any]) -> list[str]:
    """What a worker would import from the folder."""
    return [name for name in ("statistics", "raycl") if Path(found[name]).is_relative_to(folder)]


@pytest.mark.ray
def test_workers_import_what_the_driver_imports_and_nothing_of_the_working_directory(shadowing: Path) -> None:
    found = _found("ours", shadowing)
    assert _inside(shadowing, found) == []
    assert str(shadowing) not in found["path"]
    assert Path(found["raycl"]).parents[1] == Path(__file__).parents[2]
    assert Path(found["beside_the_script"]).parent == shadowing.parent / "scripts"


@pytest.mark.ray
def test_the_check_finds_the_directories_of_rays_own_choice(shadowing: Path) -> None:
    """The mutant: the job configuration that Ray makes itself."""
    assert _inside(shadowing, _found("plain", shadowing)) == ["statistics", "raycl"]


LEAN = """
import json, sys
import psutil
from mistakes import SMALLEST
from raycl.sweep.run import run_sweep
from raycl.catalog import catalog
from raycl.spec.sweep import SweepSpec

processes = set()

def look(status):
    for process in psutil.Process().children(recursive=True):
        try:
            processes.add(" ".join(process.cmdline()))
        except psutil.Error:
            pass

assert run_sweep(SweepSpec.parse(SMALLEST, catalog()), sys.argv[1], trackers=(), on_status=look).complete
print(json.dumps([sorted(processes), sorted({"mlflow", "wandb", "matplotlib"} & sys.modules.keys())]))
"""


@pytest.mark.ray
def test_a_cluster_of_our_own_starts_nothing_that_its_one_driver_has_no_use_for(tmp_path: Path) -> None:
    """Nor does Tune import what it may be integrated with; all of it would come before the first trial."""
    tests = Path(__file__).parents[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", LEAN, tmp_path / "results"],
        env={**kept, "PYTHONPATH": f"{tests.parent}:{tests}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    processes, imported = json.loads(done.stdout.splitlines()[-1])
    assert any("raylet" in process for process in processes), "the look sees Ray's processes"
    assert [process for process in processes if "monitor.py" in process] == []
    assert imported == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_runs_in_a_folder_that_shadows_it_under_settings_of_others(shadowing: Path) -> None:
    """And though the reader of what it prints leaves after the first line, and its results have a name in Latin-1,
    which Ray cannot take: it stands on the command line."""
    file, results = shadowing / "tiny.yaml", Path(os.fsdecode(os.fsencode(shadowing) + b"/r\xe9sultats"))
    file.write_text(SMALLEST)
    theirs = {
        "TUNE_RESULT_DIR": "/nowhere",
        "RAY_AIR_LOCAL_CACHE_DIR": "/nowhere",
        "RAY_STORAGE": "/nowhere",
        "PYTHONWARNINGS": "error",
        "LC_ALL": "C",
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "MLFLOW_TRACKING_URI": f"sqlite:///{shadowing / 'mlflow.db'}",
        "RAY_ADDRESS": "",
    }
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" "$@" | head -1', str(RAYCL), "run", file, "--results", results],
        cwd=shadowing,
        env={**os.environ, **theirs},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (trial,) = read_trials(results).to_pylist()
    assert (trial["status"], trial["reason"]) == ("finished", "")
    assert len(done.stdout.splitlines()) == 1
    assert (shadowing / "mlflow.db").is_file()
    assert not (results / "lease.json").exists()


def test_what_is_looked_through_before_the_library_is_given_to_workers(tmp_path: Path, monkeypatch: Any) -> None:
    library = sysconfig.get_path("stdlib")
    monkeypatch.chdir(tmp_path)
    path = [
        f"{sysconfig.get_path('purelib')}/ray/thirdparty_files",
        "/scripts",
        "",
        "src",
        library,
        f"{library}/site-packages",
        "/a/checkout",
    ]
    assert leading(path) == ["/scripts", str(tmp_path), str(tmp_path / "src")]
    assert leading([library, "/a/checkout"]) == []
    monkeypatch.setattr(sys, "path", path)
    config = DriversPath()
    assert config._runtime_env_has_working_dir()
    assert config._py_driver_sys_path == [str(tmp_path / "src"), str(tmp_path), "/scripts"]
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {"working_dir": "gcs://x.zip"}}')
    assert DriversPath()._py_driver_sys_path == []  # each node has unpacked it elsewhere, and has it on its path
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {}}')
    assert DriversPath()._py_driver_sys_path != []


def test_settings_of_others_are_taken_out_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = ("TUNE_RESULT_DIR", "TUNE_MAX_LEN_IDENTIFIER", "RAY_AIR_LOCAL_CACHE_DIR", "RAY_STORAGE", "PYTHONWARNINGS")
    for name in theirs:
        monkeypatch.setenv(name, "theirs")
    monkeypatch.setenv("TUNE_RESULT_BUFFER_LENGTH", "10")
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    before = dict(os.environ)
    with environment(for_ray({"TUNE_MAX_PENDING_TRIALS_PG": "3"})):
        assert not any(name in os.environ for name in theirs)
        assert os.environ["TUNE_RESULT_BUFFER_LENGTH"] == "1"
        assert os.environ["TUNE_MAX_PENDING_TRIALS_PG"] == "3"
        assert (os.environ["RAY_ADDRESS"], os.environ["RAY_AUTH_TOKEN"]) == ("somewhere", "secret")
    assert dict(os.environ) == before


def test_nothing_is_shipped_under_uv_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the mutant: Ray as it is."""
    monkeypatch.setattr(uv_runtime_env_hook, "_get_uv_run_cmdline", lambda: ["uv", "run", "raycl"])
    monkeypatch.setattr(uv_runtime_env_hook, "hook", lambda env: {"working_dir": str(Path.cwd())})
    with no_shipping():
        assert worker._maybe_modify_runtime_env(None, False) is None
    assert ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV is True
    assert worker._maybe_modify_runtime_env(None, False) == {"working_dir": str(Path.cwd())}


def test_no_warning_becomes_an_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet():
            warnings.warn("obsolete", DeprecationWarning, stacklevel=1)
        with pytest.raises(DeprecationWarning):
            warnings.warn("obsolete", DeprecationWarning, stacklevel=1)
    assert surroundings.TUNE["TUNE_RESULT_BUFFER_LENGTH"] == "1"
