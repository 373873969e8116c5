"""What is looked at before the first trial starts: every stream, with every seed and split of every phase. No Ray."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from sweeping import parsed

from raycl.catalog import catalog
from raycl.distributed.streams import _read_all
from raycl.errors import DataError
from raycl.spec.sweep import SweepSpec
from raycl.streams import source
from raycl.streams.refusals import check_split
from raycl.sweep.data import Read, StreamKey, reads

SWEEP = """
name: few
stream: {name: split, dataset: mnist, tasks: 2, classes_per_task: 2, scenario: class, train_per_task: 20}
model: {name: mlp, hidden: [10]}
strategies:
  naive: {training.learning_rate: {loguniform: [1e-4, 1e-2]}}
  joint: {}
search: {trials: 2, seeds: [0, 1], finalists: {top: 1, seeds: [2]}}
final: {seeds: [10, 11], train_on: train_and_validation}
"""

WITHOUT_NINE = 3
"""A seed in whose order class 9 is not among the first four."""


def write_mnist(root: Path, test_classes: int, train_classes: int = 10) -> Path:
    """MNIST's four files with made-up images of the first classes."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, classes in (("train", train_classes), ("t10k", test_classes)):
        labels = (np.arange(200) % classes).astype(np.uint8)
        images = np.random.RandomState(len(split)).randint(0, 255, (200, 28, 28)).astype(np.uint8)
        for kind, values in (("images", images), ("labels", labels)):
            head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
            (raw / f"{split}-{kind}-idx{values.ndim}-ubyte").write_bytes(head + values.tobytes())
    return root


def problem(asked: Iterable[Read], root: Path) -> str:
    found, _, _ = _read_all(list(asked), str(root), b"")
    return found


def asked(sweep: SweepSpec) -> list[Read]:
    return reads(sweep, sweep.entries, {})


def test_every_seed_and_split_of_every_phase_is_read() -> None:
    found = {(read.key.split, read.key.train_on, read.splits) for read in asked(parsed(SWEEP))}
    search = {(seed, "train", ("train", "validation")) for seed in (0, 1, 2)}
    assert found == search | {(seed, "train_and_validation", ("train", "test")) for seed in (10, 11)}


def test_a_method_with_nothing_to_search_reads_for_the_final_phase_alone() -> None:
    sweep = parsed(SWEEP)
    found = reads(sweep, [sweep.entry("joint")], {})
    assert {read.key.split for read in found} == {10, 11}


def test_a_class_without_test_images_is_found_before_the_search(tmp_path: Path) -> None:
    root = write_mnist(tmp_path, test_classes=9)
    sweep = parsed(SWEEP.replace("classes_per_task: 2", "classes_per_task: 5"))
    told = problem(asked(sweep), root)
    assert "has no test images of class 9 of its data set" in told
    assert "stream.class_order" in told
    without = parsed(
        SWEEP.replace("classes_per_task: 2", "classes_per_task: 2, class_order: [0, 1, 2, 3, 4, 5, 6, 7, 8]")
    )
    assert problem(asked(without), root) == ""


def test_looking_at_the_training_data_of_one_seed_would_not_find_it(tmp_path: Path) -> None:
    """The wrong variants: the stream is made and not read; or one seed stands for all, whose tasks lack the class."""
    root = write_mnist(tmp_path, test_classes=9)
    sweep = parsed(SWEEP)
    assert "no test images of class 9" in problem(asked(sweep), root)
    assert problem([Read(read.key, ("train",)) for read in asked(sweep)], root) == ""
    one = [Read(StreamKey(read.key.stream, WITHOUT_NINE, WITHOUT_NINE, "train"), read.splits) for read in asked(sweep)]
    assert problem(one, root) == ""


def test_a_class_too_small_to_validate_is_found_at_the_start(tmp_path: Path) -> None:
    root = write_mnist(tmp_path, test_classes=10)
    sweep = parsed(SWEEP.replace("train_per_task: 20", "validation_fraction: 0.999, class_order: fixed"))
    assert "leaves none to train on" in problem(asked(sweep), root)


def test_a_task_of_fewer_rows_than_classes_cannot_be_learned(tmp_path: Path) -> None:
    root = write_mnist(tmp_path, test_classes=10)
    told = problem(asked(parsed(SWEEP.replace("train_per_task: 20", "train_per_task: 1"))), root)
    assert "has no train images of class" in told
    assert "raise stream.train_per_task" in told
    (read, *_) = asked(parsed(SWEEP))
    check_split(read.key.source(catalog(), str(root)), "train")
    with pytest.raises(DataError, match="MNIST was not found"):
        read.key.source(catalog(), str(tmp_path / "none"))


def with_copies(root: Path) -> Path:
    """MNIST's four files; half of the test images are training images too."""
    raw = write_mnist(root, test_classes=10) / "MNIST" / "raw"
    pixels = bytearray((raw / "t10k-images-idx3-ubyte").read_bytes())
    pixels[16 : 16 + 784 * 100] = (raw / "train-images-idx3-ubyte").read_bytes()[16 : 16 + 784 * 100]
    (raw / "t10k-images-idx3-ubyte").write_bytes(pixels)
    source._loaded.clear()
    return root


COPIES = "data set 'mnist': 100 of 200 test images are training images too"


def test_what_is_to_be_known_of_the_data_is_handed_to_the_driver(tmp_path: Path) -> None:
    """What a worker logs reaches nobody. Each thing is said once, though every seed reads the set."""
    found, digests, warnings = _read_all(asked(parsed(SWEEP)), str(with_copies(tmp_path)), b"")
    assert (found, len(set(digests))) == ("", 1)
    assert warnings == [COPIES]


def test_what_is_to_be_known_of_the_data_is_told_where_trials_run_here(tmp_path: Path) -> None:
    """In a process of its own: whatever a test runner does with logs, a user sees what nobody has caught."""
    code = (
        "import sys; from raycl.spec.sweep import SweepSpec; from raycl.catalog import catalog\n"
        "from raycl.sweep.run import run_sweep; from raycl.sweep.backend import RunOptions\n"
        "run_sweep(SweepSpec.parse(sys.argv[1], catalog()), sys.argv[2], backend='here', "
        "options=RunOptions(data_root=sys.argv[3]))"
    )
    text = SWEEP[: SWEEP.index("search:")].replace("{training.learning_rate: {loguniform: [1e-4, 1e-2]}}", "{}")
    text += "training: {iterations: 1}\nfinal: {seeds: [10, 11]}\n"
    command = [sys.executable, "-c", code, text, str(tmp_path / "results"), str(with_copies(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(COPIES) == 1
