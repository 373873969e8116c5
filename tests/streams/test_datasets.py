"""Data sets: one contract over every registry entry, real counts, and clear errors for missing and broken files."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision
from PIL import Image

from raycl.errors import DataError, UnknownName
from raycl.streams.datasets import DIGITS, Images, checked
from raycl.streams.registry import DATASETS
from raycl.streams.source import LocalSource, load_images


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def pixels_of(rows: int, shape: tuple[int, ...] = (6, 7, 3)) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (rows, *shape), dtype=np.uint8)


def write_set(folder: Path, columns: Mapping[str, Any] | None = None, **files: Mapping[str, Any]) -> None:
    """train.parquet and test.parquet of twelve images of three classes; ``files`` replace columns of one of them."""
    folder.mkdir(parents=True, exist_ok=True)
    encoded = [png(image) for image in pixels_of(12)]
    table = {
        "image": [{"bytes": value, "path": ""} for value in encoded],
        "label": [row % 3 for row in range(12)],
        **(columns or {}),
    }
    for split in ("train", "test"):
        pq.write_table(pa.table({**table, **files.get(split, {})}), folder / f"{split}.parquet")


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
        checked(images, name)
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


class TestRealMnist:
    def counts(self, data_root: Path, split: Any, **options: Any) -> list[int]:
        block = {"name": "split", "dataset": "mnist", "class_order": "fixed"}
        served = LocalSource(block, 0, data_root, **options)
        return [len(served.part(task, split)) for task in range(5)]

    def test_counts_per_task(self, data_root: Path) -> None:
        assert self.counts(data_root, "train", train_on="train_and_validation") == [12665, 12089, 11263, 12183, 11800]
        assert self.counts(data_root, "test") == [2115, 2042, 1874, 1986, 1983]
        parts = zip(self.counts(data_root, "train"), self.counts(data_root, "validation"), strict=True)
        assert [sum(pair) for pair in parts] == [12665, 12089, 11263, 12183, 11800]

    def test_published_mean_and_deviation(self, data_root: Path) -> None:
        layout = LocalSource({"name": "split", "dataset": "mnist"}, 0, data_root).layout
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
        served = LocalSource({"name": "sequence", "parts": parts, "scenario": "task"}, 0, data_root)
        assert [len(served.part(task, "test")) for task in range(3)] == [2000, 400, 400]
        assert served.part(1, "train").images is served.part(2, "train").images
        assert served.part(0, "train").base != served.part(1, "train").base
        base = load_images(fine, data_root)
        assert set(base.train_labels[served.part(2, "train").rows].tolist()) == set(range(10, 20))


class TestMixedShapes:
    def test_images_are_centred_and_grey_becomes_rgb(self, tmp_path: Path) -> None:
        write_set(tmp_path / "colour")
        served = LocalSource({"name": "sequence", "parts": ["digits[0:5]", "parquet:colour"]}, 0, tmp_path)
        assert served.layout.image_shape == (3, 8, 8)
        digit, colour = served.part(0, "train"), served.part(1, "train")
        original = load_images("digits", tmp_path).train_images[digit.rows[0]]
        assert np.array_equal(digit.images[digit.rows[0]], np.repeat(original, 3, axis=0))
        picture = pixels_of(12)[colour.rows[0]].transpose(2, 0, 1)
        assert np.array_equal(colour.images[colour.rows[0]][:, 1:7, 0:7], picture)
        assert int(colour.images.sum()) == int(pixels_of(12).sum())


class TestParquet:
    def test_pixels_and_labels_come_back(self, tmp_path: Path) -> None:
        write_set(tmp_path / "set")
        images = DATASETS.get("parquet:set").load(tmp_path)
        assert np.array_equal(images.train_images, pixels_of(12).transpose(0, 3, 1, 2))
        assert images.test_labels.tolist() == [0, 1, 2] * 4

    def test_plain_bytes_grey_images_and_no_folder(self, tmp_path: Path) -> None:
        write_set(tmp_path, {"image": [png(image) for image in pixels_of(12, (6, 7))]})
        images = DATASETS.get("parquet").load(tmp_path)
        assert np.array_equal(images.train_images[:, 0], pixels_of(12, (6, 7)))

    def test_shards_are_read_in_order(self, tmp_path: Path) -> None:
        write_set(tmp_path)
        table = pq.read_table(tmp_path / "train.parquet")
        pq.write_table(table.slice(0, 5), tmp_path / "train-00000-of-00002.parquet")
        pq.write_table(table.slice(5), tmp_path / "train-00001-of-00002.parquet")
        (tmp_path / "train.parquet").unlink()
        assert np.array_equal(DATASETS.get("parquet").load(tmp_path).train_images, pixels_of(12).transpose(0, 3, 1, 2))

    def test_columns_and_files_may_be_named(self, tmp_path: Path) -> None:
        write_set(tmp_path / "set", {"coarse": [row % 2 for row in range(12)]})
        with pytest.raises(DataError, match=r"train.parquet: the label column .* 2 columns fit .*\?label=COLUMN"):
            DATASETS.get("parquet:set").load(tmp_path)
        assert DATASETS.get("parquet:set?label=coarse&image=image").load(tmp_path).num_classes == 2
        (tmp_path / "set" / "test.parquet").rename(tmp_path / "set" / "val.parquet")
        assert DATASETS.get("parquet:set?label=label&test=val.parquet").load(tmp_path).num_classes == 3

    @pytest.mark.parametrize("name", ["parquet:", "parquet:set?labels=x", "parquet:set?label", "digits:8"])
    def test_unreadable_names(self, name: str) -> None:
        with pytest.raises(UnknownName, match=r"written parquet:FOLDER|'digits' takes no argument"):
            DATASETS.get(name)

    @pytest.mark.parametrize(
        ("columns", "rule"),
        [
            ({"label": [1, 2, 3] * 4}, "train labels must be 0..C-1 without gaps .got 3 classes from 1 to 3"),
            ({"label": [0, 1, 3] * 4}, "train labels must be 0..C-1 without gaps"),
            ({"label": ["a", "b", "c"] * 4}, "train.parquet: the label column holds whole numbers; 0 columns fit"),
            ({"label": [0, 1, None] * 4}, "train.parquet: every row needs .* 4 without label"),
            ({"image": [1.5] * 12}, "train.parquet: the image column holds encoded images"),
            (
                {"image": [png(np.zeros((4, 4), np.uint16))] * 12},
                "row 0 is not a readable image .more than 8 bits per channel",
            ),
            ({"image": [b"\x89PNG nothing"] * 12}, "train.parquet: row 0 is not a readable image"),
            ({"image": [png(pixels_of(1)[0])[:60]] * 12}, "train.parquet: row 0 is not a readable image"),
            (
                {"image": [png(image) for image in pixels_of(11)] + [png(pixels_of(1, (9, 9, 3))[0])]},
                r"train.parquet: all images must have one shape \(got \[3, 9, 9\] in row 11",
            ),
        ],
    )
    def test_bad_content(self, columns: dict[str, Any], rule: str, tmp_path: Path) -> None:
        write_set(tmp_path / "set", columns)
        with pytest.raises(DataError, match=rule):
            LocalSource({"name": "split", "dataset": "parquet:set", "tasks": 3}, 0, tmp_path)

    def test_test_images_must_fit_the_training_images(self, tmp_path: Path) -> None:
        write_set(tmp_path / "a", test={"label": [0, 1, 7] * 4})
        with pytest.raises(DataError, match=r"'parquet:a': test labels must occur .*got \[7\]"):
            load_images("parquet:a", tmp_path)
        write_set(tmp_path / "b", test={"image": [png(image) for image in pixels_of(12, (6, 7))]})
        with pytest.raises(DataError, match="'parquet:b': train and test images must have one shape"):
            load_images("parquet:b", tmp_path)

    @pytest.mark.parametrize("kept", [0.5, 0.98, 0.0])
    def test_a_truncated_file_is_named(self, kept: float, tmp_path: Path) -> None:
        write_set(tmp_path / "set")
        file = tmp_path / "set" / "train.parquet"
        whole = file.read_bytes()
        file.write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(DataError, match=r"train.parquet is not a complete Parquet file .*; fetch it again"):
            load_images("parquet:set", tmp_path)

    def test_a_failed_load_is_not_remembered(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no Parquet image files"):
            load_images("parquet:late", tmp_path)
        write_set(tmp_path / "late")
        assert load_images("parquet:late", tmp_path).num_classes == 3
