"""What a trial's numbers come from: the code of its parts, and the packages that some of them are installed with."""

from __future__ import annotations

from raycl.spec.fingerprint import fingerprint
from raycl.spec.setting import Registries
from raycl.spec.trial import TrialSpec
from raycl.trial.trainer import Trainer


def trial_code(trial: TrialSpec, known: Registries) -> dict[str, str]:
    """Fingerprints of what makes a trial's numbers, by part: its method, its model, its stream, and the loop.

    A method from outside also has those classes of raycl that it is made of, as ``bases``.
    """
    method = known.strategies.get(trial.strategy)
    own = [base for base in method.__mro__ if base.__module__.partition(".")[0] == "raycl"]
    model, stream = str(trial.model["name"]), str(trial.stream["name"])
    return {  # what was registered elsewhere comes with its fingerprint, and without its source
        "strategy": known.strategies.code(trial.strategy) or fingerprint(method),
        **({"bases": fingerprint(*own)} if method not in own else {}),
        "model": known.models.code(model) or fingerprint(known.models.get(model).build),
        "stream": known.streams.code(stream) or fingerprint(known.streams.get(stream)),
        "loop": fingerprint(Trainer),
    }


def trial_packages(trial: TrialSpec, known: Registries) -> dict[str, str]:
    """Installed packages other than raycl that parts of the trial come from, with their versions."""
    parts = [(known.strategies, trial.strategy), (known.models, str(trial.model["name"]))]
    parts += [(known.streams, trial.stream["name"]), (known.datasets, trial.stream["dataset"])]
    return dict(package for registry, name in parts if (package := registry.package(name)))
