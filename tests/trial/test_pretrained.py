"""Pretrained backbones in sweeps: whose trial it is, where training starts, and the way from a sweep to a file."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mistakes import raycl, refused
from pretraining import made, weights_file
from strategies.every_method import tensors
from support import finish, held_by, trial
from trial.starting import FROM_START, first, learned_from, parsed, run, started, text

from raycl.catalog import catalog
from raycl.errors import DataError, SpecError
from raycl.models.weights import weights_hash, write_weights
from raycl.results.reading import read_trials
from raycl.results.tables import comparison
from raycl.spec.sweep import SweepSpec
from raycl.strategies.registry import STRATEGIES
from raycl.streams.contents import told
from raycl.trial.pretrained import pinned


class TestIdentity:
    """Another file makes other trials; another name does not."""

    @pytest.mark.parametrize("place", ["weights", "encode"])
    def test_the_content_counts_and_not_the_name(self, tmp_path: Path, place: str) -> None:
        weights_file(tmp_path, "a.safetensors")
        weights_file(tmp_path, "b.safetensors")
        one = pinned(parsed(**{place: "a.safetensors"}), tmp_path)
        same = pinned(parsed(**{place: "b.safetensors"}), tmp_path)
        assert first(one).hash == first(same).hash
        weights_file(tmp_path, "a.safetensors", seed=9)
        other = pinned(parsed(**{place: "a.safetensors"}), tmp_path)
        assert first(other).hash != first(one).hash
        assert other.hash != one.hash, "and a folder of the one refuses the other"
        assert first(parsed()).hash not in (first(one).hash, first(other).hash)

    def test_trials_without_weights_are_named_as_before_there_were_any(self) -> None:
        spec = first(parsed())
        known = ("weights", "weights_hash", "encode")
        older = spec.model_copy(
            update={
                "model": {key: value for key, value in spec.model.items() if key not in known},
                "stream": {key: value for key, value in spec.stream.items() if key not in known},
            }
        )
        assert older.hash == spec.hash
        assert pinned(parsed(), None).hash == parsed().hash

    def test_a_pinned_sweep_survives_its_folder(self, tmp_path: Path) -> None:
        sweep = pinned(parsed(weights=weights_file(tmp_path)), tmp_path)
        again = SweepSpec.loads(sweep.dumps(), catalog())
        assert (again.hash, first(again).hash) == (sweep.hash, first(sweep).hash)
        assert first(again).model["weights_hash"] == weights_hash("mlp.safetensors", tmp_path)

    def test_kept_checkpoints_change_no_name(self) -> None:
        kept, dropped = parsed(keep=True), parsed()
        assert (kept.hash, first(kept).hash) == (dropped.hash, first(dropped).hash)
        assert first(kept).keep_checkpoint
        assert not first(dropped).keep_checkpoint
        assert not kept.trial(kept.entries[0], {}, 0, "search").keep_checkpoint

    def test_every_choice_is_pinned(self, tmp_path: Path) -> None:
        names = [weights_file(tmp_path, f"{seed}.safetensors", seed) for seed in (0, 1)]
        searched = text(weights="{choice: [0.safetensors, 1.safetensors]}") + "search: {trials: 2}\n"
        sweep = pinned(SweepSpec.parse(searched, catalog()), tmp_path)
        assert set(sweep.pins) == set(names)
        points = [{"model.weights": index} for index in names]
        assert len({sweep.trial(sweep.entries[0], point, 0, "search").hash for point in points}) == 2


class TestBeforeAnythingRuns:
    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="were not found"):
            pinned(parsed(encode="none.safetensors"), tmp_path)

    def test_a_file_that_does_not_fit_the_model(self, tmp_path: Path) -> None:
        weights = made()
        tensors = {name: tensor for name, tensor in weights.tensors.items() if name != "1.bias"}
        write_weights(tmp_path / "less.safetensors", replace(weights, tensors=tensors))
        for place in ("weights", "encode"):
            with pytest.raises(DataError, match=r"missing: 1\.bias"):
                pinned(parsed(**{place: "less.safetensors"}), tmp_path)

    def test_a_hash_in_the_file_is_held_to(self, tmp_path: Path) -> None:
        name = weights_file(tmp_path)
        held = f"{name}, weights_hash: {weights_hash(name, tmp_path)}"
        pinned(parsed(weights=held), tmp_path)
        weights_file(tmp_path, seed=1)
        with pytest.raises(DataError, match="must be the file with which this work began"):
            pinned(parsed(weights=held), tmp_path)

    def test_a_method_that_makes_its_own_weights(self) -> None:
        with pytest.raises(SpecError, match=r"makes its own weights, and cannot start from model\.weights"):
            SweepSpec.parse(text(weights="x.safetensors").replace("naive", "supsup"), catalog())

    def test_check_needs_no_file_but_knows_the_names(self, tmp_path: Path) -> None:
        file = tmp_path / "start.yaml"
        file.write_text(text(weights="none.safetensors", encode="none.safetensors"))
        assert raycl("check", file).exit_code == 0
        file.write_text(text(weights="imagnet"))
        line = refused("check", file, code=2)
        assert "start.yaml:3:43: model.weights: unknown weights 'imagnet'; did you mean 'imagenet'?" in line
        file.write_text(text(encode="imagnet"))
        assert ": stream.encode.weights: unknown weights" in refused("check", file, code=2)


def test_the_shipped_backbone_can_be_exported() -> None:
    file = Path(__file__).parents[2] / "docs" / "backbone_cifar100.yaml"
    sweep = SweepSpec.load(file, catalog())
    (entry,) = sweep.entries
    assert first(sweep).keep_checkpoint
    assert f"raycl export results/{sweep.name} {entry.alias} DATA/weights/" in file.read_text()


def searched(**parts: Any) -> SweepSpec:
    """The sweep with something to search."""
    found = text(**parts).replace("naive: {}", "naive: {training.learning_rate: {loguniform: [1e-3, 1e-2]}}")
    return SweepSpec.parse(found + "search: {trials: 2}\n", catalog())


class TestSeen:
    """Weights that have learned from the stream's own data set know its validation rows and its tasks to come."""

    @pytest.fixture
    def digits(self, tmp_path: Path) -> str:
        stream = {"name": "split", "dataset": "digits", "tasks": 1}
        contents = told(held_by(stream, 0, None))
        return learned_from(tmp_path, "digits.safetensors", stream=stream, contents=contents)

    @pytest.mark.parametrize(("place", "option"), [("weights", "model"), ("encode", "stream.encode")])
    def test_refused_in_a_search_unless_asked_for(
        self, tmp_path: Path, digits: str, place: str, option: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        rule = rf"{option}.weights: 'digits.safetensors' has learned from 10 of 10 classes of data set 'digits'"
        with pytest.raises(DataError, match=rf"{rule}.*say {option}.allow_seen: true"):
            pinned(searched(**{place: digits}), tmp_path)
        with caplog.at_level(logging.WARNING):
            pinned(searched(**{place: f"{digits}, allow_seen: true"}), tmp_path)
            assert "10 of 10 classes of data set 'digits'" in caplog.text

    @pytest.mark.parametrize("place", ["weights", "encode"])
    def test_told_where_nothing_is_searched(
        self, tmp_path: Path, digits: str, place: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            sweep = pinned(parsed(**{place: digits}), tmp_path)
            pinned(sweep, tmp_path)
        assert caplog.text.count("has learned from") == 1

    def test_weights_of_other_data_pass(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        other = [
            learned_from(tmp_path, "a.safetensors", data="somewhere"),
            learned_from(tmp_path, "b.safetensors", stream={"name": "split", "dataset": "mnist"}),
        ]
        with caplog.at_level(logging.WARNING):
            for name in other:
                pinned(searched(weights=name), tmp_path)
        assert caplog.text == ""

    def test_classes_that_the_stream_does_not_hold(self, tmp_path: Path) -> None:
        """Half the classes pretrain, the other half make the stream: the usual way to begin, and no leak."""
        half = {"name": "split", "dataset": "digits", "class_order": [5, 6, 7, 8, 9], "tasks": 1}
        name = learned_from(tmp_path, "half.safetensors", stream=half, contents=told(held_by(half, 0, None)))
        sweep = searched(weights=name)
        own = text(weights=name).replace("tasks: 5", "tasks: 5, class_order: [0, 1, 2, 3, 4]")
        pinned(SweepSpec.parse(own + "search: {trials: 2}\n", catalog()), tmp_path)
        with pytest.raises(DataError, match="5 of 10 classes"):
            pinned(sweep, tmp_path)

    def test_the_permission_names_no_trial(self, tmp_path: Path, digits: str) -> None:
        for place in ("weights", "encode"):
            plain = pinned(parsed(**{place: digits}), tmp_path)
            allowed = pinned(parsed(**{place: f"{digits}, allow_seen: true"}), tmp_path)
            assert first(plain).hash == first(allowed).hash
            assert plain.hash == allowed.hash

    @pytest.mark.parametrize("place", ["weights", "encode"])
    def test_every_result_says_so(self, tmp_path: Path, digits: str, place: str) -> None:
        sweep = pinned(parsed(**{place: digits}), tmp_path)
        run(tmp_path / "results", sweep, tmp_path)
        rows = read_trials(tmp_path / "results").to_pylist()
        assert {json.loads(row["provenance"])["weights_seen"] for row in rows} == {
            "10 of 10 classes of data set 'digits'"
        }
        assert "had learned from 10 of 10 classes of data set 'digits'" in str(comparison(tmp_path / "results"))


class TestStart:
    def test_training_starts_from_the_file_and_goes_on(self, tmp_path: Path) -> None:
        name, weights = weights_file(tmp_path), made()
        running = started(trial("naive", model={"hidden": [12], "weights": name}), tmp_path)
        for key, tensor in running.strategy.network.backbone.state_dict().items():
            assert torch.equal(tensor, weights.tensors[key])
        running.run_task()
        moved = running.strategy.network.backbone.state_dict()
        assert not torch.equal(moved["1.weight"], weights.tensors["1.weight"])

    def test_heads_are_drawn_as_without_weights(self, tmp_path: Path) -> None:
        name = weights_file(tmp_path)
        heads = []
        for weights in (None, name):
            running = started(trial("naive", model={"hidden": [12], "weights": weights}), tmp_path)
            running.strategy.grow(0)
            heads.append(running.strategy.network.head.weight)
        assert torch.equal(*heads)

    @pytest.mark.parametrize("strategy", [name for name in STRATEGIES.names() if STRATEGIES.get(name).pretrained])
    def test_every_method_that_can_starts_from_the_file(self, tmp_path: Path, strategy: str) -> None:
        name, start = weights_file(tmp_path), made().tensors["1.weight"]
        scenario = "class" if "class" in STRATEGIES.get(strategy).scenarios else "task"
        model = {"hidden": [12], "weights": name}
        running = started(trial(strategy, scenario, model=model, options=FROM_START.get(strategy, {})), tmp_path)
        running.strategy.grow(0)
        weights = [value for value in tensors(running.strategy.state_dict()).values() if value.shape == start.shape]
        assert any(torch.equal(value, start) for value in weights)

    @pytest.mark.parametrize("strategy", FROM_START)
    def test_what_is_frozen_from_the_start_stays_as_it_is_in_the_file(self, tmp_path: Path, strategy: str) -> None:
        name, start = weights_file(tmp_path), made().tensors["1.weight"]
        scenario = "class" if "class" in STRATEGIES.get(strategy).scenarios else "task"
        model = {"hidden": [12], "weights": name}
        running = started(trial(strategy, scenario, model=model, options=FROM_START[strategy]), tmp_path)
        finish(running)
        weights = [value for value in tensors(running.strategy.state_dict()).values() if value.shape == start.shape]
        assert any(torch.equal(value, start) for value in weights)

    def test_a_changed_file_ends_the_trial_before_it_starts(self, tmp_path: Path) -> None:
        name = weights_file(tmp_path)
        model = {"hidden": [12], "weights": name, "weights_hash": weights_hash(name, tmp_path)}
        started(trial("naive", model=model), tmp_path)
        weights_file(tmp_path, seed=1)
        with pytest.raises(DataError, match="must be the file with which this work began"):
            started(trial("naive", model=model), tmp_path)


class TestFeatures:
    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_memory_is_charged_as_features(self, tmp_path: Path, dtype: str) -> None:
        stream = {"encode": {"weights": weights_file(tmp_path), "dtype": dtype}}
        running = started(trial("replay", stream=stream, memory={"capacity": 30}), tmp_path)
        rows = finish(running)
        per_row = 12 * {"float32": 4, "float16": 2}[dtype] + 16  # and the label and the task
        assert rows[-1].cost.buffer_bytes == 30 * per_row
        assert rows[-1].correct.sum() > 0

    def test_rows_of_the_memory_are_the_features(self, tmp_path: Path) -> None:
        stream = {"encode": {"weights": weights_file(tmp_path)}}
        running = started(trial("replay", stream=stream, memory={"capacity": 30}), tmp_path)
        running.run_task()
        part = running._source.part(0, "train")
        held = running.strategy.memory.read(torch.arange(30))["image"].flatten(1)
        known = torch.tensor(part.images[part.rows]).flatten(1)
        assert held.dtype == torch.float32
        assert all((row == known).all(1).any() for row in held)

    @pytest.mark.parametrize("normalize", ["unit", "none", "mean_std"])
    def test_features_are_not_scaled_as_pixels(self, tmp_path: Path, normalize: str) -> None:
        encode = {"weights": weights_file(tmp_path)}
        stream = {"encode": encode, "tasks": 1, "classes_per_task": 10, "normalize": normalize}
        running = started(trial("naive", stream=stream), tmp_path)
        images = torch.tensor(running._source.part(0, "train").images)
        before = images.clone()
        x = running.strategy.context.normalize(images)
        assert torch.equal(images, before), "the shared array is left alone"
        assert x.isfinite().all()
        if normalize != "mean_std":
            assert torch.equal(x, images)
        else:
            alive = images.flatten(1).std(0) > 0
            assert x.flatten(1)[:, alive].mean(0).abs().max() < 1e-3
            assert (x.flatten(1)[:, alive].std(0) - 1).abs().max() < 1e-2

    def test_a_restored_trial_equals_an_uninterrupted_one(self, tmp_path: Path) -> None:
        spec = trial("replay", stream={"encode": {"weights": weights_file(tmp_path), "dtype": "float16"}})
        whole, running = started(spec, tmp_path), started(spec, tmp_path)
        finish(whole)
        running.run_task()
        resumed = started(spec, tmp_path)
        resumed.load_state_dict(running.state_dict())
        finish(resumed)
        pairs = zip(whole.strategy.network.parameters(), resumed.strategy.network.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
