"""What a trial's numbers come from: the code of its parts, and the packages that some of them are installed with."""

from __future__ import annotations

from raycl.catalog import catalog
from raycl.fingerprint import fingerprint
from raycl.spec.trial import TrialSpec
from raycl.trainer import Trainer


def trial_code(trial: TrialSpec) -> dict[str, str]:
    """Fingerprints of what makes a trial's numbers, by part: its method, its model, its stream, and the loop.

    A method from outside also has those classes of raycl that it is made of, as ``bases``.
    """
    known = catalog()
    method = known.strategies.get(trial.strategy)
    own = [base for base in method.__mro__ if base.__module__.partition(".")[0] == "raycl"]
    return {
        "strategy": fingerprint(method),
        **({"bases": fingerprint(*own)} if method not in own else {}),
        "model": fingerprint(known.models.get(trial.model["name"]).build),
        "stream": fingerprint(known.streams.get(trial.stream["name"])),
        "loop": fingerprint(Trainer),
    }


def trial_packages(trial: TrialSpec) -> dict[str, str]:
    """Installed packages other than raycl that parts of the trial come from, with their versions."""
    known = catalog()
    parts = [(known.strategies, trial.strategy), (known.models, str(trial.model["name"]))]
    parts += [(known.streams, trial.stream["name"]), (known.datasets, trial.stream["dataset"])]
    return dict(package for registry, name in parts if (package := registry.package(name)))
