"""ExStream: what merging keeps (mean and number of every class), which rows it merges, and what is rehearsed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretraining import weights_file
from support import finish, local_source, trainer, trial
from torch import Tensor

from raycl.errors import MethodError, SpecError
from raycl.memory import clusters
from raycl.memory.buffer import Table, everything
from raycl.memory.clusters import Clusters
from raycl.memory.local import LocalStorage
from raycl.memory.replay import ReplayMemory
from raycl.spec.memory import MemoryConfig
from raycl.streams.task import Batch
from raycl.trial.trainer import Trainer

CLASSES, EXAMPLES = 4, 160


def memory(capacity: int, per_class: bool) -> tuple[ReplayMemory, Clusters]:
    config = MemoryConfig(capacity=capacity, unit="class" if per_class else "total")
    buffer = ReplayMemory(config, "ring", torch.Generator().manual_seed(0), LocalStorage())
    return buffer, Clusters(buffer, capacity, per_class)


def stream(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Vectors ``[EXAMPLES, 5, 1, 1]`` and labels, some classes more frequent than others."""
    random = torch.Generator().manual_seed(seed)
    label = torch.multinomial(torch.tensor([0.5, 0.3, 0.15, 0.05]), EXAMPLES, replacement=True, generator=random)
    return torch.randn(EXAMPLES, 5, 1, 1, generator=random) + label.view(-1, 1, 1, 1), label


def row(image: Tensor, label: int) -> Table:
    return {"image": image[None], "label": torch.tensor([label]), "task": torch.tensor([label // 2])}


def line(points: list[float], capacity: int) -> list[tuple[float, int]]:
    """One class on a line: place and count of every prototype, in order."""
    buffer, kept = memory(capacity, True)
    for point in points:
        kept.insert(row(torch.full((1, 1, 1), float(point)), 0))
    held = everything(buffer)
    return sorted(zip(held["image"].flatten().tolist(), held["count"].tolist(), strict=True))


# -- what merging keeps: row 13 of CONTRIBUTING's table ------------------------------------------------------------


def check_means(capacity: int, per_class: bool) -> None:
    """Weighted means are those of all examples so far, counts add up, and the memory never exceeds its capacity."""
    buffer, kept = memory(capacity, per_class)
    images, labels = stream()
    for seen, (image, label) in enumerate(zip(images, labels.tolist(), strict=True), start=1):
        kept.insert(row(image, label))
        held = everything(buffer)
        sizes = Counter(held["label"].tolist())
        assert (max(sizes.values()) if per_class else len(buffer)) <= capacity
        mine, all_mine = held["label"] == label, labels[:seen] == label
        count = held["count"][mine]
        assert int(count.sum()) == int(all_mine.sum())
        mean = (count.view(-1, 1, 1, 1) * held["image"][mine]).sum(0) / count.sum()
        assert torch.allclose(mean, images[:seen][all_mine].mean(0), atol=1e-5)
    assert int(held["count"].sum()) == EXAMPLES


@pytest.mark.parametrize(("capacity", "per_class"), [(1, True), (2, True), (6, True), (4, False), (20, False)])
def test_every_class_keeps_its_mean_and_its_number(capacity: int, per_class: bool) -> None:
    check_means(capacity, per_class)


def unweighted(rows: Table, right: Callable[[Table], Table] = clusters.weighted_mean) -> Table:
    return {**right(rows), "image": rows["image"].mean(0, keepdim=True)}


def with_itself(distances: Tensor) -> tuple[int, int]:
    first, second = divmod(int(distances.clone().fill_diagonal_(0).argmin()), len(distances))
    return first, second


def forgetful(rows: Table, right: Callable[[Table], Table] = clusters.weighted_mean) -> Table:
    return {**right(rows), "count": rows["count"][:1]}


@pytest.mark.parametrize(
    ("name", "wrong"), [("weighted_mean", unweighted), ("weighted_mean", forgetful), ("closest", with_itself)]
)
@pytest.mark.parametrize("per_class", [True, False])
def test_the_check_finds_wrong_merges(name: str, wrong: Any, per_class: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, name, wrong)
    with pytest.raises(AssertionError):
        check_means(8, per_class)


def test_the_check_finds_merges_across_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    insert = Clusters.insert
    pooled = lambda self, row: insert(self, {**row, "label": row["label"] // 2 * 2})  # noqa: E731
    monkeypatch.setattr(Clusters, "insert", pooled)
    with pytest.raises(AssertionError):
        check_means(8, True)


def test_means_hold_for_features_in_a_trial(tmp_path: Path) -> None:
    encode = {"weights": weights_file(tmp_path)}
    spec = trial(
        "exstream", stream={"encode": encode}, options={"rehearse_every": 50}, memory={"capacity": 5, "unit": "class"}
    )
    running = Trainer(spec, local_source(spec.stream, 0, tmp_path, spec.train_on), data_root=tmp_path)
    rows = finish(running)
    held = everything(running.strategy.memory)
    for task in range(3):
        part = running._source.part(task, "train")
        for local in range(2):
            examples = torch.tensor(part.images[part.rows[part.labels == local]])
            mine = held["label"] == 2 * task + local
            count = held["count"][mine]
            assert int(count.sum()) == len(examples)
            mean = (count.view(-1, 1, 1, 1) * held["image"][mine]).sum(0) / len(examples)
            assert torch.allclose(mean, examples.mean(0), atol=1e-5)
    assert rows[-1].cost.buffer_bytes == 6 * 5 * (12 * 4 + 8 + 16), "features, count, label and task"


# -- what is merged ------------------------------------------------------------------------------------------------


def test_two_closest_rows_make_room_for_a_new_one() -> None:
    assert line([0, 1, 10, 5], capacity=3) == [(0.5, 2), (5, 1), (10, 1)]


def test_the_new_row_is_no_candidate() -> None:
    assert line([0, 1, 10, 10.25], capacity=3) == [(0.5, 2), (10, 1), (10.25, 1)]


def test_counts_weigh() -> None:
    """After 0 and 1 have become 0.5, it and 2 become (2 * 0.5 + 2) / 3."""
    assert line([0, 1, 10, 2, 20], capacity=3) == [(1, 3), (10, 1), (20, 1)]


def test_room_for_one_keeps_a_running_mean() -> None:
    assert line([0, 1, 5, 6], capacity=1) == [(3, 4)]


def by_all_pairs(capacity: int, per_class: bool) -> list[tuple[int, int, float]]:
    """The same by lists and all pairs: label, count and first number of every prototype."""
    held: list[tuple[int, int, Tensor]] = []
    for image, label in zip(*stream(), strict=True):
        own = int(label)
        sizes = Counter(name for name, _, _ in held)
        if (sizes[own] if per_class else len(held)) >= capacity:
            most = own if per_class else max(sizes, key=lambda name: sizes[name])
            group = [entry for entry in held if entry[0] == most]
            pairs = [(float((a[2] - b[2]).square().sum()), a, b) for i, a in enumerate(group) for b in group[:i]]
            _, one, other = min(pairs, key=lambda pair: pair[0])
            held = [entry for entry in held if entry is not one and entry is not other]
            count = one[1] + other[1]
            held.append((most, count, (one[1] * one[2] + other[1] * other[2]) / count))
        held.append((own, 1, image))
    return sorted((name, count, round(float(vector[0, 0, 0]), 4)) for name, count, vector in held)


def check_against_all_pairs(per_class: bool) -> None:
    buffer, kept = memory(5 if per_class else 21, per_class)
    for image, label in zip(*stream(), strict=True):
        kept.insert(row(image, int(label)))
    held = everything(buffer)
    numbers = [round(value, 4) for value in held["image"][:, 0, 0, 0].tolist()]
    ours = sorted(zip(held["label"].tolist(), held["count"].tolist(), numbers, strict=True))
    for one, other in zip(ours, by_all_pairs(5 if per_class else 21, per_class), strict=True):
        assert one[:2] == other[:2]
        assert one[2] == pytest.approx(other[2], abs=3e-4)


def test_merges_are_those_of_all_pairs() -> None:
    check_against_all_pairs(True)


def test_the_check_finds_distances_that_are_out_of_date(monkeypatch: pytest.MonkeyPatch) -> None:
    distances = clusters.squared_distances
    monkeypatch.setattr(clusters, "squared_distances", lambda images, image: distances(images, image).flip(0))
    with pytest.raises(AssertionError):
        check_against_all_pairs(True)


@pytest.mark.parametrize("per_class", [True, False])
def test_distances_are_those_of_the_rows(per_class: bool) -> None:
    buffer, kept = memory(9, per_class)
    for image, label in zip(*stream(), strict=True):
        kept.insert(row(image, int(label)))
    state = kept.state_dict()
    for label, slots in state["slots"].items():
        held = buffer.read(slots)
        assert (held["label"] == label).all()
        vectors = held["image"].flatten(1)
        expected = (vectors[:, None] - vectors[None]).square().sum(2).fill_diagonal_(float("inf"))
        assert torch.allclose(state["distances"][label], expected)


def test_in_one_buffer_the_largest_class_makes_room() -> None:
    buffer, kept = memory(4, False)
    for point, label in [(0.0, 0), (1.0, 0), (5.0, 0), (9.0, 1), (7.0, 2)]:
        kept.insert(row(torch.full((1, 1, 1), point), label))
    held = everything(buffer)
    found = sorted(zip(held["label"].tolist(), held["image"].flatten().tolist(), held["count"].tolist(), strict=True))
    assert found == [(0, 0.5, 2), (0, 5.0, 1), (1, 9.0, 1), (2, 7.0, 1)]


def test_one_buffer_must_hold_every_class() -> None:
    _, kept = memory(2, False)
    kept.insert(row(torch.zeros(1, 1, 1), 0))
    kept.insert(row(torch.zeros(1, 1, 1), 1))
    kept.insert(row(torch.ones(1, 1, 1), 1))
    with pytest.raises(MethodError, match="at least the number of classes"):
        kept.insert(row(torch.zeros(1, 1, 1), 2))


# -- what is rehearsed ---------------------------------------------------------------------------------------------


def test_the_network_sees_the_whole_memory_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    running = trainer(trial("exstream", options={"rehearse_every": 50}, memory={"capacity": 20, "batch_size": 8}))
    strategy, sizes = running.strategy, []
    loss = strategy.loss

    def watched(batch: Batch) -> dict[str, Tensor]:
        assert batch.replayed.all()
        sizes.append(len(batch))
        return loss(batch)

    monkeypatch.setattr(strategy, "loss", watched)
    rows = running.run_task()
    examples = len(running._source.part(0, "train"))
    epochs = examples // 50
    assert sizes == [7, 7, 6] * epochs
    assert rows[-1].cost.examples == examples + 20 * epochs
    assert rows[-1].cost.updates == 3 * epochs + -(-examples // 16)


@pytest.mark.parametrize("model", [{"norm": "batch"}, {"hidden": []}])
def test_it_learns_from_single_examples(model: dict[str, Any]) -> None:
    blocks: dict[str, Any] = {"model": model, "memory": {"capacity": 8, "unit": "class", "batch_size": 16}}
    stream = {"boundaries": "hidden", "train_per_task": 60}
    spec = trial("exstream", options={"rehearse_every": 4}, training={"batch_size": 1}, stream=stream, **blocks)
    rows = finish(trainer(spec))
    assert rows[-1].correct.sum() / rows[-1].total.sum() > 0.6


@pytest.mark.parametrize("memory", [{"selection": "reservoir"}, {"unit": "task"}])
def test_a_memory_that_merges_takes_no_selection(memory: dict[str, str]) -> None:
    with pytest.raises(SpecError, match=rf"memory\.{next(iter(memory))}: exstream merges rows"):
        trainer(trial("exstream", memory=memory))


def test_fewer_rows_than_classes_are_refused_before_anything_is_learned() -> None:
    with pytest.raises(SpecError, match=r"memory\.capacity: .* number of classes; .*\(got 5\)"):
        trainer(trial("exstream", memory={"capacity": 5}))
    trainer(trial("exstream", memory={"capacity": 6}))
    trainer(trial("exstream", memory={"capacity": 1, "unit": "class"}))
    trainer(trial("exstream", "domain", memory={"capacity": 2}))
