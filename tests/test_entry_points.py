"""An installed package adds a strategy, a model, a stream and a data set through entry points, without a fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raycl.catalog import catalog

ENTRY_POINTS = """\
[raycl.strategies]
halved = tiny_methods:Halved

[raycl.models]
linear = tiny_methods:LINEAR

[raycl.streams]
reversed = tiny_methods:Reversed
split = tiny_methods:Reversed

[raycl.datasets]
squares = tiny_methods:SQUARES
broken = tiny_methods_that_do_not_exist:NOTHING
"""

MODULE = '''
from typing import Literal

import numpy as np
from torch import nn

from raycl.models.network import Network, initialize
from raycl.models.registry import Model
from raycl.spec.options import ModelConfig, StreamConfig
from raycl.strategies.base import Strategy, StrategyConfig
from raycl.streams.datasets import Images, Info
from raycl.streams.stream import Stream, TaskClasses


class HalvedConfig(StrategyConfig):
    factor: float = 0.5


class Halved(Strategy):
    """Naive fine-tuning on a scaled loss."""

    Config = HalvedConfig

    def loss(self, batch):
        return {name: value * self.config.factor for name, value in super().loss(batch).items()}


class LinearConfig(ModelConfig):
    name: Literal["linear"]


def build(config, image_shape, generator):
    return Network(nn.Flatten(), int(np.prod(image_shape)), generator)


LINEAR = Model(LinearConfig, build)


class ReversedConfig(StreamConfig):
    name: Literal["reversed"]


class Reversed(Stream):
    """One class a task, the last class first."""

    Config = ReversedConfig

    def tasks(self, num_classes):
        last = num_classes[self.config.dataset] - 1
        return tuple(TaskClasses(self.config.dataset, (last - task,)) for task in range(self.config.tasks))


class Squares:
    """Squares of four sizes."""

    info = Info((1, 4, 4), 4, 40, 8)

    def load(self, data_root):
        def drawn(rows):
            labels = np.arange(rows) % 4
            images = np.zeros((rows, 1, 4, 4), dtype=np.uint8)
            for row, label in enumerate(labels):
                images[row, :, : label + 1, : label + 1] = 255
            return images, labels.astype(np.int64)

        return Images(*drawn(40), *drawn(8))


SQUARES = Squares()
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as an installer leaves it: a module, and metadata beside it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "tiny_methods.py").write_text(MODULE)
    metadata = folder / "tiny_methods-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-methods\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def python(code: str, site: Path) -> Any:
    """Run ``code`` in a fresh interpreter, with the package installed, and return the JSON it prints."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(site)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


LIST = """
import json
from raycl.catalog import catalog
known = catalog()
print(json.dumps({kind: getattr(known, kind).names() for kind in ("strategies", "models", "streams", "datasets")}))
"""

USE = """
import json
import torch
from pathlib import Path
from raycl.catalog import catalog
from raycl.errors import RayclError
from raycl.spec.trial import stream_config
from raycl.streams.source import LocalSource, stream_outline

known = catalog()
parts = {"name": "sequence", "parts": ["squares[0:2]", "squares[2:4]"]}
block = {"name": "reversed", "dataset": "squares", "tasks": 3}
source = LocalSource(known, stream_config(known, block), 0)
model = known.models.get("linear")
config = model.Config.model_validate_json('{"name": "linear"}')
network = model.build(config, source.layout.image_shape, torch.Generator().manual_seed(0))
network.grow_head(3)
strategy = known.strategies.get("halved")
print(json.dumps({
    "classes": source.layout.classes,
    "rows": [len(source.part(0, split)) for split in ("train", "validation", "test")],
    "outline": list(stream_outline(known, stream_config(known, block)).sizes),
    "logits": list(network(torch.zeros(5, *source.layout.image_shape)).shape),
    "factor": strategy.Config.model_validate_json("{}").factor,
    "own": [known.streams.get("split").__module__, known.datasets.get("digits").__class__.__module__],
    "sequence": LocalSource(known, stream_config(known, parts), 0).layout.classes,
}))
"""


def test_all_four_kinds_are_listed_after_the_built_in_ones(site: Path) -> None:
    here = catalog()
    added = {"strategies": ["halved"], "models": ["linear"], "streams": ["reversed"], "datasets": ["broken", "squares"]}
    assert python(LIST, site) == {kind: [*getattr(here, kind).names(), *names] for kind, names in added.items()}


def test_they_work_together_and_never_replace_a_built_in_one(site: Path) -> None:
    assert python(USE, site) == {
        "classes": [[3], [2], [1]],
        "rows": [9, 1, 2],
        "outline": [1, 1, 1],
        "logits": [5, 3],
        "factor": 0.5,
        "own": ["raycl.streams.split", "raycl.streams.datasets"],
        "sequence": [[0, 1], [2, 3]],
    }
