"""Every built-in method, a line each. Installed packages add theirs through entry points: ``raycl.strategies``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from raycl.registry import Registry

if TYPE_CHECKING:  # names are looked up without torch
    from raycl.strategies.base import Strategy

S = TypeVar("S", bound="type[Strategy]")

_CONSOLIDATED = "raycl.strategies.consolidated"
_HYPERNETWORK = "raycl.strategies.hypernetwork"

STRATEGIES: Registry[type[Strategy]] = Registry(
    "strategy",
    "raycl.strategies",
    {
        "naive": "raycl.strategies.naive:Naive",
        "joint": "raycl.strategies.joint:Joint",
        "cumulative": "raycl.strategies.cumulative:Cumulative",
        "multi_head": "raycl.strategies.multi_head:MultiHead",
        "ensemble": "raycl.strategies.ensemble:Ensemble",
        "feature_extraction": "raycl.strategies.feature_extraction:FeatureExtraction",
        "l2": "raycl.strategies.l2:L2",
        "ewc": "raycl.strategies.ewc:EWC",
        "si": "raycl.strategies.si:SI",
        "mas": "raycl.strategies.mas:MAS",
        "lwf": "raycl.strategies.lwf:LwF",
        "continual_backprop": "raycl.strategies.continual_backprop:ContinualBackprop",
        "shrink_perturb": "raycl.strategies.shrink_perturb:ShrinkPerturb",
        "l2_init": "raycl.strategies.l2_init:L2Init",
        "replay": "raycl.strategies.replay:Replay",
        "rehearsal": "raycl.strategies.rehearsal:Rehearsal",
        "gdumb": "raycl.strategies.gdumb:GDumb",
        "mir": "raycl.strategies.mir:MIR",
        "der": "raycl.strategies.der:DER",
        "derpp": "raycl.strategies.der:DERPP",
        "er_ace": "raycl.strategies.er_ace:ERACE",
        "exstream": "raycl.strategies.exstream:ExStream",
        "latent_replay": "raycl.strategies.latent_replay:LatentReplay",
        "generative_replay": "raycl.strategies.generative_replay:GenerativeReplay",
        "cwr": f"{_CONSOLIDATED}.cwr:CWR",
        "ar1": f"{_CONSOLIDATED}.ar1:AR1",
        "ar1_latent_replay": f"{_CONSOLIDATED}.ar1_latent_replay:AR1LatentReplay",
        "generative_negative_replay": f"{_CONSOLIDATED}.generative_negative_replay:GenerativeNegativeReplay",
        "gem": "raycl.strategies.gem:GEM",
        "agem": "raycl.strategies.agem:AGEM",
        "icarl": "raycl.strategies.icarl:ICaRL",
        "packnet": "raycl.strategies.packnet:PackNet",
        "piggyback": "raycl.strategies.piggyback:Piggyback",
        "supsup": "raycl.strategies.supsup:SupSup",
        "progressive": "raycl.strategies.progressive:Progressive",
        "progress_compress": "raycl.strategies.progress_compress:ProgressCompress",
        "hat": "raycl.strategies.hat:HAT",
        "hypernetwork": f"{_HYPERNETWORK}.hypernetwork:Hypernetwork",
        "hypernetwork_replay": f"{_HYPERNETWORK}.replay:HypernetworkReplay",
        "hypernetwork_tir": f"{_HYPERNETWORK}.task_inference:HypernetworkTIR",
    },
)


def strategy(name: str) -> Callable[[S], S]:
    """Register a method of one's own, in this process and in all that its sweeps use: a class decorator.

    Its code is part of its trials' hash: trials of another version of it stand beside them under other names.

    Raises:
        UnknownName: a method of this name is built in or installed.

    Example:
        >>> from raycl.strategies.naive import Naive
        >>> @strategy("half")
        ... class Half(Naive):
        ...     def loss(self, batch):
        ...         return {name: part / 2 for name, part in super().loss(batch).items()}
    """

    def register(entry: S) -> S:
        STRATEGIES.register(name, entry)
        return entry

    return register
