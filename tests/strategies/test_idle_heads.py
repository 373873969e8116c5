"""Rows of a head that no loss of a task reaches stay to the bit, whatever the method and the optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from support import finish, matrix, trainer, trial
from torch import Tensor, nn

from raycl.catalog import catalog
from raycl.models.network import GrowingHead
from raycl.strategies.base import Strategy
from raycl.trial import checkpoint
from raycl.trial.trainer import Trainer

METHODS = [
    name
    for name in catalog().strategies.names()
    if "task" in catalog().strategies.get(name).scenarios
    and name != "ar1_latent_replay"  # its consolidation writes rows of all classes in memory
]
OPTIONS: dict[str, dict[str, Any]] = {
    "exstream": {"rehearse_every": 16},
    "gdumb": {"passes": 4, "optimizer": "training"},
    "hypernetwork": {"chunk_size": 500, "task_embedding_dim": 8, "chunk_embedding_dim": 8},
    "hypernetwork_replay": {"chunk_size": 1000, "latent_dim": 10, "encoder_hidden": [64], "decoder_hidden": [32]},
}
DECAY = {"optimizer": "adam", "weight_decay": 1e-2, "epochs": 1}
KEPT = {"optimizer": "adam", "reset_optimizer": False, "epochs": 1}
OWN_HEAD_ONLY = ("naive", "multi_head", "ewc", "si", "mas", "l2", "progress_compress", "feature_extraction")
ALWAYS_REACHED = {"lwf", "replay", "mir", "rehearsal", "generative_replay", "gem", "agem", "der", "derpp"}


def rows(head: GrowingHead) -> Tensor:
    """``[outputs, features + 1]``."""
    return torch.cat([head.weight, head.bias[:, None]], dim=1).detach().clone()


def check_old_rows(learning: Trainer) -> None:
    """Of methods whose losses know the task's own head alone; a pull on heads that have moved has a gradient."""
    while not learning.done:
        before = rows(learning.strategy.network.head)
        learning.run_task()
        after = rows(learning.strategy.network.head)[: len(before)]
        assert torch.equal(before, after), f"idle rows moved in task {learning.next_task - 1}"


def idle_tasks(learning: Trainer) -> int:
    """Learn, and look at the rows of the head that had a gradient of zero in every update of a task.

    Returns:
        Tasks in which there were any.
    """
    reached = torch.zeros(0, dtype=torch.bool)
    step, found = learning._optimizers.step, 0

    def watched(*names: str) -> None:
        head = learning.strategy.network.head
        if head.weight.grad is not None and head.bias.grad is not None and len(reached) == head.outputs:
            reached.logical_or_(head.weight.grad.any(1) | (head.bias.grad != 0))
        step(*names)

    learning._optimizers.step = watched  # type: ignore[method-assign]
    while not learning.done:
        before = rows(learning.strategy.network.head)
        reached = torch.zeros(learning.scenario.outputs(learning.next_task), dtype=torch.bool)
        learning.run_task()
        after, known = rows(learning.strategy.network.head), len(before)
        if len(after) == len(reached) and known < len(after):
            idle = ~reached[:known]
            assert torch.equal(before[idle], after[:known][idle]), f"idle rows moved in task {learning.next_task - 1}"
            found += bool(idle.any())
    return found


@pytest.mark.parametrize("training", [DECAY, KEPT], ids=["decay", "kept"])
@pytest.mark.parametrize("name", METHODS)
def test_rows_that_no_loss_reaches_stay(name: str, training: dict[str, Any]) -> None:
    found = idle_tasks(trainer(trial(name, "task", options=OPTIONS.get(name, {}), training=training)))
    assert found == 0 if name in ALWAYS_REACHED else True


def all_rows_learn(self: Strategy, task: int) -> Mapping[nn.Parameter, Sequence[range]]:
    """The mutant: every row of a head is stepped, whether a loss reaches it or not."""
    return {}


@pytest.mark.parametrize("training", [DECAY, KEPT], ids=["decay", "kept"])
@pytest.mark.parametrize("name", OWN_HEAD_ONLY)
def test_a_gradient_of_zero_that_moves_rows_is_caught(
    name: str, training: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trial(name, "task", training=training)
    check_old_rows(trainer(spec))
    monkeypatch.setattr(Strategy, "learning_rows", all_rows_learn)
    monkeypatch.setattr("raycl.strategies.progress_compress.ProgressCompress.learning_rows", all_rows_learn)
    with pytest.raises(AssertionError, match="idle rows moved"):
        check_old_rows(trainer(spec))


@pytest.mark.parametrize("training", [DECAY, KEPT], ids=["decay", "kept"])
@pytest.mark.parametrize("name", ["ewc", "si", "mas", "l2", "progress_compress"])
def test_a_proximal_step_leaves_idle_rows_alone(name: str, training: dict[str, Any]) -> None:
    check_old_rows(trainer(trial(name, "task", options={"penalty_step": "proximal"}, training=training)))


def test_units_that_do_not_compete_class_incrementally_stay_too() -> None:
    training = {**DECAY, "active_logits": "current"}
    assert idle_tasks(trainer(trial("naive", "class", training=training))) == 2


def test_replayed_rows_reach_their_heads_and_those_no_longer_in_memory_do_not() -> None:
    """A ring of six rows holds the last task's alone."""
    memory = {"capacity": 6, "selection": "ring"}
    learning = trainer(trial("replay", "task", training=DECAY, memory=memory))
    learning.run_task()
    learning.run_task()
    assert learning.strategy.rehearsed() == {1}
    assert idle_tasks(learning) == 1


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "adagrad", "rmsprop"])
@pytest.mark.parametrize(
    ("method", "scenario", "policy"),
    [("ewc", "task", "auto"), ("packnet", "task", "all"), ("generative_negative_replay", "class", "auto")],
)
def test_moments_that_were_laid_aside_resume_to_the_bit(
    method: str, scenario: str, policy: str, optimizer: str
) -> None:
    """Where the head is full, its later rows have no moments yet: none of zero, of as many steps as the others'."""
    if method != "ewc" and optimizer not in ("adam", "sgd"):
        pytest.skip("adam and sgd stand for all")
    training = {"optimizer": optimizer, "weight_decay": 1e-3, "reset_optimizer": False, "active_logits": policy}
    training |= {"momentum": 0.9} if optimizer in ("sgd", "rmsprop") else {}
    spec = trial(method, scenario, training={**training, "iterations": 5})
    straight, resumed = trainer(spec), trainer(spec)
    finish(straight)
    while not resumed.done:
        resumed.run_task()
        state = checkpoint.decode(checkpoint.encode(resumed.state_dict()))
        resumed = trainer(spec)
        resumed.load_state_dict(state)
    for name, value in straight.strategy.network.state_dict().items():
        assert torch.equal(value, resumed.strategy.network.state_dict()[name]), name
    assert checkpoint.encode(straight.state_dict()) == checkpoint.encode(resumed.state_dict())


FIVE_TASKS = {"tasks": 5}
LONG = {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 1e-4, "batch_size": 16, "epochs": 10}


def test_decay_no_longer_destroys_the_heads_of_earlier_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tuning equals multi_head; with heads that decay it fell to 69 %."""
    spec = trial("naive", "task", stream=FIVE_TASKS, training=LONG, model={"hidden": [400, 400]})
    naive = matrix(spec).average_accuracy()
    assert naive > 0.95
    monkeypatch.setattr(Strategy, "learning_rows", all_rows_learn)
    assert matrix(spec).average_accuracy() < 0.85


def test_naive_and_multi_head_are_one_method_with_decay_and_kept_moments() -> None:
    for training in (DECAY, KEPT, {**DECAY, "optimizer": "sgd", "momentum": 0.9, "reset_optimizer": False}):
        one, other = (trainer(trial(name, "task", training=training)) for name in ("naive", "multi_head"))
        finish(one)
        finish(other)
        assert torch.equal(rows(one.strategy.network.head), rows(other.strategy.network.head))
