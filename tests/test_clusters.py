"""The cluster files, checked offline: by Ray's own launcher, and by the part of KubeRay's schema that a RayJob may use.

Each rule has a mutant of the file that must fail: both formats ignore or prune what they do not know, so a typo would
otherwise be found on the cluster, or never.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[1]
Manifest = dict[str, Any]

# -- the launcher file -------------------------------------------------------------------------------------------------


def launcher() -> Manifest:
    return yaml.safe_load((ROOT / "clusters" / "local.yaml").read_text())


def check_launcher(config: Manifest) -> None:
    """What `ray up` checks before it touches a machine, and that what it copies exists."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))
    for source in config["file_mounts"].values():
        assert source.startswith("~") or (ROOT / source).exists(), f"{source} does not exist"
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        start = commands[-1]
        for variable in ("PATH=", "RAY_AUTH_MODE=token", "RAYCL_DATA=/", "RAYCL_RESULTS=/"):
            assert variable in start, f"{variable} is not set where Ray starts"
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1], "the dashboard is open to the network"


def test_the_launcher_file_is_sound() -> None:
    check_launcher(launcher())


LAUNCHER_MUTANTS: dict[str, Callable[[Manifest], object]] = {
    "unknown key": lambda c: c.update(max_worker=c.pop("max_workers")),
    "typo in the provider": lambda c: c["provider"].update(worker_ip=c["provider"].pop("worker_ips")),
    "text for a number": lambda c: c.update(idle_timeout_minutes="sixty"),
    "text for a list": lambda c: c.update(initialization_commands="true"),
    "missing file": lambda c: c["file_mounts"].update({"~/x": "no-such-file"}),
    "no token on workers": lambda c: c["worker_start_ray_commands"].__setitem__(
        -1, c["worker_start_ray_commands"][-1].replace("RAY_AUTH_MODE=token", "")
    ),
    "open dashboard": lambda c: c["head_start_ray_commands"].__setitem__(
        -1, c["head_start_ray_commands"][-1].replace("127.0.0.1", "0.0.0.0")
    ),
}


@pytest.mark.parametrize("name", LAUNCHER_MUTANTS)
def test_a_broken_launcher_file_is_refused(name: str) -> None:
    from click import ClickException

    config = launcher()
    LAUNCHER_MUTANTS[name](config)
    with pytest.raises((AssertionError, jsonschema.ValidationError, ClickException)):
        check_launcher(config)


# -- the RayJob --------------------------------------------------------------------------------------------------------


def closed(properties: dict[str, Any], required: tuple[str, ...] = ()) -> Manifest:
    """An object with these keys and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT, WHOLE, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti)?$"}
DNS_LABEL = {"type": "string", "pattern": r"^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}
RESOURCES = closed({kind: {"type": "object", "additionalProperties": QUANTITY} for kind in ("requests", "limits")})
KEY_OF_SECRET = closed({"secretKeyRef": closed({"name": TEXT, "key": TEXT}, ("name", "key"))}, ("secretKeyRef",))
CONTAINER = closed(
    {
        "name": TEXT,
        "image": TEXT,
        "env": {"type": "array", "items": closed({"name": TEXT, "value": TEXT, "valueFrom": KEY_OF_SECRET}, ("name",))},
        "resources": RESOURCES,
        "volumeMounts": {
            "type": "array",
            "items": closed({"name": TEXT, "mountPath": TEXT, "readOnly": FLAG}, ("name", "mountPath")),
        },
    },
    ("name", "image"),
)
VOLUME = closed(
    {"name": TEXT, "persistentVolumeClaim": closed({"claimName": TEXT, "readOnly": FLAG}, ("claimName",))}, ("name",)
)
POD = closed(
    {
        "metadata": {"type": "object"},
        "spec": closed(
            {
                "containers": {"type": "array", "items": CONTAINER, "minItems": 1},
                "volumes": {"type": "array", "items": VOLUME},
                "restartPolicy": {"enum": ["Never", "Always", "OnFailure"]},
                "nodeSelector": {"type": "object", "additionalProperties": TEXT},
            },
            ("containers",),
        ),
    },
    ("spec",),
)
START_PARAMETERS = {"type": "object", "additionalProperties": TEXT}
"""Strings throughout: KubeRay turns them into command-line options."""
RAY_CLUSTER = closed(
    {
        "rayVersion": TEXT,
        "enableInTreeAutoscaling": FLAG,
        "autoscalerOptions": closed(
            {
                "version": {"enum": ["v1", "v2"]},
                "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
                "idleTimeoutSeconds": WHOLE,
                "resources": RESOURCES,
            }
        ),
        "authOptions": closed(
            {"mode": {"enum": ["disabled", "token"]}, "secretName": TEXT, "enableK8sTokenAuth": FLAG}
        ),
        "headGroupSpec": closed(
            {"rayStartParams": START_PARAMETERS, "template": POD, "serviceType": TEXT, "resources": START_PARAMETERS},
            ("template",),
        ),
        "workerGroupSpecs": {
            "type": "array",
            "items": closed(
                {
                    "groupName": DNS_LABEL,
                    "replicas": WHOLE,
                    "minReplicas": WHOLE,
                    "maxReplicas": WHOLE,
                    "idleTimeoutSeconds": WHOLE,
                    "rayStartParams": START_PARAMETERS,
                    "resources": START_PARAMETERS,
                    "template": POD,
                },
                ("groupName", "minReplicas", "maxReplicas", "template"),
            ),
        },
    },
    ("headGroupSpec",),
)
RAY_JOB = closed(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": closed({"name": DNS_LABEL, "namespace": TEXT, "labels": {"type": "object"}}, ("name",)),
        "spec": closed(
            {
                "entrypoint": TEXT,
                "runtimeEnvYAML": TEXT,
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
                "shutdownAfterJobFinishes": FLAG,
                "ttlSecondsAfterFinished": WHOLE,
                "activeDeadlineSeconds": WHOLE,
                "preRunningDeadlineSeconds": WHOLE,
                "backoffLimit": WHOLE,
                "suspend": FLAG,
                "rayClusterSpec": RAY_CLUSTER,
            },
            ("entrypoint", "rayClusterSpec"),
        ),
    },
    ("apiVersion", "kind", "metadata", "spec"),
)


def manifests() -> tuple[Manifest, Manifest]:
    """The claim and the job."""
    claim, job = yaml.safe_load_all((ROOT / "clusters" / "kuberay-rayjob.yaml").read_text())
    return copy.deepcopy(claim), yaml.safe_load(yaml.dump(job, Dumper=_NoAliases))


class _NoAliases(yaml.SafeDumper):
    """Writes shared parts out, so that a mutant changes one place only."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def pods(job: Manifest) -> Iterator[Manifest]:
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


def check_job(claim: Manifest, job: Manifest) -> None:
    """The schema, the operator's own rules, and what raycl needs to find its data and keep its results."""
    jsonschema.validate(job, RAY_JOB)
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    if spec.get("ttlSecondsAfterFinished") or spec.get("suspend"):
        assert spec.get("shutdownAfterJobFinishes"), "a time to live needs shutdownAfterJobFinishes"
    check_versions(cluster)
    for group in cluster["workerGroupSpecs"]:
        low, high = group["minReplicas"], group["maxReplicas"]
        assert low <= group.get("replicas", low) <= high, "replicas lie between minReplicas and maxReplicas"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        doubled = "resources" in group and {"num-cpus", "memory", "num-gpus"} & set(group.get("rayStartParams", {}))
        assert not doubled, "resources stand in rayStartParams or in resources, not in both"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"], "every pod reads and writes the same folder"
    for pod in pods(job):
        check_storage(pod, claim["metadata"]["name"])
    images = {container["image"] for pod in pods(job) for container in pod["containers"]}
    assert len(images) == 1, "head and workers run the same image"


def check_versions(cluster: Manifest) -> None:
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text(), "rayVersion is the tested one"
    auth = cluster["authOptions"]
    assert auth["mode"] == "token", "a cluster without a token runs anybody's code"
    assert not auth.get("enableK8sTokenAuth"), "not supported for a RayJob"
    assert tuple(map(int, cluster["rayVersion"].split(".")[:2])) >= (2, 52), "token authentication needs Ray 2.52"
    assert cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") == "0", "trials stay off the head"


def check_storage(pod: Manifest, claim: str) -> None:
    volumes = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
    assert claim in volumes.values(), "the claim is mounted"
    for container in pod["containers"]:
        mounts = {mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in volumes}
        places = {entry["name"]: entry.get("value", "") for entry in container["env"]}
        for name in ("RAYCL_DATA", "RAYCL_RESULTS"):
            place = places.get(name, "")
            assert any(place.startswith(mount + "/") for mount in mounts), f"{name} lies on the claim"


def test_the_ray_job_is_sound() -> None:
    check_job(*manifests())


def test_the_ray_job_runs_a_sweep_that_exists() -> None:
    _, job = manifests()
    found = re.fullmatch(r"raycl run \S*/(sweeps/\w+\.yaml)", job["spec"]["entrypoint"])
    assert found
    assert (ROOT / found[1]).is_file()


def head(job: Manifest) -> Manifest:
    return job["spec"]["rayClusterSpec"]["headGroupSpec"]


def workers(job: Manifest) -> Manifest:
    return job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


JOB_MUTANTS: dict[str, Callable[[Manifest, Manifest], object]] = {
    "typo in a worker group": lambda _, job: workers(job).update(maxReplica=workers(job).pop("maxReplicas")),
    "typo in the job": lambda _, job: job["spec"].update(backOffLimit=job["spec"].pop("backoffLimit")),
    "no template": lambda _, job: workers(job).pop("template"),
    "text for a number": lambda _, job: job["spec"].update(ttlSecondsAfterFinished="600"),
    "number for a start parameter": lambda _, job: head(job)["rayStartParams"].update({"num-cpus": 0}),
    "time to live without shutdown": lambda _, job: job["spec"].update(shutdownAfterJobFinishes=False),
    "fewer at most than at least": lambda _, job: workers(job).update(minReplicas=9),
    "resources given twice": lambda _, job: head(job).update(resources={"CPU": "0"}),
    "no authentication": lambda _, job: job["spec"]["rayClusterSpec"]["authOptions"].update(mode="disabled"),
    "name too long": lambda _, job: job["metadata"].update(name="raycl-" + "x" * 60),
    "another Ray": lambda _, job: job["spec"]["rayClusterSpec"].update(rayVersion="2.40.0"),
    "claim for one node": lambda claim, _: claim["spec"].update(accessModes=["ReadWriteOnce"]),
    "results in the pod": lambda _, job: workers(job)["template"]["spec"]["containers"][0]["env"][1].update(
        value="/tmp"
    ),
    "volume not mounted": lambda _, job: workers(job)["template"]["spec"]["containers"][0].update(volumeMounts=[]),
    "two images": lambda _, job: workers(job)["template"]["spec"]["containers"][0].update(image="raycl:old"),
}


@pytest.mark.parametrize("name", JOB_MUTANTS)
def test_a_broken_ray_job_is_refused(name: str) -> None:
    claim, job = manifests()
    JOB_MUTANTS[name](claim, job)
    with pytest.raises((AssertionError, jsonschema.ValidationError)):
        check_job(claim, job)


# -- what a job carries ------------------------------------------------------------------------------------------------


def test_a_job_carries_the_code_and_leaves_data_and_results_at_home(tmp_path: Path) -> None:
    from ray._private.runtime_env import packaging

    for name in ("raycl/results/store.py", "raycl/cli.py", "sweeps/x.yaml", "pyproject.toml"):
        _touch(tmp_path / name)
    for name in ("results/x/cells.parquet", "data/MNIST/raw/train", ".venv/bin/raycl", "mlruns/1/meta", "tests/t.py"):
        _touch(tmp_path / name)
    for ignore in (".gitignore", ".rayignore"):
        (tmp_path / ignore).write_text((ROOT / ignore).read_text())
    package = tmp_path.parent / f"{tmp_path.name}.zip"
    packaging.create_package(str(tmp_path), package, include_gitignore=True, excludes=[])
    assert set(_names(package)) - {".gitignore", ".rayignore"} == {
        "raycl/results/store.py",
        "raycl/cli.py",
        "sweeps/x.yaml",
        "pyproject.toml",
    }


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")


def _names(package: Path) -> list[str]:
    from zipfile import ZipFile

    with ZipFile(package) as archive:
        return [name for name in archive.namelist() if not name.endswith("/")]


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {re.split(r"[\[<>=]", name)[0].lower() for name in wanted} - {project["name"]}  # one extra names another
    pins = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", pin) for pin in pins)
    assert {pin.split("==")[0].lower() for pin in pins} == names
