"""MIR on digits: scoring leaves no trace, the largest loss increase is replayed, and all of them are plain replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import counts, finish, matrix, trainer, trial
from torch import Tensor, nn

from raycl.errors import SpecError
from raycl.strategies.mir import MIR
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 10, "epochs": 1}
Scores = Callable[[MIR, Batch, Batch], Tensor]


def made(name: str = "mir", scenario: str = "class", **blocks: Any) -> Trainer:
    return trainer(trial(name, scenario, **{"training": SGD, "memory": {"capacity": 80}, **blocks}))


def method(running: Trainer) -> MIR:
    assert isinstance(running.strategy, MIR)
    return running.strategy


def state(running: Trainer) -> dict[str, Tensor]:
    """Parameters, running statistics and moments, as they are."""
    optimizer = running._optimizers.state_dict()["network"]
    moments = {f"{entry}/{name}": value for entry, held in optimizer.items() for name, value in held.items()}
    return {name: value.clone() for name, value in {**method(running).network.state_dict(), **moments}.items()}


# -- row 14: scoring changes nothing ---------------------------------------------------------------------------------


def check_no_trace(**training: Any) -> None:
    """Around every scoring: parameters, moments and running statistics to the bit; no gradient, training mode kept."""
    running = made(model={"norm": "batch"}, training={**SGD, **training}, options={"subsample": 30})
    strategy, scored = method(running), 0
    scores = strategy.scores

    def watched(batch: Batch, rows: Batch) -> Tensor:
        nonlocal scored
        before = state(running)
        gradients = [parameter.grad for parameter in strategy.network.parameters()]
        found = scores(batch, rows)
        scored += 1
        after = state(running)
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        assert all(p.grad is old for p, old in zip(strategy.network.parameters(), gradients, strict=True))
        assert all(module.training for module in strategy.network.modules())
        assert not found.requires_grad
        return found

    strategy.scores = watched  # type: ignore[method-assign]
    finish(running)
    assert scored > 40


@pytest.mark.parametrize("training", [{"momentum": 0.9}, {"optimizer": "adam", "learning_rate": 1e-2}])
def test_scoring_leaves_no_trace(training: dict[str, Any]) -> None:
    check_no_trace(**training)


def in_place(self: MIR, batch: Batch, rows: Batch) -> Tensor:
    """The step is taken and taken back, which rounds."""
    values = list(self.network.parameters())
    gradients = torch.autograd.grad(self.cross_entropy(self.network(batch.x), batch), values)
    with torch.no_grad():
        before = self._losses(self.network(rows.x), rows)
        torch._foreach_sub_(values, gradients, alpha=self._rate)
        after = self._losses(self.network(rows.x), rows)
        torch._foreach_add_(values, gradients, alpha=self._rate)
    return after - before


def by_the_optimizer(self: MIR, batch: Batch, rows: Batch) -> Tensor:
    """The virtual step is the optimiser's, with its moments."""
    real = {name: value.clone() for name, value in self.network.state_dict().items()}
    self.cross_entropy(self.network(batch.x), batch).backward()
    self.context.optimizers.step()
    with torch.no_grad():
        after = self._losses(self.network(rows.x), rows)
    self.network.load_state_dict(real)
    return after


def in_training_mode(self: MIR, batch: Batch, rows: Batch) -> Tensor:
    with torch.no_grad():
        return self._losses(self.network(rows.x), rows)


@pytest.mark.parametrize("wrong", [in_place, by_the_optimizer, in_training_mode])
def test_the_check_finds_traces(wrong: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MIR, "scores", wrong)
    with pytest.raises(AssertionError):
        check_no_trace(momentum=0.9)


# -- what is replayed ----------------------------------------------------------------------------------------------


def check_most_interfered(score: str = "difference") -> None:
    """Against a copy of the network that really takes the step: what is replayed scores at least what is not."""
    running = made(options={"subsample": 40, "score": score, "virtual_learning_rate": 0.3})
    strategy, checked = method(running), 0
    pick, best = Replayed.candidates, dict[int, float]()

    def losses(rows: Batch) -> Tensor:
        with torch.no_grad():
            return nn.functional.cross_entropy(strategy.network(rows.x), rows.y, reduction="none")

    def watched(batch: Batch) -> Batch:
        nonlocal checked, best
        rows = pick(strategy, batch)
        if len(rows) <= 10:
            return rows
        slots = strategy.memory.sampled.tolist()
        before = losses(rows)
        real = {name: value.clone() for name, value in strategy.network.state_dict().items()}
        step = torch.optim.SGD(strategy.network.parameters(), lr=0.3)
        step.zero_grad()
        nn.functional.cross_entropy(strategy.network(batch.x), batch.y).backward()
        step.step()
        after = losses(rows)
        strategy.network.load_state_dict(real)
        if score == "best":
            keys = [hash(row.numpy().tobytes()) for row in rows.image]
            best |= {key: min(now, best.get(key, now)) for key, now in zip(keys, before.tolist(), strict=True)}
            before = torch.tensor([best[key] for key in keys])
        expected = after - before
        chosen = Replayed.chosen(strategy, batch, rows)
        assert strategy.memory.sampled.tolist() == slots
        assert len(chosen) == 10
        least = min(expected[(rows.x == row).flatten(1).all(1)].max() for row in chosen.x)
        assert least >= expected.topk(10).values[-1] - 1e-4
        checked += 1
        return chosen

    strategy.select = watched  # type: ignore[method-assign]
    finish(running)
    assert checked > 40


class Replayed:
    """The two halves of the retrieval."""

    @staticmethod
    def candidates(strategy: MIR, batch: Batch) -> Batch:
        return super(MIR, strategy).select(batch)

    @staticmethod
    def chosen(strategy: MIR, batch: Batch, rows: Batch) -> Batch:
        return strategy.most_interfered(batch, rows)


@pytest.mark.parametrize("score", ["difference", "best"])
def test_the_most_interfered_rows_are_replayed(score: str) -> None:
    check_most_interfered(score)


def least_interfered(scores: Scores) -> Scores:
    return lambda self, batch, rows: -scores(self, batch, rows)


def largest_loss(scores: Scores) -> Scores:
    """The loss itself, not its increase."""
    return lambda self, batch, rows: self._losses(self.network(rows.x), rows).detach()


def any_row(scores: Scores) -> Scores:
    return lambda self, batch, rows: torch.rand(len(rows))


@pytest.mark.parametrize("wrong", [least_interfered, largest_loss, any_row])
def test_the_check_finds_other_rules(wrong: Callable[[Scores], Scores], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MIR, "scores", wrong(MIR.scores))
    with pytest.raises(AssertionError):
        check_most_interfered()


def test_the_best_loss_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: nothing is remembered."""
    monkeypatch.setattr(MIR, "_best", lambda self, losses, rows: losses)
    with pytest.raises(AssertionError):
        check_most_interfered("best")


def test_to_first_order_the_score_is_the_product_of_gradients() -> None:
    """s(x) = -a <gradient of x's loss, gradient of the new rows' loss>, here at a = 1e-4."""
    torch.manual_seed(0)
    running = made(options={"virtual_learning_rate": 1e-4})
    finish(running)
    strategy = method(running)
    strategy.network.double()
    rows, batch = (
        Batch(part.image, part.x.double(), part.y, part.task, part.replayed)
        for part in (strategy.replayed(strategy.memory.sample(count)) for count in (40, 10))
    )
    parameters = list(strategy.network.parameters())

    def gradient(part: Batch) -> Tensor:
        loss = nn.functional.cross_entropy(strategy.network(part.x), part.y)
        return torch.cat([value.flatten() for value in torch.autograd.grad(loss, parameters)])

    expected = torch.stack([-1e-4 * gradient(rows[row : row + 1]) @ gradient(batch) for row in range(len(rows))])
    found = strategy.scores(batch, rows)
    assert torch.corrcoef(torch.stack([expected, found]))[0, 1] > 0.99
    assert torch.allclose(found, expected, rtol=0.05, atol=1e-9)


# -- relation to replay ----------------------------------------------------------------------------------------------


@pytest.fixture
def no_competition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MIR, "needs", ())


def check_equals_replay() -> None:
    """With as many candidates as replayed rows, to the bit."""
    options, memory = {"exclude_current": True, "forward": "separate"}, {"capacity": 80, "combine": "sum"}
    replay = made("replay", options=options, memory=memory)
    retrieval = made(options={**options, "subsample": 10}, memory=memory)
    assert counts(finish(retrieval)) == counts(finish(replay))
    ours, theirs = retrieval.strategy.network.state_dict(), replay.strategy.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.usefixtures("no_competition")
def test_with_no_more_candidates_it_is_experience_replay() -> None:
    check_equals_replay()


@pytest.mark.parametrize("subsample", [5, 10])
def test_so_it_is_refused(subsample: int) -> None:
    with pytest.raises(SpecError, match=rf"subsample: must be above the rows .* \(got {subsample}\)"):
        made(options={"subsample": subsample})
    made(options={"subsample": 11})


def test_ten_rows_of_fifty_are_replayed_whatever_the_batch_size() -> None:
    """The published numbers; with the batch size in place of ten nothing would be chosen."""
    running = trainer(trial("mir"))
    assert running.trial.training.batch_size == 16
    assert (method(running).replay_size, method(running).draw_size) == (10, 50)
    with pytest.raises(SpecError, match=r"subsample: .* \(got 50\)"):
        made(memory={"batch_size": 128})


@pytest.mark.usefixtures("no_competition")
def test_scored_or_not_the_rows_stay_in_the_order_of_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        MIR, "select", lambda self, batch: self.most_interfered(batch, Replayed.candidates(self, batch))
    )
    monkeypatch.setattr(MIR, "replay_size", 10, raising=False)
    check_equals_replay()


@pytest.mark.usefixtures("no_competition")
def test_the_check_finds_a_mistake_in_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: the rows count twice."""
    select = MIR.select
    monkeypatch.setattr(MIR, "select", lambda self, batch: Batch.cat([select(self, batch)] * 2))
    with pytest.raises(AssertionError):
        check_equals_replay()


def test_candidates_are_none_but_old_rows() -> None:
    running = made(options={"subsample": 30})
    strategy, seen = method(running), []
    scores = strategy.scores

    def watched(batch: Batch, rows: Batch) -> Tensor:
        assert len(rows) == 30
        assert (rows.task < strategy.task).all()
        seen.append(strategy.task)
        return scores(batch, rows)

    strategy.scores = watched  # type: ignore[method-assign]
    finish(running)
    assert set(seen) == {1, 2}


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_it_keeps_more_than_naive(scenario: str) -> None:
    blocks: dict[str, Any] = {"training": {**SGD, "epochs": 4}, "memory": {"capacity": 80}}
    kept = matrix(trial("mir", scenario, **blocks)).average_accuracy()
    assert kept > matrix(trial("naive", scenario, **blocks)).average_accuracy() - (0.01 if scenario == "task" else -0.1)
