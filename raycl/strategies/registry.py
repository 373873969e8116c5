"""Every built-in method, a line each. Installed packages add theirs through entry points: ``raycl.strategies``."""

from raycl.registry import Registry
from raycl.strategies.base import Strategy

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
        "cwr": "raycl.strategies.cwr:CWR",
        "gem": "raycl.strategies.gem:GEM",
        "icarl": "raycl.strategies.icarl:ICaRL",
        "packnet": "raycl.strategies.packnet:PackNet",
        "hat": "raycl.strategies.hat:HAT",
        "progressive": "raycl.strategies.progressive:Progressive",
        "hypernetwork": "raycl.strategies.hypernetwork:Hypernetwork",
    },
)
