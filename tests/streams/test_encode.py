"""Streams of features: a frozen backbone goes over a data set once, and its cache is never wrong."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretraining import weights_file
from pydantic import ValidationError
from support import local_source, outline_of

from raycl.errors import DataError
from raycl.models.weights import backbone, load_weights, weights_hash
from raycl.streams import encode
from raycl.streams.datasets import Images
from raycl.streams.registry import STREAMS
from raycl.streams.source import LocalSource, load_images

SPLIT = {"name": "split", "dataset": "digits", "tasks": 5}
SEQUENCE = {"name": "sequence", "parts": ["digits[0:5]", "digits[5:8]", "digits[8:10]"]}


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test computes, or reads, its own features."""
    monkeypatch.setattr(encode, "_encoded", {})


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that went through a backbone, call by call."""
    rows: list[int] = []
    features = encode.FeatureEncoder._features

    def counted(self: encode.FeatureEncoder, network: torch.nn.Module, images: np.ndarray) -> np.ndarray:
        rows.append(len(images))
        return features(self, network, images)

    monkeypatch.setattr(encode.FeatureEncoder, "_features", counted)
    return rows


def stream(root: Path, name: str = "mlp.safetensors", base: dict[str, Any] = SPLIT, **options: Any) -> LocalSource:
    return local_source({**base, "encode": {"weights": name, **options}}, 0, root)


def forget() -> None:
    encode._encoded.clear()


def all_features(source: LocalSource) -> np.ndarray:
    return np.concatenate([source.part(0, split).images for split in ("train", "test")])


def cache_files(root: Path) -> list[Path]:
    return sorted((root / "features").iterdir())


def expected_features(root: Path, name: str) -> np.ndarray:
    """Straight from the definition: the normalised training images through the backbone."""
    images = torch.tensor(load_images("digits", None).train_images)
    with torch.no_grad():
        return backbone(load_weights(name, root), name).eval()((images / 255 - 0.25) / 0.5).numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("base", [SPLIT, SEQUENCE], ids=["split", "sequence"])
def test_images_are_the_backbones_features(tmp_path: Path, base: dict[str, Any]) -> None:
    name = weights_file(tmp_path)
    source, plain = stream(tmp_path, name, base), local_source(base, 0)
    expected = expected_features(tmp_path, name)
    assert source.layout.image_shape == (12, 1, 1)
    assert source.layout.dtype == "float32"
    assert source.layout.classes == plain.layout.classes
    for task in range(source.layout.num_tasks):
        part, pixels = source.part(task, "train"), plain.part(task, "train")
        assert np.array_equal(part.rows, pixels.rows)
        assert np.array_equal(part.labels, pixels.labels)
        assert not part.images.flags.writeable
        np.testing.assert_allclose(part.images[part.rows, :, 0, 0], expected[part.rows], atol=1e-5)


def check_preprocessing(root: Path) -> None:
    name = weights_file(root)
    part = stream(root, name).part(0, "train")
    np.testing.assert_allclose(part.images[:, :, 0, 0], expected_features(root, name), atol=1e-5)


def test_another_normalisation_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode.FeatureEncoder, "_prepared", lambda self, images: images.float() / 255)
    with pytest.raises(AssertionError):
        check_preprocessing(tmp_path)


def test_features_do_not_depend_on_who_shares_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights_file(tmp_path)
    whole = all_features(stream(tmp_path))
    forget()
    cache_files(tmp_path)[0].unlink()
    monkeypatch.setattr(encode, "ENCODED_AT_ONCE", 7)
    np.testing.assert_allclose(all_features(stream(tmp_path)), whole, atol=1e-5)


class TestCache:
    def test_cached_equals_computed_and_nothing_is_computed_twice(self, tmp_path: Path, computed: list[int]) -> None:
        weights_file(tmp_path)
        first = stream(tmp_path)
        assert computed == [1501, 296]
        assert stream(tmp_path).part(0, "train").images is first.part(0, "train").images, "one copy in a process"
        forget()
        again = stream(tmp_path)
        assert len(computed) == 2
        assert np.array_equal(all_features(again), all_features(first))
        assert again.layout == first.layout

    def test_without_a_data_root_nothing_is_written(self, tmp_path: Path) -> None:
        file = tmp_path / weights_file(tmp_path)
        local_source({**SPLIT, "encode": {"weights": str(file)}}, 0)
        assert list(tmp_path.iterdir()) == [file]

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[:-40],
            lambda data: data[:100],
            lambda data: b"",
            lambda data: data[:-2] + bytes([data[-2] ^ 1]) + data[-1:],
        ],
        ids=["cut", "head", "empty", "bit"],
    )
    def test_a_damaged_file_is_computed_again(
        self, tmp_path: Path, computed: list[int], damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        weights_file(tmp_path)
        whole = all_features(stream(tmp_path))
        (file,) = cache_files(tmp_path)
        data = file.read_bytes()
        file.write_bytes(damage(data))
        forget()
        with caplog.at_level(logging.WARNING):
            assert np.array_equal(all_features(stream(tmp_path)), whole)
        assert f"{file} is damaged" in caplog.text
        assert len(computed) == 4
        assert file.read_bytes() == data

    def test_other_weights_sizes_and_types_have_other_files(self, tmp_path: Path, computed: list[int]) -> None:
        weights_file(tmp_path)
        weights_file(tmp_path, "other.safetensors", seed=1)
        sources = [stream(tmp_path), stream(tmp_path, "other.safetensors"), stream(tmp_path, dtype="float16")]
        assert len(cache_files(tmp_path)) == 3
        assert len({source.layout.split_hash for source in sources}) == 3
        assert len({source.part(0, "train").base for source in sources}) == 3
        assert sources[2].layout.dtype == "float16"
        np.testing.assert_allclose(all_features(sources[2]), all_features(sources[0]), atol=1e-2)
        weights_file(tmp_path, "renamed.safetensors")
        stream(tmp_path, "renamed.safetensors")
        assert len(computed) == 6, "a name is nothing, the content is all"

    def test_a_folder_that_cannot_be_written_is_done_without(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        weights_file(tmp_path)
        (tmp_path / "features").write_text("in the way")
        with caplog.at_level(logging.WARNING):
            assert all_features(stream(tmp_path)).shape == (1797, 12, 1, 1)
        assert "cannot be cached" in caplog.text

    def test_processes_that_compute_the_same_do_not_harm_each_other(self, tmp_path: Path) -> None:
        weights_file(tmp_path)
        with multiprocessing.get_context("fork").Pool(4) as pool:
            sums = pool.map(_race, [tmp_path] * 8, chunksize=1)
        assert len(set(sums)) == 1
        assert len(cache_files(tmp_path)) == 1, "nothing half-made is left"
        forget()
        assert _race(tmp_path) == sums[0]


def _race(root: Path) -> float:
    encode._encoded.clear()
    for file in root.glob("features/*.safetensors"):
        file.unlink(missing_ok=True)
    return float(all_features(stream(root)).sum())


class TestRefusals:
    @pytest.mark.parametrize("name", ["permuted", "rotated"])
    def test_streams_that_change_pixels(self, name: str) -> None:
        block = f'{{"name": "{name}", "encode": {{"weights": "imagenet"}}}}'
        with pytest.raises(ValidationError, match=f"stream '{name}' changes pixels"):
            STREAMS.get(name).Config.model_validate_json(block)

    @pytest.mark.parametrize("option", ['"pad": 2', '"augment": "flip"'])
    def test_pixels_that_are_not_there(self, option: str) -> None:
        with pytest.raises(ValidationError, match="pad and augment change pixels"):
            STREAMS.get("split").Config.model_validate_json(
                f'{{"name": "split", {option}, "encode": {{"weights": "imagenet"}}}}'
            )

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"none.safetensors.* were not found"):
            stream(tmp_path, "none.safetensors")

    def test_weights_that_have_changed(self, tmp_path: Path) -> None:
        name = weights_file(tmp_path)
        pinned = weights_hash(name, tmp_path)
        stream(tmp_path, name, weights_hash=pinned)
        weights_file(tmp_path, seed=5)
        with pytest.raises(DataError, match="must be the file with which this work began"):
            stream(tmp_path, name, weights_hash=pinned)

    def test_colour_for_a_grey_backbone(self, tmp_path: Path) -> None:
        pixels, labels = np.zeros((2, 3, 8, 8), np.uint8), np.arange(2)
        images = Images(pixels, labels, pixels.copy(), labels.copy())
        config = encode.EncodeConfig(weights=weights_file(tmp_path))
        with pytest.raises(DataError, match=r"for images of 1 channels \(got 3\)"):
            encode.FeatureEncoder(config, tmp_path).encoded(images)


def test_what_is_known_without_the_weights() -> None:
    assert outline_of({**SPLIT, "encode": {"weights": "file.safetensors"}}) is None
    outline = outline_of({**SPLIT, "encode": {"weights": "imagenet", "dtype": "float16"}})
    assert outline is not None
    assert outline.image_shape == (512, 1, 1)
    assert outline.base_bytes == 1797 * 512 * 2
