"""ER-ACE on digits: new rows move no class that is absent from their batch; with all classes present it is replay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import counts, finish, matrix, trainer, trial
from torch import Tensor

from raycl.errors import SpecError
from raycl.models.network import CosineHead
from raycl.strategies.er_ace import ERACE
from raycl.strategies.replay import Replay
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 10, "epochs": 1}


def made(name: str = "er_ace", **blocks: Any) -> Trainer:
    return trainer(trial(name, "class", **{"training": SGD, "memory": {"capacity": 60}, **blocks}))


def watch_losses(running: Trainer) -> list[tuple[Batch, Tensor, Tensor]]:
    """Rows of every update, and the size of the new and of the replayed loss's gradient by each unit's row."""
    strategy, seen = running.strategy, []
    loss = strategy.loss

    def watched(batch: Batch) -> Any:
        losses = loss(batch)
        rows = strategy.network.head.weight
        zero = torch.zeros(len(rows))
        parts = [torch.autograd.grad(part, rows, retain_graph=True)[0].abs().sum(1) for part in losses.values()]
        seen.append((batch, *[*parts, zero][:2]))
        return losses

    strategy.loss = watched  # type: ignore[method-assign]
    finish(running)
    return seen


# -- row 31 ----------------------------------------------------------------------------------------------------------


EQUATION = {"unseen": False}
"""As equation 3 has it: units that no row has had so far do not compete either."""


def check_asymmetry(**blocks: Any) -> None:
    """The new rows' gradient is exactly 0 at absent units and not at present ones; replayed rows move old units."""
    asked = moved = 0
    for batch, new, old in watch_losses(made(options=EQUATION, **blocks)):
        present = torch.zeros(len(new), dtype=torch.bool)
        present[batch.y[~batch.replayed]] = True
        assert (new[~present] == 0).all()
        asked += int((~present).sum())
        assert int(present.sum()) == 1 or (new[present] > 0).all()
        moved += int((old[~present] > 0).sum())
    assert asked > 100
    assert moved > 100


def test_new_rows_give_absent_classes_no_gradient() -> None:
    check_asymmetry()


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_new_rows_give_absent_classes_no_gradient_on_a_head_that_grows(classifier: str) -> None:
    check_asymmetry(training={**SGD, "active_logits": "seen"}, model={"classifier": classifier})


def test_new_rows_give_absent_classes_no_gradient_without_boundaries() -> None:
    check_asymmetry(stream={"boundaries": "hidden"})


def test_the_check_finds_symmetric_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ERACE, "logits", Replay.logits)
    with pytest.raises(AssertionError):
        check_asymmetry()


def test_the_check_finds_a_mask_on_replayed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: replayed rows too compete among the classes of the new rows only, and their own."""
    logits = ERACE.logits

    def both(self: ERACE, batch: Batch) -> Tensor:
        new = torch.zeros(len(batch), dtype=torch.bool)
        own = torch.nn.functional.one_hot(batch.y, self.network.head.outputs).bool()
        marked = Batch(batch.image, batch.x, batch.y, batch.task, new)
        return torch.where(own, Replay.logits(self, batch), logits(self, marked)).masked_fill(
            ~own & batch.replayed[:, None], float("-inf")
        )

    monkeypatch.setattr(ERACE, "logits", both)
    with pytest.raises(AssertionError):
        check_asymmetry()


FIVE_A_TASK = {"stream": {"tasks": 2, "classes_per_task": 5}}
"""Ten rows hardly ever have all classes of their task."""


def test_new_rows_give_no_gradient_to_classes_of_their_task_that_are_absent() -> None:
    check_asymmetry(**FIVE_A_TASK)


def test_the_check_finds_new_rows_that_compete_among_all_classes_of_their_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the task decides who competes, as under ``active_logits: current``, and not the batch."""

    def of_the_task(self: ERACE, batch: Batch) -> Tensor:
        units = torch.arange(self.network.head.outputs)
        own = self.context.scenario.units(self.task)
        active = (units >= own.start) & (units < own.stop)
        return Replay.logits(self, batch).masked_fill(~(active | batch.replayed[:, None]), float("-inf"))

    monkeypatch.setattr(ERACE, "logits", of_the_task)
    with pytest.raises(AssertionError):
        check_asymmetry(**FIVE_A_TASK)


def check_unseen(**blocks: Any) -> None:
    """Units that no row has had so far get a gradient; those of old classes that are absent still get none."""
    running = made(**blocks)
    known: set[int] = set()
    kinds = [0, 0]
    for batch, new, _ in watch_losses(running):
        present = set(batch.y[~batch.replayed].tolist())
        known |= present
        for unit, value in enumerate(new.tolist()):
            if unit not in known:
                assert value > 0
                kinds[0] += 1
            elif unit not in present:
                assert value == 0
                kinds[1] += 1
    assert min(kinds) > 30
    assert running.strategy.active_logits() == "present+unseen, replayed all"


@pytest.mark.parametrize("stream", [{}, {"boundaries": "hidden"}], ids=["given", "hidden"])
def test_unseen_classes_compete_as_in_the_authors_code(stream: dict[str, str]) -> None:
    check_unseen(stream=stream)


def test_the_check_finds_units_that_do_not_compete() -> None:
    with pytest.raises(AssertionError):
        check_unseen(options=EQUATION)


def test_on_a_head_that_grows_there_are_no_unseen_units() -> None:
    """The mutant of before: the option was taken, and did nothing."""
    training = {**SGD, "active_logits": "seen"}
    assert made(training=training).strategy.active_logits() == "present, replayed seen"
    with pytest.raises(SpecError, match=r"unseen: .* set training\.active_logits: all \(got true\)"):
        made(training=training, options={"unseen": True})


def test_its_own_head_is_ten_cosines() -> None:
    head = made().strategy.network.head
    assert isinstance(head, CosineHead)
    assert made(model={"classifier": "linear"}).strategy.network.head.affine
    finish(running := made())
    logits = running.strategy.network(torch.rand(50, 1, 8, 8))
    assert 0 < logits.abs().max() <= 10.00001
    assert running.strategy.network.head.bias is None


# -- relation to replay ----------------------------------------------------------------------------------------------


SUM = {"capacity": 60, "combine": "sum"}


def all_present(name: str) -> Trainer:
    """One task of two classes in batches of 32: both classes are in every batch."""
    stream = {"tasks": 1, "classes_per_task": 2}
    blocks = {"options": {"forward": "separate"}, "model": {"classifier": "cosine"}}
    running = made(name, stream=stream, training={**SGD, "batch_size": 32}, memory=SUM, **blocks)
    draw = running.strategy.draw

    def watched(batch: Batch, at: Any) -> Batch:
        assert len(batch.y.unique()) == 2
        return draw(batch, at)

    running.strategy.draw = watched  # type: ignore[method-assign]
    return running


def check_equals_replay() -> None:
    asymmetric, replay = all_present("er_ace"), all_present("replay")
    assert counts(finish(asymmetric)) == counts(finish(replay))
    ours, theirs = asymmetric.strategy.network.state_dict(), replay.strategy.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_with_every_class_in_the_batch_it_is_experience_replay() -> None:
    check_equals_replay()


def test_the_check_finds_new_rows_without_a_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: each new row competes with itself alone."""

    def alone(self: ERACE, batch: Batch) -> Tensor:
        own = torch.nn.functional.one_hot(batch.y, self.network.head.outputs).bool()
        return Replay.logits(self, batch).masked_fill(~(own | batch.replayed[:, None]), float("-inf"))

    monkeypatch.setattr(ERACE, "logits", alone)
    with pytest.raises(AssertionError):
        check_equals_replay()


def test_it_says_which_units_compete() -> None:
    assert made(options=EQUATION).strategy.active_logits() == "present, replayed all"


def test_it_keeps_more_than_naive() -> None:
    blocks: dict[str, Any] = {"training": {**SGD, "epochs": 3}, "memory": {"capacity": 60}}
    kept = matrix(trial("er_ace", **blocks)).average_accuracy()
    assert kept > matrix(trial("naive", **blocks)).average_accuracy() + 0.3
