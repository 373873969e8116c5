"""Image sets in Parquet files: which files and columns are read, what is refused, and what is told."""

from __future__ import annotations

import logging
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from streams.image_sets import encoded, pixels_of, png, write_set
from support import local_source

from raycl.errors import DataError, UnknownName
from raycl.streams import decoding
from raycl.streams.registry import DATASETS
from raycl.streams.source import load_images


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
            (
                {"label": ["a", "b", "c"] * 4},
                "train.parquet: the label column holds whole numbers 0..C-1; 0 columns fit",
            ),
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
            local_source({"name": "split", "dataset": "parquet:set", "tasks": 3}, 0, tmp_path)

    def test_test_images_must_fit_the_training_images(self, tmp_path: Path) -> None:
        write_set(tmp_path / "a", test={"label": [0, 1, 7] * 4})
        with pytest.raises(DataError, match=r"'parquet:a': test labels must occur .*got \[7\]"):
            load_images("parquet:a", tmp_path)
        write_set(tmp_path / "b", test={"image": [png(image) for image in pixels_of(12, (5, 7, 3))]})
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


class TestNames:
    """What follows the colon of a name."""

    @pytest.mark.parametrize(
        ("name", "rule"),
        [
            ("set?train=/abs/train.parquet", "train names files in the folder.*got '/abs/train.parquet'"),
            ("set?test=tr**", r"test names files in the folder.*got 'tr\*\*'"),
            ("set?train=.", "train names files in the folder.*got '.'"),
            ("set?train=../other/train.parquet", "train names files in the folder"),
            ("set?train=**", "train names files in the folder"),
            ("set?image=a&image=b", "an option is given once .got image twice"),
            ("set?background=pink", "background is one of black, white .got 'pink'"),
        ],
    )
    def test_refused_before_anything_is_read(self, name: str, rule: str) -> None:
        with pytest.raises(UnknownName, match=rule):
            DATASETS.get(f"parquet:{name}")

    def test_files_below_the_folder(self, tmp_path: Path) -> None:
        write_set(tmp_path / "set" / "a" / "data+more")
        for pattern in ("a/data+more/{}.parquet", "*/*/{}*", "**/{}.parquet"):
            name = f"parquet:set?train={pattern.format('train')}&test={pattern.format('test')}"
            assert DATASETS.get(name).load(tmp_path).num_classes == 3


class TestTestImagesAreNotTrainedOn:
    def test_one_file_for_both_parts(self, tmp_path: Path) -> None:
        write_set(tmp_path / "set")
        with pytest.raises(
            DataError, match=r"test file must not be trained on \(got test.parquet for train=\*.parquet"
        ):
            DATASETS.get("parquet:set?train=*.parquet").load(tmp_path)
        DATASETS.get("parquet:set?train=tr*.parquet").load(tmp_path)

    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_a_link_is_the_file_itself(self, tmp_path: Path, link: Any) -> None:
        write_set(tmp_path / "set")
        (tmp_path / "set" / "train.parquet").unlink()
        link(tmp_path / "set" / "test.parquet", tmp_path / "set" / "train.parquet")
        with pytest.raises(DataError, match="test file must not be trained on"):
            DATASETS.get("parquet:set").load(tmp_path)

    def test_a_copy_under_another_name_in_another_order(self, tmp_path: Path) -> None:
        write_set(tmp_path / "set")
        table = pq.read_table(tmp_path / "set" / "test.parquet")
        pq.write_table(table.take(list(range(11, -1, -1))), tmp_path / "set" / "train.parquet")
        with pytest.raises(DataError, match="every one of the 12 test images is a training image too"):
            load_images("parquet:set", tmp_path)

    def test_a_few_copies_are_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        images = [png(image) for image in [*pixels_of(12)[:3], *pixels_of(9, seed=1)]]
        write_set(tmp_path / "set", test={"image": images})
        with caplog.at_level(logging.WARNING):
            load_images("parquet:set", tmp_path)
        assert "'parquet:set': 3 of 12 test images are training images too" in caplog.text

    def test_a_set_without_copies_says_nothing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write_set(tmp_path / "set")
        with caplog.at_level(logging.WARNING):
            load_images("parquet:set", tmp_path)
        assert caplog.text == ""


class TestFiles:
    def test_an_empty_shard_is_passed_over(self, tmp_path: Path) -> None:
        write_set(tmp_path)
        empty = pa.table({"image": pa.nulls(0), "label": pa.nulls(0)})
        pq.write_table(empty, tmp_path / "train-0.parquet")
        pq.write_table(pq.read_table(tmp_path / "train.parquet").slice(0, 0), tmp_path / "train-1.parquet")
        assert len(DATASETS.get("parquet").load(tmp_path).train_images) == 12
        (tmp_path / "train.parquet").unlink()
        with pytest.raises(DataError, match=r"train\*.parquet: the files hold no images .got 2 without rows"):
            DATASETS.get("parquet").load(tmp_path)

    def test_a_folder_of_parts_as_spark_writes_it(self, tmp_path: Path) -> None:
        write_set(tmp_path)
        table = pq.read_table(tmp_path / "train.parquet")
        (tmp_path / "train.parquet").unlink()
        folder = tmp_path / "train.parquet"
        folder.mkdir()
        pq.write_table(table.slice(0, 5), folder / "part-00000-ab.snappy.parquet")
        pq.write_table(table.slice(5), folder / "part-00001-ab.snappy.parquet")
        for other in ("_SUCCESS", ".part-00000-ab.snappy.parquet.crc", "._part-00000-ab.snappy.parquet"):
            (folder / other).write_bytes(b"")
        images = DATASETS.get("parquet").load(tmp_path)
        assert np.array_equal(images.train_images, pixels_of(12).transpose(0, 3, 1, 2))
        shutil.rmtree(folder)
        folder.mkdir()
        with pytest.raises(DataError, match="no Parquet image files"):
            DATASETS.get("parquet").load(tmp_path)

    @pytest.mark.slow
    @pytest.mark.parametrize("nested", [False, True])
    def test_a_column_of_more_than_2_gib(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool) -> None:
        """1,100 equal images of 2 MB in a small file: more than Arrow holds in one array of bytes."""
        write_set(tmp_path)
        value = {"bytes": bytes(2_000_000), "path": ""} if nested else bytes(2_000_000)
        part = pa.table({"image": [value] * 100, "label": [row % 3 for row in range(100)]})
        with pq.ParquetWriter(tmp_path / "train.parquet", part.schema) as writer:
            for _ in range(11):
                writer.write_table(part)
        assert (tmp_path / "train.parquet").stat().st_size < 30_000_000
        if not nested:  # the mutant: the column as a whole
            whole = pq.read_table(tmp_path / "train.parquet")["image"]
            with pytest.raises(pa.ArrowInvalid, match="offset overflow"):
                whole.combine_chunks()
        monkeypatch.setattr(decoding, "_decoded", lambda value, *_: np.full((3, 6, 7), len(value) % 256, np.uint8))
        images = DATASETS.get("parquet").load(tmp_path)
        assert images.train_images.shape == (1100, 3, 6, 7)
        assert (images.train_images == 2_000_000 % 256).all()
        assert images.train_labels.tolist() == [row % 3 for row in range(100)] * 11


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "rule"),
        [
            (pa.array([0, 1, 2**63] * 4, pa.uint64()), r"train.parquet: labels must be 0..C-1 .*9223372036854775808"),
            ([0, 1, -1] * 4, "train labels must be 0..C-1 without gaps .got 3 classes from -1 to 1"),
            ([0, 1, 10**12] * 4, "train labels must be 0..C-1 without gaps .got 3 classes from 0 to 1000000000000"),
            ([0.0, 1.0, 2.0] * 4, "0 columns fit .got columns .*label: double.; write the labels so"),
            (["cat", "dog", "owl"] * 4, "0 columns fit .got columns .*label: string.; write the labels so"),
            ([True, False, True] * 4, "0 columns fit .got columns .*label: bool.; write the labels so"),
        ],
    )
    def test_one_clear_error(self, labels: Any, rule: str, tmp_path: Path) -> None:
        write_set(tmp_path / "set", {"label": labels})
        with pytest.raises(DataError, match=rule) as raised:
            load_images("parquet:set", tmp_path)
        assert len(str(raised.value).splitlines()) == 1

    def test_a_named_column_of_text(self, tmp_path: Path) -> None:
        write_set(tmp_path / "set", {"name": ["a", "b", "c"] * 4})
        with pytest.raises(DataError, match="column 'name' does not fit"):
            load_images("parquet:set?label=name", tmp_path)


def icon(colour: int = 0) -> Image.Image:
    """A shape that stands in the alpha channel alone; its colour is the same everywhere."""
    layers = np.full((6, 7, 4), colour, np.uint8)
    layers[..., 3] = 0
    layers[2:4, 2:5, 3] = 255
    return Image.fromarray(layers)


def images_of(tmp_path: Path, images: list[bytes], options: str = "") -> np.ndarray:
    """The training images of a set whose first images are these, and whose others are in colour."""
    others = [png(image) for image in pixels_of(12 - len(images), seed=2)]
    write_set(tmp_path / "set", train={"image": [*images, *others]})
    loaded: np.ndarray = DATASETS.get(f"parquet:set{options}").load(tmp_path).train_images
    return loaded


class TestWhatDecodingChanges:
    @pytest.mark.parametrize("colour", [0, 255])
    def test_a_picture_in_the_alpha_channel_is_refused(self, tmp_path: Path, colour: int) -> None:
        with pytest.raises(DataError, match=r"train.parquet: row 0: its picture is drawn in the alpha .*background=wh"):
            images_of(tmp_path, [encoded(icon(colour))])

    def test_without_its_alpha_channel_it_is_one_colour(self) -> None:
        """The mutant: what was loaded before."""
        assert len(np.unique(np.asarray(icon().convert("RGB")))) == 1

    @pytest.mark.parametrize(("ground", "around", "colour"), [("white", 255, 0), ("black", 0, 255)])
    def test_a_background_shows_it(self, tmp_path: Path, ground: str, around: int, colour: int) -> None:
        loaded = images_of(tmp_path, [encoded(icon(colour))], f"?background={ground}")[0]
        expected = np.full((3, 6, 7), around)
        expected[:, 2:4, 2:5] = colour
        assert np.array_equal(loaded, expected)

    def test_half_transparent_pixels_are_mixed(self) -> None:
        mixed = decoding._laid_on(255, np.full((1, 1, 2), 100, np.uint8), np.array([[51, 255]], np.uint8))
        assert mixed.tolist() == [[[round(0.2 * 100 + 0.8 * 255), 100]]]

    def test_an_opaque_alpha_channel_is_left_out_without_a_word(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        picture = Image.fromarray(pixels_of(1)[0]).convert("RGBA")
        with caplog.at_level(logging.WARNING):
            loaded = images_of(tmp_path, [encoded(picture)])
        assert np.array_equal(loaded[0], pixels_of(1)[0].transpose(2, 0, 1))
        assert caplog.text == ""

    @pytest.mark.parametrize(
        ("made", "told"),
        [
            (lambda p: encoded(p.convert("CMYK"), "TIFF"), "2 are CMYK, converted to RGB"),
            (lambda p: encoded(Image.merge("RGBA", (*p.split(), p.split()[0]))), "2 have transparent pixels, taken as"),
            (lambda p: encoded(p.convert("P"), transparency=bytes(range(256))), "2 have transparent pixels, taken as"),
            (lambda p: encoded(p, transparency=p.getpixel((1, 1))), "2 have transparent pixels, taken as if opaque"),
            (lambda p: encoded(p, "GIF", save_all=True, append_images=[p.rotate(180)]), "2 have several frames"),
            (lambda p: encoded(p, exif=turned()), "2 are to be turned by their EXIF orientation"),
            (lambda p: deep(np.asarray(p)), "2 have 16 bits per channel, cut to 8"),
            (lambda p: encoded(p.convert("L")), "2 are grey, repeated to three channels"),
        ],
        ids=["cmyk", "rgba", "palette", "colour key", "frames", "exif", "16 bits", "grey"],
    )
    def test_is_told_once_with_its_count(
        self, made: Any, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        pictures = [Image.fromarray(image) for image in pixels_of(2, seed=5)]
        with caplog.at_level(logging.WARNING):
            loaded = images_of(tmp_path, [made(picture) for picture in pictures])
        (record,) = caplog.records
        assert f"{tmp_path / 'set'}: of 24 images {told}" in record.getMessage()
        assert loaded.shape == (12, 3, 6, 7)

    def test_sixteen_bits_keep_the_high_byte(self, tmp_path: Path) -> None:
        pixels = pixels_of(1, seed=5)[0]
        assert np.array_equal(images_of(tmp_path, [deep(pixels)])[0], pixels.transpose(2, 0, 1))


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def deep(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits per channel, which Pillow does not write; high bytes ``pixels`` ``[height, width, 3]``."""
    height, width, _ = pixels.shape
    values = (pixels.astype(">u2") << 8) + 77
    lines = b"".join(b"\0" + line.tobytes() for line in values.astype(">u2"))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


class TestGreyAmongColour:
    """A few grey images in a colour set: before, refused with the advice to resize them."""

    @pytest.mark.parametrize("where", ["first", "last", "other file", "test"])
    def test_grey_becomes_three_channels(self, tmp_path: Path, where: str) -> None:
        colour, grey = pixels_of(12), pixels_of(12, (6, 7), seed=3)
        images = {"train": [png(image) for image in colour], "test": [png(image) for image in pixels_of(12, seed=1)]}
        at = {"first": ("train", 0), "last": ("train", 11), "other file": ("train", 7), "test": ("test", 5)}[where]
        images[at[0]][at[1]] = png(grey[at[1]])
        write_set(tmp_path, train={"image": images["train"]}, test={"image": images["test"]})
        if where == "other file":
            table = pq.read_table(tmp_path / "train.parquet")
            for number, piece in enumerate((table.slice(0, 7), table.slice(7, 1), table.slice(8))):
                pq.write_table(piece, tmp_path / f"train-{number}.parquet")
            (tmp_path / "train.parquet").unlink()
        loaded = DATASETS.get("parquet").load(tmp_path)
        split = loaded.train_images if at[0] == "train" else loaded.test_images
        assert np.array_equal(split[at[1]], np.repeat(grey[at[1]][None], 3, axis=0))
        expected = [image.transpose(2, 0, 1) for image in colour]
        assert all(np.array_equal(loaded.train_images[row], expected[row]) for row in range(12) if row != at[1])

    def test_a_grey_test_set_of_a_colour_set(self, tmp_path: Path) -> None:
        grey = pixels_of(12, (6, 7), seed=3)
        write_set(tmp_path / "set", test={"image": [png(image) for image in grey]})
        assert np.array_equal(load_images("parquet:set", tmp_path).test_images, np.repeat(grey[:, None], 3, axis=1))
