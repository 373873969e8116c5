"""DER and DER++ on digits: what is stored, what it is compared with, and what they are without one of their parts."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import counts, finish, matrix, trainer, trial
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.memory.replay import ReplayMemory as Buffer
from raycl.strategies import der
from raycl.strategies.base import Losses
from raycl.strategies.der import DER, DERPP
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 10, "epochs": 1}


def made(name: str = "derpp", scenario: str = "class", **blocks: Any) -> Trainer:
    return trainer(trial(name, scenario, **{"training": SGD, "memory": {"capacity": 60}, **blocks}))


def method(running: Trainer) -> DER:
    assert isinstance(running.strategy, DER)
    return running.strategy


# -- row 30: stored logits -------------------------------------------------------------------------------------------


def check_stored_logits(name: str, scenario: str) -> None:
    """To the bit the logits of the update that stored the row, before its step, also many updates later."""
    running = made(name, scenario)
    strategy, first = method(running), dict[bytes, Tensor]()
    step, update = strategy.step, dict[str, Any]()

    def forward(_: nn.Module, __: Any, logits: Tensor) -> None:
        update.setdefault("logits", logits.detach().clone())

    def watched(batch: Batch, at: Any) -> Losses:
        update.clear()
        hook = strategy.network.register_forward_hook(forward)
        losses = step(batch, at)
        hook.remove()
        for image, logits in zip(batch.image, update["logits"], strict=False):
            first.setdefault(image.numpy().tobytes(), logits)
        return losses

    strategy.step = watched  # type: ignore[method-assign]
    finish(running)
    held = strategy.memory.read(torch.arange(len(strategy.memory)))
    assert len(held["label"]) == 60
    for image, logits in zip(held["image"], held["logits"], strict=True):
        expected = first[image.numpy().tobytes()]
        assert torch.equal(logits[: len(expected)], expected)
        assert logits[len(expected) :].isnan().all(), "units that came later were never stored"


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("name", ["der", "derpp"])
def test_stored_logits_are_those_of_the_update_that_stored_them(name: str, scenario: str) -> None:
    check_stored_logits(name, scenario)


def after_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(self: DER, batch: Batch, at: Any) -> None:
        logits = self.network(self._new.x)
        self.memory.add({"image": self._new.image, "label": self._new.y, "task": self._new.task, "logits": logits})

    monkeypatch.setattr(DER, "_store", lambda *_: None)
    monkeypatch.setattr(DER, "remember", late)


def probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    store = DER._store
    monkeypatch.setattr(DER, "_store", lambda self, logits: store(self, logits.softmax(1)))


def refreshed(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Buffer.sample

    def and_write(self: Buffer, count: int) -> Any:
        rows = sample(self, count)
        self.write(self.sampled, {"logits": rows["logits"] + 0.01})
        return rows

    monkeypatch.setattr(Buffer, "sample", and_write)


@pytest.mark.parametrize("wrong", [after_the_step, probabilities, refreshed])
def test_the_check_finds_other_logits(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong(monkeypatch)
    with pytest.raises(AssertionError):
        check_stored_logits("derpp", "class")


def check_rows_alone(forward: str) -> None:
    """With batch normalisation, stored logits are those of new rows scaled by the statistics of new rows."""
    running = made("der", model={"norm": "batch"}, options={"forward": forward})
    strategy = method(running)
    store, seen = strategy._store, 0

    def watched(logits: Tensor) -> None:
        nonlocal seen
        new = strategy._new
        assert new is not None
        with torch.no_grad():
            alone = copy.deepcopy(strategy.network)(new.x)
        assert torch.allclose(logits[: len(new)], alone, atol=1e-5)
        seen += 1
        store(logits)

    strategy._store = watched  # type: ignore[method-assign]
    finish(running)
    assert seen > 40


def test_new_rows_go_through_the_network_by_themselves() -> None:
    check_rows_alone("separate")


def test_the_check_finds_one_pass_for_all_rows() -> None:
    with pytest.raises(AssertionError):
        check_rows_alone("joint")


def test_without_batch_statistics_one_pass_is_the_same_up_to_rounding() -> None:
    separate, joint = (made(options={"forward": forward}) for forward in ("separate", "joint"))
    finish(separate)
    finish(joint)
    ours, theirs = separate.strategy.network.state_dict(), joint.strategy.network.state_dict()
    assert all(torch.allclose(value, theirs[name], atol=1e-3) for name, value in ours.items())


# -- the loss --------------------------------------------------------------------------------------------------------


def last_update(running: Trainer) -> Batch:
    """The rows of the last update, with the strategy as it stands after it."""
    strategy, seen = method(running), []
    draw = strategy.draw

    def watched(batch: Batch, at: Any) -> Batch:
        seen.append(draw(batch, at))
        return seen[-1]

    strategy.draw = watched  # type: ignore[method-assign]
    finish(running)
    return seen[-1]


def check_closed_form(scenario: str, **training: Any) -> None:
    """Each part by hand, row by row and unit by unit."""
    running = made("derpp", scenario, options={"alpha": 0.3, "beta": 0.7}, training={**SGD, **training})
    batch = last_update(running)
    strategy = method(running)
    new, size = len(batch) - 2 * strategy.replay_size, strategy.replay_size
    logits = strategy.network(batch.x)
    found = strategy.loss(batch)
    stored = batch.columns["logits"][new : new + size]
    errors = [
        (logits[new + row, unit] - stored[row, unit]).item() ** 2
        for row in range(size)
        for unit in range(stored.shape[1])
        if not stored[row, unit].isnan()
    ]
    grows = scenario == "task" or training.get("active_logits") == "seen"
    assert (len(errors) < stored.numel()) == grows, "on a head that grows some rows are older than some units"
    assert found["logits"].item() == pytest.approx(0.3 * sum(errors) / len(errors), rel=1e-4)
    ce = strategy.cross_entropy(logits, batch, reduction="none")
    assert found["task"].item() == pytest.approx(ce[:new].mean().item(), rel=1e-5)
    assert found["labels"].item() == pytest.approx(0.7 * ce[new + size :].mean().item(), rel=1e-5)
    assert all(torch.isfinite(value) for value in found.values())


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_loss_has_its_closed_form(scenario: str) -> None:
    check_closed_form(scenario)


def test_the_loss_has_its_closed_form_on_a_head_that_grows() -> None:
    check_closed_form("class", active_logits="seen")


def test_where_nothing_can_be_absent_the_error_is_the_same_to_the_bit() -> None:
    """A full head: nothing is looked for, and nothing would be found."""
    random = torch.Generator().manual_seed(0)
    logits, stored = torch.randn(7, 10, generator=random).requires_grad_(), torch.randn(7, 10, generator=random)
    one, other = (der._squared_error(logits, stored, complete) for complete in (True, False))
    assert torch.equal(one, other)
    assert torch.equal(torch.autograd.grad(one, logits)[0], torch.autograd.grad(other, logits)[0])


def test_the_check_finds_entries_that_are_wrongly_taken_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    right = der._squared_error
    monkeypatch.setattr(der, "_squared_error", lambda logits, stored, complete: right(logits, stored, True))
    with pytest.raises((AssertionError, MethodError, RuntimeError)):
        check_closed_form("class", active_logits="seen")


def test_the_check_finds_absent_entries_taken_for_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    right = der._squared_error
    monkeypatch.setattr(
        der, "_squared_error", lambda logits, stored, complete: right(logits, stored.nan_to_num(0.0), complete)
    )
    with pytest.raises(AssertionError):
        check_closed_form("class", active_logits="seen")


def test_the_check_finds_a_sum_over_units(monkeypatch: pytest.MonkeyPatch) -> None:
    right = der._squared_error
    monkeypatch.setattr(der, "_squared_error", lambda *given: right(*given) * given[1].shape[1])
    with pytest.raises(AssertionError):
        check_closed_form("domain")


def check_independent_draws() -> None:
    """Both draws of an update share as many rows as chance gives: 100 of 60 x 60 pairs."""
    running = made("derpp", "domain")
    strategy, shared = method(running), []
    draw = strategy.draw

    def watched(batch: Batch, at: Any) -> Batch:
        both = draw(batch, at)
        if len(both) == len(batch) + 20 and len(strategy.memory) == 60:
            one, other = (both.image[len(batch) + start :][:10].flatten(1) for start in (0, 10))
            assert len(one.unique(dim=0)) == len(other.unique(dim=0)) == 10
            shared.append((one[:, None] == other[None]).all(2).sum().item())
        return both

    strategy.draw = watched  # type: ignore[method-assign]
    finish(running)
    assert len(shared) > 60
    assert sum(shared) / len(shared) == pytest.approx(10 * 10 / 60, abs=0.5)


def test_the_second_draw_is_independent_of_the_first() -> None:
    check_independent_draws()


def test_the_check_finds_the_same_draw_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    replayed = DERPP.replayed
    last: list[Any] = []

    def same(self: DERPP, rows: Any) -> Batch:
        last.append(rows)
        return replayed(self, last[-1 - (len(last) + 1) % 2])

    monkeypatch.setattr(DERPP, "replayed", same)
    with pytest.raises(AssertionError):
        check_independent_draws()


# -- relations to other methods ----------------------------------------------------------------------------------------


def same_network(one: Trainer, other: Trainer) -> bool:
    ours, theirs = one.strategy.network.state_dict(), other.strategy.network.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_labels_alone_are_experience_replay_to_the_bit(scenario: str) -> None:
    """Where replay takes the means of the two losses by themselves, each from a forward pass of its own."""
    blocks = {"training": {**SGD, "active_logits": "all"}} if scenario == "class" else {}
    labels = made("derpp", scenario, options={"alpha": 0.0, "beta": 1.0}, **blocks)
    memory = {"capacity": 60, "combine": "sum"}
    replay = made("replay", scenario, options={"forward": "separate"}, memory=memory, **blocks)
    assert counts(finish(labels)) == counts(finish(replay))
    assert same_network(labels, replay)


def test_logits_alone_are_der_to_the_bit() -> None:
    one, other = made("derpp", options={"alpha": 0.4, "beta": 0.0}), made("der", options={"alpha": 0.4})
    assert counts(finish(one)) == counts(finish(other))
    assert same_network(one, other)


def test_without_learning_stored_logits_cost_nothing() -> None:
    """Learning rate to 0: outputs on stored rows stay what was stored, in the domain's shared units."""
    running = made("der", "domain", training={**SGD, "learning_rate": 1e-12})
    strategy = method(running)
    batch = last_update(running)
    assert strategy.loss(batch)["logits"].item() < 1e-10
    moved = replace(batch, x=batch.x + 0.1)
    assert strategy.loss(moved)["logits"].item() > 1e-6


def test_it_keeps_more_than_naive() -> None:
    stream = {"name": "permuted", "tasks": 3, "train_per_task": 600}
    blocks: dict[str, Any] = {"stream": stream, "training": {**SGD, "epochs": 2}, "memory": {"capacity": 80}}
    kept = matrix(trial("derpp", "domain", options={"alpha": 1.0}, **blocks)).average_accuracy()
    assert kept > matrix(trial("naive", "domain", **blocks)).average_accuracy() + 0.05
