"""How SupSup finds the task of rows whose id is hidden."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from strategies.supsup_trials import PERMUTED, images, method, running
from support import TINY, evaluation_rows, finish, local_source, trial
from torch import Tensor

from raycl.errors import MethodError, SpecError
from raycl.learning import superposition
from raycl.results.store import ResultsFolder
from raycl.strategies import supsup
from raycl.strategies.base import TaskData
from raycl.strategies.supsup import SupSup
from raycl.trial.session import TrialSession
from raycl.trial.trainer import Trainer


def evaluated(running: Trainer, task: int) -> Tensor:
    return evaluation_rows(running, task).x


def permuted(tasks: int, **options: Any) -> Trainer:
    """A trial on permuted digits, with the id hidden."""
    return running("domain", **{**PERMUTED, "stream": {**PERMUTED["stream"], "tasks": tasks}}, options=options)


@cache
def learned(tasks: int = 2, extra_outputs: int = 90) -> Trainer:
    """Such a trial at its end, shared by tests that only ask it for tasks."""
    learning = permuted(tasks, selection="threshold", extra_outputs=extra_outputs)
    with torch.enable_grad():
        finish(learning)
    learning.strategy.train(False)
    return learning


def asked(learning: Trainer, **options: Any) -> SupSup:
    """The method with other options of inference."""
    strategy = method(learning)
    usual = {"inference": "one_shot", "objective": "entropy", "inference_rows": 1}
    strategy.config = strategy.config.model_copy(update={**usual, **options})
    return strategy


@torch.no_grad()
def share_found(learning: Trainer, **options: Any) -> float:
    """The share of single test rows whose task is found."""
    strategy = asked(learning, **options)
    strategy.train(False)
    found = [(strategy.infer_task(evaluated(learning, task)) == task).float() for task in range(learning.next_task)]
    return float(torch.cat(found).mean())


@pytest.mark.parametrize("options", [{}, {"inference": "binary"}, {"inference": "linear"}, {"objective": "G"}])
def test_the_task_of_a_single_row_is_found(options: dict[str, Any]) -> None:
    assert share_found(learned(), **options) > 0.98


def test_masks_of_largest_scores_are_told_apart_too() -> None:
    learning = permuted(2)
    finish(learning)
    assert share_found(learning, objective="G") > 0.98


class BinarisesTheMixture(SupSup):
    """A mutant: masks are binarised after they were summed, so that no share counts."""

    def _forward(self, vector: Tensor, x: Tensor) -> Tensor:
        mixed = vector - vector.detach() + torch.where(vector.detach() != 0, self.masked.flat(), 0.0)
        return super()._forward(mixed, x)


class MixesWhatIsNotLearned(SupSup):
    """A mutant: masks were set aside for all tasks of the stream, and inference mixes all of them."""

    def grow(self, task: int) -> None:
        super().grow(task)
        if not self.bits:
            shares = (torch.rand(self.masked.numel, generator=torch.Generator().manual_seed(t)) < 0.5 for t in range(9))
            masks = [self.masked.pack(self.masked.split(share)) for share in shares]
            self.bits, self._normed = masks, [self.statistics.flat()] * 9

    def end_task(self, task: int, data: TaskData) -> None:
        self.bits[task] = self.masked.pack(self._decided())
        self._unpacked = None


class KeepsOldMixture(SupSup):
    """A mutant: masks that were unpacked for an earlier measurement are used on."""

    def grow(self, task: int) -> None:
        kept = self._unpacked if task else None
        super().grow(task)
        self._unpacked = kept

    def end_task(self, task: int, data: TaskData) -> None:
        kept = self._unpacked
        super().end_task(task, data)
        if kept is not None:
            self._unpacked = torch.cat([kept, kept[-1:]])


def only_learned_tasks_are_found(learning: Trainer) -> None:
    while not learning.done:
        learning.run_task()
        rows = torch.cat([evaluated(learning, task) for task in range(learning.num_tasks)])
        assert int(method(learning).infer_task(rows).max()) < learning.next_task


def test_only_learned_tasks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    only_learned_tasks_are_found(running("domain", **PERMUTED))
    monkeypatch.setattr(supsup, "SupSup", MixesWhatIsNotLearned)
    with pytest.raises(AssertionError):
        only_learned_tasks_are_found(running("domain", **PERMUTED))


@pytest.mark.parametrize("mutant", [BinarisesTheMixture, KeepsOldMixture])
def test_wrong_mixtures_are_caught(mutant: type[SupSup], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supsup, "SupSup", mutant)
    learning = permuted(2, selection="threshold")
    finish(learning)
    assert share_found(learning) < 0.98


def test_the_wrong_sign_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    slope = superposition.alpha_gradient
    monkeypatch.setattr(superposition, "alpha_gradient", lambda *given: -slope(*given))
    assert share_found(learned()) < 0.1, "the worst mask is chosen"


def test_with_one_task_learned_a_hidden_id_is_no_question() -> None:
    learning = running("domain", training={"iterations": 3})
    learning.run_task()
    x = images(learning)
    assert torch.equal(learning.strategy.predict(x, None), learning.strategy.predict(x, 0))


@torch.no_grad()
def test_a_hidden_id_costs_little_where_tasks_are_told_apart() -> None:
    learning = learned()
    strategy = asked(learning)
    for task in range(2):
        x = evaluated(learning, task)
        given, inferred = (strategy.predict(x, known).argmax(1) for known in (task, None))
        assert float((given == inferred).float().mean()) > 0.98


@torch.no_grad()
@pytest.mark.parametrize("inference", ["one_shot", "binary", "linear"])
def test_rows_are_pooled_as_many_at_a_time_as_asked_for(inference: str) -> None:
    learning = learned(3, extra_outputs=0)
    x = torch.cat([evaluated(learning, task)[:19] for task in range(3)])[:50]
    single = asked(learning, inference=inference).infer_task(x)
    strategy = asked(learning, inference=inference, inference_rows=4)
    chosen = strategy.infer_task(x)
    assert all(len(group.unique()) == 1 for group in chosen.split(4))
    assert any(len(group.unique()) > 1 for group in single.split(4))
    alone = [strategy.infer_task(rows) for rows in x.split(4)]
    assert torch.equal(torch.cat(alone), chosen), "no decision looks at the rows of another"


def test_the_rows_of_a_decision_are_part_of_the_results(tmp_path: Path) -> None:
    results = ResultsFolder.create(str(tmp_path / "results"), '{"name": "test"}', "0" * 16)
    for scenario, recorded in (("domain", 4), ("task", 1)):
        spec = trial("supsup", scenario, options={"inference_rows": 4})
        session = TrialSession(local_source(spec.stream, spec.seed), results.trial(spec))
        session._open()
        assert session._provenance()["inference_batch"] == recorded
    assert SupSup.inference_batch == 1


def test_decisions_are_made_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    learning, calls = learned(), 0
    forward = SupSup._forward

    def counted(self: SupSup, vector: Tensor, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return forward(self, vector, x)

    monkeypatch.setattr(SupSup, "_forward", counted)
    asked(learning).infer_task(images(learning, 300))
    assert calls == 1
    monkeypatch.setattr(supsup, "INFERENCE_NUMBERS", 100 * method(learning).masked.numel)
    asked(learning).infer_task(images(learning, 300))
    assert calls == 1 + 3


@torch.no_grad()
def test_masks_that_do_not_fit_into_memory_at_once_are_unpacked_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    learning = learned(3, extra_outputs=0)
    x = torch.cat([evaluated(learning, task)[:20] for task in range(3)])
    whole = asked(learning).infer_task(x)
    monkeypatch.setattr(supsup, "INFERENCE_NUMBERS", 2 * method(learning).masked.numel)
    method(learning)._unpacked = None
    assert [len(group) for group in method(learning)._vectors()] == [2, 1]
    assert torch.equal(asked(learning).infer_task(x), whole)


@pytest.mark.parametrize(
    ("model", "stream"),
    [
        ({"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "batch"}, {}),
        ({"name": "cnn", "channels": [4, 8], "hidden": 16, "norm": "group"}, {}),
        ({"name": "resnet32", "width": 2}, {"pad": 4}),
        ({"name": "resnet18", "width": 2}, {"pad": 4}),
    ],
)
@pytest.mark.parametrize("inference", ["one_shot", "binary"])
def test_other_networks_infer_tasks_too(
    model: dict[str, Any], stream: dict[str, Any], inference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TINY, "model", {})
    options = {"inference": inference, "extra_outputs": 8}
    learning = running("class", model=model, stream={**stream, "tasks": 2}, options=options, training={"iterations": 3})
    finish(learning)
    x = images(learning, 6)
    whole = learning.strategy.predict(x, None)
    alone = torch.cat([learning.strategy.predict(row, None) for row in x.split(1)])
    assert torch.allclose(whole, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"objective": "G", "extra_outputs": 0}, "set extra_outputs, such as 90"),
        ({"objective": "G", "inference": "linear"}, "linear inference compares entropies"),
        ({"kept_fraction": 0.0}, "greater than 0"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        trial("supsup", options=options)


def test_a_softmax_over_several_tasks_is_refused() -> None:
    with pytest.raises(SpecError, match="its own task's head only"):
        running("class", training={"active_logits": "seen"})


@torch.no_grad()
def test_linear_inference_divides_entropies_by_those_of_a_tasks_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five classes of .9 and four of .025 against two of .93 and .07, superfluous units pushed down."""
    stream = {"tasks": 2, "first_task": 5, "classes_per_task": 2}
    strategy = method(running("class", stream=stream, options={"inference": "linear", "extra_outputs": 3}))
    low = torch.full((3,), -50.0)
    wide = torch.cat([torch.tensor([0.9, 0.025, 0.025, 0.025, 0.025]).log(), low])
    narrow = torch.cat([torch.tensor([0.93, 0.07]).log(), low, low])
    monkeypatch.setattr(SupSup, "_logits", lambda self, task, x: (wide, narrow)[task].expand(len(x), -1))
    strategy.bits = [torch.empty(0)] * 2
    assert strategy.infer_task(torch.zeros(1)).tolist() == [0]
    monkeypatch.setattr("raycl.strategies.supsup.log_largest_entropy", lambda sizes: [0.0] * len(sizes))
    assert strategy.infer_task(torch.zeros(1)).tolist() == [1], "the mutant: entropies as they are"


def test_tasks_of_one_class_are_refused_where_the_id_is_hidden() -> None:
    one = {"tasks": 3, "first_task": 1, "classes_per_task": 2}
    with pytest.raises(MethodError, match=r"supsup: a network of one class .*got tasks of 1, 2, 2 classes"):
        running("class", stream=one)
    running("task", stream=one)


@pytest.mark.parametrize("inference", ["linear", "one_shot", "binary"])
def test_a_task_answers_while_it_is_learned_as_it_does_once_it_has_ended(inference: str) -> None:
    learning = permuted(3, inference=inference)
    learning.run_task()
    learning.run_task()
    strategy, x = method(learning), evaluated(learning, 1)
    masks, scores = strategy.bits.pop(), strategy.scores
    normed = strategy._normed.pop()
    assert not scores
    strategy._unpacked = None
    strategy.train(False)
    with torch.no_grad():
        without = strategy.predict(x, None)
        strategy.scores = {
            name: mask.float() - 0.5 for name, mask in strategy.masked.split(strategy.masked.unpack(masks)).items()
        }
        strategy.config = strategy.config.model_copy(update={"selection": "threshold"})
        during = strategy.predict(x, None)
        assert len(strategy.bits) == 1
        strategy.scores = {}
        strategy.bits.append(masks)
        strategy._normed.append(normed)
        strategy._unpacked = None
        assert torch.equal(strategy.predict(x, None), during)
    assert not torch.equal(without, during)
