"""What a trial's numbers come from: the code of its parts, and the packages that some of them are installed with."""

from __future__ import annotations

from raycl.catalog import catalog
from raycl.fingerprint import fingerprint
from raycl.spec.trial import TrialSpec
from raycl.trainer import Trainer


def trial_code(trial: TrialSpec) -> dict[str, str]:
    """Fingerprints of what makes a trial's numbers, by part: its method, its model, and the loop that runs them."""
    known = catalog()
    return {
        "strategy": fingerprint(known.strategies.get(trial.strategy)),
        "model": fingerprint(known.models.get(trial.model["name"]).build),
        "loop": fingerprint(Trainer),
    }


def trial_packages(trial: TrialSpec) -> dict[str, str]:
    """Installed packages other than raycl that parts of the trial come from, with their versions."""
    known = catalog()
    parts = [(known.strategies, trial.strategy), (known.models, str(trial.model["name"]))]
    parts += [(known.streams, trial.stream["name"]), (known.datasets, trial.stream["dataset"])]
    return dict(package for registry, name in parts if (package := registry.package(name)))
