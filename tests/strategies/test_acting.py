"""What methods and blocks claim of their options: from which task on one acts, and which may change between two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from strategies.every_method import ONE_EACH, assert_equal_state, same_bits, small
from support import evaluation_rows, trainer

from raycl.catalog import catalog
from raycl.spec.acting import acts_from, changeable, inert, stability
from raycl.spec.needs import SHARED_BLOCKS, covered, idle, owners
from raycl.spec.trial import TrialSpec
from raycl.strategies.ewc import EWC
from raycl.strategies.replay import Replay
from raycl.trial import checkpoint
from raycl.trial.trainer import Trainer

BRIEF = {"iterations": 8}
LONGER: dict[str, dict[str, float]] = {
    "training.epochs": {"epochs": 1},
    "memory.insert": {"epochs": 2},
    "clamp": {"iterations": 60, "weight_decay": 0.5},
    "values": {"iterations": 60},
}
"""Options that show later."""
BESIDE: dict[str, dict[str, Any]] = {
    "ewc.online_decay": {"mode": "online"},
    "generative_replay.temperature": {"targets": "soft"},
    "shrink_perturb.decay": {"when": "task"},
    "shrink_perturb.noise": {"when": "task"},
    "cwr.scale": {"variant": "cwr"},
    "ar1.damping": {"penalty": 1e6},
    "hypernetwork.beta": {"beta": 1.0},
    "replay": {"exclude_current": True},
    "er_ace": {"exclude_current": True},
    "ar1_latent_replay": {"penalty": 1e6, "lower_learning_rate": 0.1, "layer": "0"},
    "ar1_latent_replay.lower_learning_rate": {"lower_learning_rate": 0.1},
    "generative_negative_replay.upper_learning_rate": {"layer": "0"},
    "piggyback": {"initial_score": 6e-3, "mask_learning_rate": 1.0},
    "hypernetwork.sampled_tasks": {"regulariser": "sampled"},
    **{
        f"{name}.{option}": {"penalty": 1e3}
        for name in ("hypernetwork", "hypernetwork_tir")
        for option in ("penalty_step", "online_decay", "fisher", "fisher_examples")
    },
    "hypernetwork_replay.sampled_tasks": {"regulariser": "sampled"},
    "hypernetwork_tir.sampled_tasks": {"regulariser": "sampled"},
    "hypernetwork_tir.vae.sampled_tasks": {"vae": {"regulariser": "sampled"}},
}
"""Options beside which others act, or act late; of one option, or of a method."""
OTHERS: dict[str, Any] = {
    "fisher_examples": 5,
    "importance_examples": 5,
    "memory.batch_size": 5,
    "memory.capacity": 12,
    "penalty": 1e5,
    "beta": 10.0,
    "vae.beta": 10.0,
    "virtual_learning_rate": 0.5,
    "adapter_dim": 5,
    "replay_batch_size": 5,
    "generator_learning_rate": 1e-2,
    "replay_share": 0.9,
    "initial_score": 2e-2,
    "threshold": 9e-3,
    "reference_batch_size": 5,
    "decay": 0.7,
    "noise": 0.5,
    "training.epochs": 2,
    "memory.selection": "ring",
    "memory.combine": "mean",
    "replay.memory.combine": "sum",
    "memory.insert": "every_epoch",
    "subsample": 20,
}
"""A second value of an option, where twice or half the first, or the next word, would not do."""
FROZEN = "the optimiser above a part that was frozen just now is a new one, whatever is asked"
DRAWS = "what generators draw only decides which network answers"
UNSEEN = {
    "hypernetwork_tir.vae.regulariser": DRAWS,
    "hypernetwork_tir.vae.lookahead": DRAWS,
    "hypernetwork_tir.vae.old_embeddings": DRAWS,
    "hypernetwork_tir.vae.sampled_tasks": DRAWS,
    "feature_extraction.training.reset_optimizer": FROZEN,
    "latent_replay.training.reset_optimizer": FROZEN,
    "cwr.training.reset_optimizer": FROZEN,
    "generative_negative_replay.training.reset_optimizer": FROZEN,
    "ensemble.selector": "its task is told in the row after it, and all answer alike until then",
}


def beside(name: str, option: str) -> dict[str, Any]:
    return BESIDE.get(f"{name}.{option}", BESIDE.get(name, {}))


def claims(kind: str) -> Iterator[Any]:
    """Every claim of every registered method: name, scenario, option."""
    for case in ONE_EACH:
        name, scenario = (str(value) for value in case.values)
        setting = small(name, scenario).setting(catalog())
        own = {option: None for owner in owners(setting) for option in getattr(owner, kind, ())}
        for option in own:
            if option.split(".")[0] in SHARED_BLOCKS and covered(option, idle(setting)):
                continue  # a shared option that does nothing for this method
            yield pytest.param(name, scenario, option, id=f"{name}-{option}")


def spec_of(name: str, scenario: str, option: str, tasks: int = 4) -> TrialSpec:
    options = beside(name, option)
    if name == "hypernetwork_tir" and "vae" in options:
        options = {"vae": {**small(name, scenario).options["vae"], **options["vae"]}}
    training = LONGER.get(option, BRIEF)
    return small(name, scenario, options=options, training=training, stream={"tasks": tasks}, seed=3)


def another(spec: TrialSpec, option: str) -> TrialSpec:
    """The same trial with a second value of an option."""
    value = spec.value(option)
    named = next((key for key in (f"{spec.strategy}.{option}", option) if key in OTHERS), None)
    tried = [OTHERS[named]] if named else [not value] if isinstance(value, bool) else words(spec, option)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        tried += [type(value)(value * 2), value / 2, value + 0.5]
    for other in tried:
        if other != value:
            try:
                made = spec.with_values({option: other})
                made.setting(catalog())
            except ValidationError:
                continue
            return made
    raise AssertionError(f"give {option} a second value in OTHERS")


def words(spec: TrialSpec, option: str) -> list[Any]:
    """The choices of an option that is one of some words."""
    *parents, key = option.split(".")
    block: Any = spec.setting(catalog())
    block = block.options if not parents or parents[0] not in ("training", "memory") else block
    for parent in parents:
        block = getattr(block, parent)
    annotation = type(block).model_fields[key].annotation
    nested = [annotation, *get_args(annotation)]
    return [word for kind in nested for word in get_args(kind) if isinstance(word, str) and word != "auto"]


def answers(running: Trainer) -> dict[int, torch.Tensor]:
    """What a trial says to the evaluation rows of each task that it has learned."""
    strategy, found = running.strategy, {}
    strategy.train(False)
    with torch.no_grad():
        for task in range(running.next_task):
            given = task if running.scenario.task_given else None
            found[task] = strategy.predict(evaluation_rows(running, task).x, given).clone()
    return found


def differing(one: TrialSpec, other: TrialSpec, tasks: int) -> int | None:
    """The first task, from 1, after which two trials answer otherwise; None: not within so many."""
    running = [trainer(spec) for spec in (one, other)]
    for task in range(1, tasks + 1):
        for each in running:
            each.run_task()
        ours, theirs = map(answers, running)
        if any(not same_bits(ours[place], theirs[place]) for place in ours):
            return task
    return None


@pytest.mark.parametrize(("name", "scenario", "option"), list(claims("acts_from")))
def test_an_option_acts_from_the_task_on_that_is_claimed(name: str, scenario: str, option: str) -> None:
    one = spec_of(name, scenario, option)
    setting = one.setting(catalog())
    other = another(one, option)
    claimed = acts_from(setting, option)
    assert not covered(option, idle(setting)), "say in BESIDE where it acts"
    found = differing(one, other, claimed)
    assert (found or 0, claimed) == (0 if f"{name}.{option}" in UNSEEN else claimed, claimed)


BETWEEN = list(claims("between_tasks"))
OWN = [case for case in BETWEEN if str(case.values[2]).split(".")[0] not in SHARED_BLOCKS]


@pytest.mark.parametrize(("name", "scenario", "option"), OWN)
def test_a_state_is_taken_over_under_another_value(name: str, scenario: str, option: str) -> None:
    """What one trial has learned, a trial with another value holds to the bit, and goes on from."""
    one = spec_of(name, scenario, option, tasks=3)
    assert_taken_over(one, another(one, option))


@pytest.mark.parametrize(("name", "scenario"), ONE_EACH)
def test_a_state_is_taken_over_under_other_shared_options(name: str, scenario: str) -> None:
    """All of them at once: rate, weight decay, batches, length, clipping, and what is replayed."""
    one = other = spec_of(name, scenario, "", tasks=3)
    for case in BETWEEN:
        option = str(case.values[2])
        if case.values[0] == name and option.split(".")[0] in SHARED_BLOCKS and option != "training.epochs":
            other = another(other, option)
    assert_taken_over(one, other)


def assert_taken_over(one: TrialSpec, other: TrialSpec) -> None:
    first, second = trainer(one), trainer(other)
    first.run_task()
    second.load_state_dict(checkpoint.decode(checkpoint.encode(first.state_dict())))
    assert_equal_state(second.state_dict(), first.state_dict())
    while not second.done:
        second.run_task()


def test_what_the_published_settings_of_replay_mean() -> None:
    """Rows of the current task are drawn within it, unless left out; then a search after one task sees none."""
    of = {
        (name, excluded): small(name, "class", options={"exclude_current": excluded}).setting(catalog())
        for name in ("replay", "mir")
        for excluded in (False, True)
    }
    for (_, excluded), setting in of.items():
        assert acts_from(setting, "memory.capacity") == (2 if excluded else 1)
        assert inert(setting, ["memory.capacity", "training.learning_rate"], 1) == ["memory.capacity"] * excluded
        assert inert(setting, ["memory.capacity"], 2) == []


def test_a_width_stays_and_a_penalty_may_change() -> None:
    setting = small("ewc", "class").setting(catalog())
    assert {"penalty", "training.learning_rate"} <= changeable(setting)
    assert not {"model.hidden", "mode", "memory.capacity", "training.optimizer"} & changeable(setting)


def test_which_methods_have_a_stability_that_decays() -> None:
    found = {str(case.values[0]): stability(small(*map(str, case.values)).setting(catalog())) for case in ONE_EACH}
    decays = {name: [own.option for own in rules] for name, rules in found.items() if rules}
    assert decays == {
        **{name: ["penalty"] for name in ("l2", "ewc", "si", "mas", "lwf")},
        "hypernetwork": ["beta"],
        "der": ["alpha"],
        "derpp": ["alpha", "beta"],
    }
    assert {"naive", "replay", "rehearsal", "joint", "mir"} <= {name for name, rules in found.items() if rules == ()}
    assert {"hat", "packnet", "gem", "icarl", "hypernetwork_tir"} <= {
        name for name, rules in found.items() if rules is None
    }


def test_less_stability_is_a_smaller_penalty() -> None:
    """The direction that a method claims: with it decayed, the new task is followed further."""
    for name in ("ewc", "lwf"):
        held, freer = (
            trainer(small(name, "domain", options={"penalty": value}, training=BRIEF)) for value in (1e6, 1.0)
        )
        losses = []
        for running in (held, freer):
            running.run_task()
            running.run_task()
            rows = evaluation_rows(running, 1)
            with torch.no_grad():
                logits = running.strategy.predict(rows.x, None)
            losses.append(float(torch.nn.functional.cross_entropy(logits, rows.y)))
        assert losses[1] < losses[0], name


@pytest.mark.parametrize(
    ("method", "claimed", "option"),
    [
        pytest.param(EWC, {"fisher_examples": 2, "penalty": 3}, "penalty", id="later than true"),
        pytest.param(Replay, {"memory.batch_size": 2}, "memory.batch_size", id="current rows are drawn"),
    ],
)
def test_the_check_sees_a_claim_that_is_wrong(
    method: type[Any], claimed: Mapping[str, int], option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutants: an option that is said to act later than it does."""
    monkeypatch.setattr(method, "acts_from", claimed)
    name = {EWC: "ewc", Replay: "replay"}[method]
    one = small(name, "class", training=BRIEF, seed=3)
    found = differing(one, another(one, option), acts_from(one.setting(catalog()), option))
    assert found is not None
    assert found < acts_from(one.setting(catalog()), option)
