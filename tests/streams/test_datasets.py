"""Data sets: one contract over every registry entry, real counts, and clear errors for missing and broken files."""

from __future__ import annotations

import gzip
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from streams.image_sets import pixels_of, write_mnist, write_set
from support import local_source

from raycl.errors import DataError, PathError
from raycl.streams.datasets import DIGITS, Images, fit_for_streams
from raycl.streams.registry import DATASETS
from raycl.streams.source import load_images

PRESENT = ("digits", "mnist", "parquet:cifar10", "parquet:cifar100?label=fine_label")


@pytest.mark.parametrize("name", dict.fromkeys([*DATASETS.names(), *PRESENT]))
class TestEveryDataSet:
    def test_info_needs_no_data(self, name: str) -> None:
        info = DATASETS.get(name).info
        assert name in DATASETS
        assert (info is None) == name.startswith("parquet")
        if info is not None:
            assert info.train_size > info.test_size >= info.num_classes

    def test_images_are_fit_for_a_stream_and_as_announced(self, name: str, data_root: Path) -> None:
        dataset = DATASETS.get(name)
        if name not in PRESENT:
            pytest.skip(f"{name} is not among the data sets of the tests")
        images = load_images(name, data_root)
        fit_for_streams(images, name)
        if dataset.info is not None:
            assert images.image_shape == dataset.info.image_shape
            assert images.num_classes == dataset.info.num_classes
            assert len(images.train_images) == dataset.info.train_size
            assert len(images.test_images) == dataset.info.test_size
        for array in (images.train_images, images.train_labels, images.test_images, images.test_labels):
            assert not array.flags.writeable

    def test_a_missing_set_names_the_path_and_the_remedy(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if name == "digits":
            pytest.skip("comes with scikit-learn")
        monkeypatch.delenv("RAYCL_DOWNLOAD", raising=False)
        with pytest.raises(DataError, match=rf"{tmp_path}.*(RAYCL_DOWNLOAD=1|put them there)"):
            DATASETS.get(name).load(tmp_path)
        with pytest.raises(DataError, match="--data-root"):
            DATASETS.get(name).load(None)


def test_digits_are_stratified_and_scaled() -> None:
    images = DIGITS.load(None)
    assert (int(images.train_images.min()), int(images.train_images.max())) == (0, 255)
    assert len(np.unique(images.train_images)) == 17
    train, test = np.bincount(images.train_labels), np.bincount(images.test_labels)
    assert np.array_equal(test, (train + test) // 6)
    again = DIGITS.load(None)
    assert again.fingerprint == images.fingerprint
    seen = {image.tobytes() for image in images.train_images}
    assert sum(image.tobytes() in seen for image in images.test_images) == 0


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    source, images = load_digits(), DIGITS.load(None)
    expected = np.round(source.images * (255 / 16)).astype(np.uint8)
    pairs = zip(expected, source.target.tolist(), strict=True)
    ours = zip(
        np.concatenate([images.train_images, images.test_images])[:, 0],
        [*images.train_labels.tolist(), *images.test_labels.tolist()],
        strict=True,
    )
    assert sorted((image.tobytes(), label) for image, label in ours) == sorted((i.tobytes(), n) for i, n in pairs)


@pytest.mark.parametrize("channels", [1, 3])
def test_moments_are_counted_in_little_memory(channels: int) -> None:
    """The same numbers as from all pixels at once, to the last bit, without widening them all."""
    pixels = pixels_of(3000, (channels, 28, 28))
    images = Images(pixels, np.arange(3000) % 10, pixels[:10], np.arange(10))
    values = np.arange(256) / 255
    counts = np.stack([np.bincount(pixels[:, channel].ravel(), minlength=256) for channel in range(channels)])
    share = counts / counts.sum(axis=1, keepdims=True)
    tracemalloc.start()
    found = images.moments
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(found[0], share @ values)
    assert np.array_equal(found[1], share @ values**2)
    assert peak < 4 * pixels.nbytes, "whole numbers of eight bytes for every pixel would be eight times as much"


def test_a_set_is_read_once_per_process() -> None:
    assert load_images("digits", None) is load_images("digits", None)


def test_the_fingerprint_sees_every_pixel_and_label() -> None:
    base = DIGITS.load(None)
    pixels, labels = base.train_images.copy(), base.train_labels.copy()
    pixels[7, 0, 3, 3] ^= 1
    labels[7] = (labels[7] + 1) % 10
    others = [
        Images(pixels, base.train_labels, base.test_images, base.test_labels),
        Images(base.train_images, labels, base.test_images, base.test_labels),
    ]
    assert len({images.fingerprint for images in [base, *others]}) == 3


class TestDownload:
    """A stand-in for torchvision's class, for tests never download."""

    def stand_in(self, monkeypatch: pytest.MonkeyPatch, data_root: Path, fails: bool = False) -> list[Path]:
        asked: list[Path] = []
        genuine = torchvision.datasets.MNIST

        def mnist(root: str, train: bool, download: bool) -> Any:
            if not download:
                return genuine(root=root, train=train, download=False)
            if fails:
                raise RuntimeError("no route to host")
            asked.append(Path(root))
            shutil.copytree(data_root / "MNIST" / "raw", Path(root) / "MNIST" / "raw", dirs_exist_ok=True)
            return None

        monkeypatch.setattr(torchvision.datasets, "MNIST", mnist)
        monkeypatch.setenv("RAYCL_DOWNLOAD", "1")
        return asked

    def test_a_download_appears_whole_or_not_at_all(
        self, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = self.stand_in(monkeypatch, data_root)
        assert len(DATASETS.get("mnist").load(tmp_path / "new").train_images) == 60000
        assert all(root.parent == tmp_path / "new" and root.name.startswith(".MNIST-") for root in asked)
        assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["MNIST"]
        DATASETS.get("mnist").load(tmp_path / "new")
        assert len(asked) == 2

    def test_a_failed_download_leaves_nothing(
        self, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.stand_in(monkeypatch, data_root, fails=True)
        with pytest.raises(DataError, match=rf"could not be downloaded to {tmp_path}.*no route to host"):
            DATASETS.get("mnist").load(tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestPackedMnist:
    """Files as they are published, ``.gz``, in torchvision's folder: torchvision itself does not find them."""

    def pack(self, raw: Path, keep: bool, only: str = "") -> None:
        for file in [file for file in raw.iterdir() if only in file.name]:
            (raw / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            if not keep:
                file.unlink()

    @pytest.mark.parametrize(("keep", "only"), [(False, ""), (True, ""), (False, "images"), (False, "t10k")])
    def test_packed_unpacked_or_both(self, tmp_path: Path, keep: bool, only: str) -> None:
        raw = write_mnist(tmp_path)
        plain = DATASETS.get("mnist").load(tmp_path)
        self.pack(raw, keep, only)
        before = sorted(raw.iterdir())
        assert DATASETS.get("mnist").load(tmp_path).fingerprint == plain.fingerprint
        assert sorted(raw.iterdir()) == before, "the folder is left as it was"

    def test_the_files_are_what_torchvision_reads(self, tmp_path: Path) -> None:
        write_mnist(tmp_path)
        images = DATASETS.get("mnist").load(tmp_path)
        for train, pixels, labels in (
            (True, images.train_images, images.train_labels),
            (False, images.test_images, images.test_labels),
        ):
            theirs = torchvision.datasets.MNIST(root=str(tmp_path), train=train, download=False)
            assert np.array_equal(pixels[:, 0], theirs.data.numpy())
            assert np.array_equal(labels, theirs.targets.numpy())

    @pytest.mark.parametrize(
        ("head", "told"),
        [((0, 0, 9, 3), "no IDX file"), ((0, 0, 8, 1), "no IDX file"), ((0, 0, 8, 3), "bytes, not the")],
    )
    def test_a_file_of_another_format_is_named(self, tmp_path: Path, head: tuple[int, ...], told: str) -> None:
        file = write_mnist(tmp_path) / "train-images-idx3-ubyte"
        file.write_bytes(bytes(head) + file.read_bytes()[4:-1])
        with pytest.raises(DataError, match=rf"MNIST cannot be read from .*{file.name} .*{told}"):
            DATASETS.get("mnist").load(tmp_path)

    def test_torchvision_alone_finds_nothing(self, tmp_path: Path) -> None:
        self.pack(write_mnist(tmp_path), keep=False)
        with pytest.raises(RuntimeError, match="not found"):
            torchvision.datasets.MNIST(root=str(tmp_path), train=True, download=False)

    @pytest.mark.parametrize("left", [0, 10, 2000])
    def test_a_damaged_file_is_named(self, tmp_path: Path, left: int) -> None:
        raw = write_mnist(tmp_path)
        self.pack(raw, keep=False)
        file = raw / "train-images-idx3-ubyte.gz"
        file.write_bytes(file.read_bytes()[:left])
        with pytest.raises(DataError, match=f"{file} cannot be unpacked" if left else f"cannot be read from {raw}"):
            DATASETS.get("mnist").load(tmp_path)


class TestHomeFolder:
    def test_a_tilde_is_the_home_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        write_set(tmp_path / "data" / "set")
        block = {"name": "split", "dataset": "parquet:set", "tasks": 3}
        assert local_source(block, 0, Path("~/data")).layout == local_source(block, 0, tmp_path / "data").layout
        assert load_images("parquet:set", Path("~/data")) is load_images("parquet:set", tmp_path / "data")

    def test_nobodys_home_is_one_clear_error(self) -> None:
        with pytest.raises(PathError, match="~nobody-at-all/x: a leading ~ stands for a home folder"):
            load_images("digits", Path("~nobody-at-all/x"))


class TestRealMnist:
    def counts(self, data_root: Path, split: Any, **options: Any) -> list[int]:
        block = {"name": "split", "dataset": "mnist", "class_order": "fixed"}
        served = local_source(block, 0, data_root, **options)
        return [len(served.part(task, split)) for task in range(5)]

    def test_counts_per_task(self, data_root: Path) -> None:
        assert self.counts(data_root, "train", train_on="train_and_validation") == [12665, 12089, 11263, 12183, 11800]
        assert self.counts(data_root, "test") == [2115, 2042, 1874, 1986, 1983]
        parts = zip(self.counts(data_root, "train"), self.counts(data_root, "validation"), strict=True)
        assert [sum(pair) for pair in parts] == [12665, 12089, 11263, 12183, 11800]

    def test_published_mean_and_deviation(self, data_root: Path) -> None:
        layout = local_source({"name": "split", "dataset": "mnist"}, 0, data_root).layout
        assert (layout.mean[0], layout.std[0]) == pytest.approx((0.1307, 0.3081), abs=5e-5)

    def test_first_image(self, data_root: Path) -> None:
        images = load_images("mnist", data_root)
        assert images.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
        assert int(images.train_images[0].sum()) == 27525

    def test_a_truncated_file_is_named(self, data_root: Path, tmp_path: Path) -> None:
        raw = tmp_path / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for file in (data_root / "MNIST" / "raw").iterdir():
            (raw / file.name).write_bytes(file.read_bytes()[: 9000 if "labels" in file.name else 200_000])
        with pytest.raises(DataError, match=rf"MNIST cannot be read from {raw}.*remove that folder"):
            DATASETS.get("mnist").load(tmp_path)


class TestRealCifar:
    def test_parquet_subsets(self, data_root: Path) -> None:
        images = load_images("parquet:cifar10", data_root)
        assert images.image_shape == (3, 32, 32)
        assert np.bincount(images.train_labels).tolist() == [1000] * 10
        assert np.bincount(images.test_labels).tolist() == [200] * 10
        mean, _ = images.moments
        assert mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.01)

    def test_cifar10_then_slices_of_cifar100(self, data_root: Path) -> None:
        fine = "parquet:cifar100?label=fine_label"
        parts = ["parquet:cifar10", f"{fine}[0:10]", f"{fine}[10:20]"]
        served = local_source({"name": "sequence", "parts": parts, "scenario": "task"}, 0, data_root)
        assert [len(served.part(task, "test")) for task in range(3)] == [2000, 400, 400]
        assert served.part(1, "train").images is served.part(2, "train").images
        assert served.part(0, "train").base != served.part(1, "train").base
        base = load_images(fine, data_root)
        assert set(base.train_labels[served.part(2, "train").rows].tolist()) == set(range(10, 20))


class TestMixedShapes:
    def test_images_are_centred_and_grey_becomes_rgb(self, tmp_path: Path) -> None:
        write_set(tmp_path / "colour")
        served = local_source({"name": "sequence", "parts": ["digits[0:5]", "parquet:colour"]}, 0, tmp_path)
        assert served.layout.image_shape == (3, 8, 8)
        digit, colour = served.part(0, "train"), served.part(1, "train")
        original = load_images("digits", tmp_path).train_images[digit.rows[0]]
        assert np.array_equal(digit.images[digit.rows[0]], np.repeat(original, 3, axis=0))
        picture = pixels_of(12)[colour.rows[0]].transpose(2, 0, 1)
        assert np.array_equal(colour.images[colour.rows[0]][:, 1:7, 0:7], picture)
        assert int(colour.images.sum()) == int(pixels_of(12).sum())
