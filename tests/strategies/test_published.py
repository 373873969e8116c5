"""Every method with its own defaults keeps what its paper says that it keeps, over five seeds, on digits."""

from __future__ import annotations

from functools import cache
from statistics import mean, stdev
from typing import Any

import pytest
from support import matrix, trial

from raycl.catalog import catalog
from raycl.spec.evaluation import EvaluationConfig

SEEDS = range(5)
T = 2.776
"""Of a two-sided 95 % interval with four degrees of freedom."""
MARGIN = 0.05

BLOCKS: dict[str, dict[str, Any]] = {
    "class": {
        "stream": {"tasks": 5},
        "training": {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 16, "epochs": 6},
        "memory": {"capacity": 100},
    },
    "domain": {
        "stream": {"name": "permuted", "tasks": 4, "train_per_task": 500},
        "training": {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 10, "epochs": 3},
        "memory": {"capacity": 200},
    },
}
FASTER: dict[str, dict[str, Any]] = {"gdumb": {"passes": 12}, "exstream": {"rehearse_every": 8}}

BOTH = ("class", "domain")
CLAIMS: dict[str, tuple[str, ...]] = {
    "replay": BOTH,
    "rehearsal": BOTH,
    "gdumb": BOTH,
    "mir": BOTH,
    "der": BOTH,
    "derpp": BOTH,
    "exstream": ("class",),
    "er_ace": ("class",),
    "icarl": ("class",),
    "gem": ("domain",),
    "agem": ("domain",),
}
"""Where a method forgets less than fine-tuning by its paper."""
NONE: dict[str, str] = dict.fromkeys(("naive", "l2", "ensemble", "feature_extraction"), "a control") | {
    **dict.fromkeys(("joint", "cumulative"), "an upper bound"),
    **dict.fromkeys(("ewc", "si", "mas", "progress_compress", "lwf"), "its strength is searched for"),
    **dict.fromkeys(
        ("cwr", "ar1", "latent_replay", "ar1_latent_replay", "generative_negative_replay"),
        "its paper begins with a pretrained network",
    ),
    **dict.fromkeys(("continual_backprop", "shrink_perturb", "l2_init"), "its paper is about what is learned anew"),
    **dict.fromkeys(
        ("generative_replay", "hypernetwork", "hypernetwork_replay", "hypernetwork_tir"),
        "its defaults are sized for MNIST",
    ),
    **dict.fromkeys(
        ("multi_head", "packnet", "piggyback", "hat", "progressive", "supsup"),
        "its paper is about a task id that is given",
    ),
}
"""Methods without a claim that can be held to on so few digits, and why."""
BESIDE_REPLAY = [
    ("derpp", "class"),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [("derpp", "domain"), ("er_ace", "class"), ("mir", "class"), ("mir", "domain")]
    ),
]
"""What adds something to experience replay."""

FORMER = {
    "training": (("active_logits", "seen"),),
    "memory": (("insert", "first_epoch"),),
}
"""What DER and DER++ did by default before they had defaults of their own."""


@cache
def accuracies(name: str, scenario: str, former: bool = False) -> tuple[float, ...]:
    """Average accuracy by seed."""
    blocks = {block: dict(values) for block, values in BLOCKS[scenario].items()}
    for block, values in FORMER.items() if former else ():
        blocks[block] |= dict(values)
    blocks |= {"model": {"hidden": [64]}, "options": FASTER.get(name, {})}
    less = EvaluationConfig(future_tasks=False)
    return tuple(
        matrix(trial(name, scenario, seed=seed, evaluation=less, **blocks)).average_accuracy() for seed in SEEDS
    )


def interval(ours: tuple[float, ...], theirs: tuple[float, ...]) -> tuple[float, float]:
    """Of the mean of paired differences."""
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    half = T * stdev(differences) / len(differences) ** 0.5
    return mean(differences) - half, mean(differences) + half


def check_keeps(name: str, scenario: str, former: bool = False) -> None:
    lower, _ = interval(accuracies(name, scenario, former), accuracies("naive", scenario))
    assert lower > MARGIN


def check_beside_replay(name: str, scenario: str, former: bool = False) -> None:
    _, upper = interval(accuracies(name, scenario, former), accuracies("replay", scenario))
    assert upper >= 0


def test_every_method_makes_a_claim_or_says_why_not() -> None:
    assert {*CLAIMS, *NONE} == {*catalog().strategies.names()}
    assert not CLAIMS.keys() & NONE.keys()


@pytest.mark.parametrize(
    ("name", "scenario"),
    [
        pytest.param(name, one, marks=() if (name, one) == ("replay", "class") else pytest.mark.slow)
        for name, claimed in CLAIMS.items()
        for one in claimed
    ],
)
def test_it_keeps_five_points_more_than_fine_tuning(name: str, scenario: str) -> None:
    check_keeps(name, scenario)


def test_the_check_finds_logits_that_say_nothing_of_later_classes() -> None:
    """The mutant: DER on a head that grows, its rows stored in the first epoch alone."""
    with pytest.raises(AssertionError):
        check_keeps("der", "class", former=True)


@pytest.mark.parametrize(("name", "scenario"), BESIDE_REPLAY)
def test_what_it_adds_to_replay_takes_nothing_away(name: str, scenario: str) -> None:
    check_beside_replay(name, scenario)


def test_the_check_finds_what_takes_something_away() -> None:
    with pytest.raises(AssertionError):
        check_beside_replay("derpp", "class", former=True)
