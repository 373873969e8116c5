"""The loops of one trial."""

from __future__ import annotations

import math

import pytest
import torch
from support import counts, finish, trainer, trial
from torch import Tensor

from raycl.errors import DataError, MethodError
from raycl.spec.sweep_options import LimitsConfig
from raycl.strategies.base import Position, Strategy
from raycl.strategies.naive import Naive
from raycl.streams.task import Batch
from raycl.trial import checkpoint
from raycl.trial.optimizers import OptimizerSet


def test_updates_and_examples_are_counted() -> None:
    spec = trial("naive", training={"epochs": 2, "batch_size": 16})
    running = trainer(spec)
    rows = finish(running)
    sizes = [len(running._source.part(task, "train")) for task in range(3)]
    assert sum(row.cost.examples for row in rows) == 2 * sum(sizes)
    assert sum(row.cost.updates for row in rows) == 2 * sum(size // 16 + (size % 16 > 1) for size in sizes)


@pytest.mark.parametrize("length", [{"epochs": 2}, {"iterations": 20}])
def test_joint_takes_as_many_updates_as_all_tasks_together(length: dict[str, int]) -> None:
    naive = sum(row.cost.updates for row in finish(trainer(trial("naive", training=length))))
    rows = finish(trainer(trial("joint", training=length)))
    assert abs(sum(row.cost.updates for row in rows) - naive) <= 3 * 2
    assert [int(row.total.sum()) for row in rows[1:3]] == [0, 0], "joint leaves one row"


def test_joint_batches_hold_all_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 2 of the discriminating tests: joint training that takes the tasks in turn is not joint."""
    shares: list[Tensor] = []
    loss = Naive.loss

    def spy(self: Naive, batch: Batch) -> dict[str, Tensor]:
        shares.append(torch.bincount(batch.task, minlength=3) / len(batch))
        return loss(self, batch)

    monkeypatch.setattr("raycl.strategies.base.Strategy.loss", spy)
    finish(trainer(trial("joint", training={"batch_size": 64})))
    probabilities = torch.stack(shares).clamp(min=1e-9)
    entropy = -(probabilities * probabilities.log()).sum(1).mean()
    assert entropy > 0.9 * torch.tensor(3.0).log()


def test_the_untrained_row_is_measured_where_units_are_shared() -> None:
    domain = finish(trainer(trial("naive", "domain")))
    assert domain[0].task == -1
    assert (domain[0].total > 0).all()
    assert (domain[1].total > 0).all(), "future tasks too"
    split = finish(trainer(trial("naive", "class")))
    assert split[0].total.sum() == 0
    assert [(row.total > 0).tolist() for row in split[1:3]] == [[True, False, False], [True, True, False]]


def test_only_upper_bounds_see_other_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.strategies.joint.Joint.upper_bound", False)
    with pytest.raises(MethodError, match="only upper bounds"):
        finish(trainer(trial("joint")))


def test_a_loss_that_is_not_finite_ends_the_trial_with_the_options_to_lower() -> None:
    spec = trial("naive", training={"optimizer": "sgd", "learning_rate": 1e30})
    with pytest.raises(MethodError, match=r"finite.*training\.learning_rate"):
        finish(trainer(spec))


def _poisoned(self: Strategy, batch: Batch, at: Position) -> None:
    """The last update of a task leaves a weight that is no number; every loss was finite."""
    if at.last:
        with torch.no_grad():
            self.network.head.weight[0, 0] = float("nan")


def test_parameters_must_be_finite_where_every_loss_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Strategy, "after_update", _poisoned)
    with pytest.raises(MethodError, match=r"losses and parameters must stay finite \(got task [\d.e-]+ in task 0"):
        trainer(trial("naive")).run_task()


def test_the_check_on_parameters_is_what_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the check looks at the loss alone, and the task ends as if nothing were wrong."""
    monkeypatch.setattr(Strategy, "after_update", _poisoned)
    monkeypatch.setattr(OptimizerSet, "parameters", lambda self: [])
    assert trainer(trial("naive")).run_task()[-1].total[0] > 0


@pytest.mark.parametrize(("name", "limit"), [("max_state_bytes", 1000), ("max_parameters", 100)])
def test_limits_are_held(name: str, limit: int) -> None:
    spec = trial("naive").model_copy(update={"limits": LimitsConfig.model_validate({name: limit})})
    with pytest.raises(MethodError, match=rf"limits\.{name} is {limit} \(got \d+\)"):
        finish(trainer(spec))


def test_other_data_than_the_checkpoint_was_learned_on_are_refused() -> None:
    running = trainer(trial("naive"))
    running.run_task()
    state = checkpoint.decode(checkpoint.encode(running.state_dict()))
    with pytest.raises(DataError, match="the very data it began with"):
        trainer(trial("naive", seed=1)).load_state_dict(state)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_kept_optimisers_resume_to_the_bit(optimizer: str) -> None:
    spec = trial("naive", training={"reset_optimizer": False, "optimizer": optimizer, "momentum": 0.9})
    straight = trainer(spec)
    rows = finish(straight)
    first = trainer(spec)
    begun = first.run_task()
    second = trainer(spec)
    second.load_state_dict(checkpoint.decode(checkpoint.encode(first.state_dict())))
    assert counts(begun + finish(second)) == counts(rows)
    for name, value in straight.strategy.network.state_dict().items():
        assert torch.equal(value, second.strategy.network.state_dict()[name])


def test_augmentation_and_batch_norm_resume_to_the_bit() -> None:
    spec = trial("replay", stream={"augment": "crop_flip"}, model={"norm": "batch"})
    straight = trainer(spec)
    finish(straight)
    first = trainer(spec)
    first.run_task()
    second = trainer(spec)
    second.load_state_dict(checkpoint.decode(checkpoint.encode(first.state_dict())))
    finish(second)
    for name, value in straight.strategy.network.state_dict().items():
        assert torch.equal(value, second.strategy.network.state_dict()[name]), name


def test_a_permuted_stream_is_learned_task_by_task() -> None:
    stream = {"name": "permuted", "tasks": 2}
    rows = finish(trainer(trial("naive", "domain", stream=stream, training={"epochs": 8, "batch_size": 32})))
    last = rows[-1]
    assert last.correct[1] / last.total[1] > 0.85


def test_the_rows_of_the_matrix_can_be_had() -> None:
    """Of a permuted stream: a task's own pixels, and the labels by which its cell was counted."""
    running = trainer(trial("naive", "domain", stream={"name": "permuted", "tasks": 2}))
    last = finish(running)[-1]
    running.strategy.train(False)
    for task in range(2):
        rows = running.evaluation_rows(task)
        found = running.strategy.predict(rows.x, None).argmax(1)
        assert (int((found == rows.y).sum()), len(rows)) == (last.correct[task], last.total[task])
        assert torch.equal(running.evaluation_rows(task, 5).x, rows.x[:5])


@pytest.mark.parametrize("method", ["naive", "replay", "gdumb"])
def test_hidden_boundaries_are_not_told(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trial(method, stream={"boundaries": "hidden"}, training={"reset_optimizer": True})
    straight = trainer(spec)
    told: list[str] = []
    for name in ("begin_task", "end_task", "grow"):
        original = getattr(straight.strategy, name)
        monkeypatch.setattr(straight.strategy, name, lambda *a, n=name, o=original: (told.append(n), o(*a))[1])
    rows = finish(straight)
    assert told == ["grow"]
    assert straight.strategy.network.head.outputs == 6, "the whole head from the start"
    assert rows[0].total.sum() == 0
    first = trainer(spec)
    begun = first.run_task()
    second = trainer(spec)
    second.load_state_dict(checkpoint.decode(checkpoint.encode(first.state_dict())))
    assert counts(begun + finish(second)) == counts(rows)


def test_replay_learns_old_rows_where_new_ones_compete_among_the_current_task_only() -> None:
    spec = trial("replay", training={"active_logits": "current", "epochs": 6})
    last = finish(trainer(spec))[-1]
    assert last.correct[0] > 0.7 * last.total[0]


def check_rows_of_other_tasks(name: str) -> None:
    """They compete among the units seen, those of the current task among its own; by hand for one batch."""
    running = trainer(trial(name, training={"active_logits": "current", "epochs": 6}))
    rows = finish(running)
    last = rows[-1]
    assert last.correct[0] > 0.7 * last.total[0]
    strategy = running.strategy
    y = torch.arange(6)
    image = torch.zeros(6, 1, 8, 8)
    batch = Batch(image, image, y, y // 2, torch.zeros(6, dtype=torch.bool))
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    found = strategy.cross_entropy(logits, batch, reduction="none")
    for row in range(6):
        competing = range(4, 6) if row >= 4 else range(6)
        total = sum(math.exp(logits[row, unit].item()) for unit in competing)
        assert found[row].item() == pytest.approx(math.log(total) - logits[row, row].item(), rel=1e-4)


@pytest.mark.parametrize("name", ["joint", "cumulative"])
def test_with_the_current_units_alone_upper_bounds_learn_the_other_tasks_too(name: str) -> None:
    check_rows_of_other_tasks(name)


@pytest.mark.parametrize("name", ["joint", "cumulative"])
def test_the_check_finds_units_that_cannot_win(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant of before: every row that is not replayed competes among the current task's units, and dies."""

    def current(self: Strategy, logits: Tensor, batch: Batch, reduction: str = "mean") -> Tensor:
        mask = self.context.scenario.mask(batch.task, "current", self.task)
        logits = logits.masked_fill(~mask, float("-inf"))
        return torch.nn.functional.cross_entropy(logits, batch.y, reduction=reduction)

    monkeypatch.setattr(Strategy, "cross_entropy", current)
    with pytest.raises((AssertionError, MethodError)):
        check_rows_of_other_tasks(name)
