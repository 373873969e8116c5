"""The backbone of a finished trial as pretrained weights: written, read, refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from mistakes import raycl, refused
from pretraining import weights_file
from support import finish, held_by, local_source
from trial.starting import learned_from, parsed, run, started, text

from raycl.catalog import catalog
from raycl.models.weights import load_weights, weights_hash
from raycl.results.store import ResultsFolder
from raycl.results.tables import comparison
from raycl.spec.options import EncodeConfig
from raycl.spec.sweep import SweepSpec
from raycl.streams.contents import Content, seen
from raycl.streams.encode import FeatureEncoder
from raycl.streams.source import load_images
from raycl.trial.pretrained import pinned


class TestExport:
    """From a sweep on digits to a file, and from the file to other sweeps."""

    def test_end_to_end(self, tmp_path: Path) -> None:
        run(tmp_path / "results", parsed(keep=True))
        file = tmp_path / "weights" / "digits.safetensors"
        shown = raycl("export", tmp_path / "results", "replay", file, "--seed", 11).output
        name = "weights/digits.safetensors"
        assert weights_hash(name, tmp_path) in shown

        weights = load_weights(name, tmp_path)
        spec = parsed().trial(parsed().entries[1], {}, 11, "final")
        whole = started(spec, None)
        finish(whole)
        network = whole.strategy.network
        for key, tensor in network.backbone.state_dict().items():
            assert torch.equal(tensor, weights.tensors[key])
        assert weights.model == {"name": "mlp", "hidden": [12], "norm": "none", "dropout": 0.0}
        assert (weights.image_shape, weights.mean, weights.std) == ((1, 8, 8), (0.0,), (1.0,))
        assert (weights.origin["strategy"], weights.origin["seed"]) == ("replay", 11)
        assert weights.origin["trial"] == spec.hash
        assert json.dumps(weights.origin)
        own = held_by(spec.stream, 11, None)
        assert seen(weights.origin, own) == "10 of 10 classes of data set 'digits'"

        images = load_images("digits", None)
        features = FeatureEncoder(EncodeConfig(weights=name), tmp_path).encoded(images).test_images[:, :, 0, 0]
        with torch.no_grad():
            expected = network.eval().backbone(whole.strategy.context.normalize(torch.tensor(images.test_images)))
        assert torch.allclose(torch.tensor(features), expected, atol=1e-5)

        for parts in ({"encode": name}, {"weights": name}):
            run(tmp_path / "-".join(parts), pinned(parsed(**parts), tmp_path), tmp_path)
            assert len(ResultsFolder.open(tmp_path / "-".join(parts)).ended()) == 4

    def test_normalisation_travels_with_the_weights(self, tmp_path: Path) -> None:
        plain = text(keep=True).replace("train_per_task", "normalize: mean_std, train_per_task")
        sweep = SweepSpec.parse(plain, catalog())
        run(tmp_path / "results", sweep)
        assert "later tasks and absent classes included" in " ".join(comparison(tmp_path / "results").notes)
        raycl("export", tmp_path / "results", "naive", tmp_path / "x.safetensors")
        weights = load_weights("x.safetensors", tmp_path)
        pixels = load_images("digits", None).train_images / 255
        assert math.isclose(weights.mean[0], pixels.mean(), rel_tol=1e-6)
        assert math.isclose(weights.std[0], pixels.std(), rel_tol=1e-6)

    def test_a_trial_of_the_later_tasks_alone_has_the_moments_of_their_first(self, tmp_path: Path) -> None:
        given = text(keep=True).replace("train_per_task", "normalize: mean_std_first_task, train_per_task")
        given = given.replace("naive: {}", "naive: {training.learning_rate: {choice: [1e-3, 1e-2]}}")
        protocol = "{first_tasks: {tasks: 2, disjoint: true}}"
        sweep = SweepSpec.parse(f"{given}search: {{protocol: {protocol}, trials: 2, seeds: [0]}}\n", catalog())
        run(tmp_path / "results", sweep)
        raycl("export", tmp_path / "results", "naive", tmp_path / "x.safetensors")
        source = local_source(sweep.trial(sweep.entries[1], {}, 10, "final").stream, 10)
        part = source.part(2, "train")
        assert math.isclose(
            load_weights("x.safetensors", tmp_path).mean[0], part.images[part.rows].mean() / 255, rel_tol=1e-6
        )

    def test_what_the_start_had_learned_from_is_learned_too(self, tmp_path: Path) -> None:
        """A chain: weights of digits, trained on on MNIST, have still seen digits."""
        stream = {"name": "split", "dataset": "mnist"}
        start = learned_from(tmp_path, "start.safetensors", stream=stream)
        sweep = pinned(parsed(weights=start, keep=True), tmp_path)
        run(tmp_path / "results", sweep, tmp_path)
        raycl("export", tmp_path / "results", "naive", tmp_path / "x.safetensors", "--data-root", tmp_path)
        weights = load_weights("x.safetensors", tmp_path)
        assert weights.origin["start"]["stream"] == stream
        assert seen(weights.origin, [Content("mnist", "", (0, 1))]) == "2 of 2 classes of data set 'mnist'"

    def test_a_dropped_checkpoint_is_told_with_the_remedy(self, tmp_path: Path) -> None:
        run(tmp_path / "results", parsed())
        line = refused("export", tmp_path / "results", "naive", tmp_path / "x.safetensors")
        assert "keep_checkpoints: true" in line
        assert not (tmp_path / "x.safetensors").exists()

    def test_other_refusals(self, tmp_path: Path) -> None:
        folder, file, sweep = tmp_path / "results", tmp_path / "x.safetensors", parsed(keep=True)
        ResultsFolder.create(folder, sweep.dumps(), sweep.hash)
        assert "has not ended" in refused("export", folder, "naive", file)
        assert "whose seeds are [10, 11] (got 3)" in refused("export", folder, "naive", file, "--seed", 3)
        assert "did you mean 'naive'?" in refused("export", folder, "naiv", file)
        assert "is called *.safetensors" in refused("export", folder, "naive", tmp_path / "x.pt")

    def test_features_are_not_exported_as_a_backbone_over_images(self, tmp_path: Path) -> None:
        sweep = pinned(parsed(encode=weights_file(tmp_path), keep=True), tmp_path)
        run(tmp_path / "results", sweep, tmp_path)
        line = refused("export", tmp_path / "results", "naive", tmp_path / "x.safetensors", "--data-root", tmp_path)
        assert "learned from features" in line
