"""A small catalog of its own, so that the specification is tested apart from the methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from raycl.errors import DataError
from raycl.spec.needs import Idle, Need
from raycl.spec.options import ModelConfig, NonNegative, Options, StreamConfig
from raycl.spec.setting import Registered
from raycl.spec.sweep import SweepSpec
from raycl.streams.stream import TaskClasses


class FakeNames(dict[str, Any]):
    def names(self) -> tuple[str, ...]:
        return tuple(self)

    def get(self, name: str) -> Any:  # type: ignore[override]
        return self[name]

    def code(self, name: str) -> str:
        return ""

    def package(self, name: str) -> None:
        return None


@dataclass(frozen=True)
class FakeCatalog:
    strategies: FakeNames
    streams: FakeNames
    datasets: FakeNames
    models: FakeNames

    def snapshot(self) -> FakeCatalog:
        return self

    def beyond_installed(self) -> Registered:
        return {}


class Split(StreamConfig):
    name: Literal["split"] = "split"


class Permuted(StreamConfig):
    name: Literal["permuted"] = "permuted"
    permute: Literal["all", "centre"] = "all"


class MLP(ModelConfig):
    name: Literal["mlp"] = "mlp"
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field((400, 400), min_length=1)


class CNN(ModelConfig):
    name: Literal["cnn"] = "cnn"
    channels: Annotated[int, Field(ge=1)] = 16


class NaiveConfig(Options):
    pass


class EWCConfig(Options):
    penalty: NonNegative = Field(100.0, description="lambda in eq. 3")
    mode: Literal["separate", "online"] = "separate"
    online_decay: Annotated[float, Field(ge=0, le=1)] = 1.0
    search_space: ClassVar[dict[str, Any]] = {"penalty": {"loguniform": [1, 1e6]}}


class ReplayConfig(Options):
    search_space: ClassVar[dict[str, Any]] = {"memory.capacity": {"choice": [200, 500]}}


class HypernetworkConfig(Options):
    task_embedding_dim: Annotated[int, Field(ge=1, le=256)] = 24
    beta: NonNegative = 0.01


@dataclass(frozen=True)
class FakeStrategy:
    """What the specification reads of a strategy class."""

    Config: type[Options]
    scenarios: frozenset[str] = frozenset({"task", "domain", "class"})
    uses_memory: bool = False
    boundary_free: bool = False
    upper_bound: bool = False
    paper: str = ""
    pretrained: bool = True
    selection: str = "reservoir"
    offers: str = "batch"
    needs: tuple[Need, ...] = ()
    ignores: tuple[Idle, ...] = ()


@dataclass(frozen=True)
class FakeStream:
    """A stream's kind and, called with options and a seed, a stream."""

    Config: type[StreamConfig]
    config: Any = None

    def __call__(self, config: StreamConfig, seed: int) -> FakeStream:
        return FakeStream(self.Config, config)

    def datasets(self) -> tuple[str, ...]:
        return (self.config.dataset,)

    def tasks(self, num_classes: dict[str, int]) -> tuple[TaskClasses, ...]:
        classes = num_classes[self.config.dataset]
        if self.Config is not Split:
            return (TaskClasses(self.config.dataset, tuple(range(classes))),) * self.config.tasks
        if classes % self.config.tasks:
            raise DataError(f"{classes} classes do not divide into {self.config.tasks} tasks")
        return (TaskClasses(self.config.dataset, (0,) * (classes // self.config.tasks)),) * self.config.tasks


@dataclass(frozen=True)
class FakeInfo:
    num_classes: int = 10
    train_size: int = 1000


@dataclass(frozen=True)
class FakeDataSet:
    info: FakeInfo | None = None


CATALOG = FakeCatalog(
    FakeNames(
        naive=FakeStrategy(NaiveConfig, boundary_free=True),
        ewc=FakeStrategy(EWCConfig),
        replay=FakeStrategy(ReplayConfig, uses_memory=True, boundary_free=True),
        packnet=FakeStrategy(NaiveConfig, scenarios=frozenset({"task"})),
        hypernetwork=FakeStrategy(HypernetworkConfig),
    ),
    FakeNames(split=FakeStream(Split), permuted=FakeStream(Permuted)),
    FakeNames(digits=FakeDataSet(FakeInfo()), parquet=FakeDataSet()),
    FakeNames(mlp=FakeStrategy(MLP), cnn=FakeStrategy(CNN)),
)

BASE = """\
name: question
stream: {name: split, dataset: digits, tasks: 5, scenario: class}
model: {name: mlp, hidden: [100]}
training: {learning_rate: {loguniform: [5e-4, 5e-3]}, batch_size: 32, epochs: 4}
memory: {capacity: 500}
strategies:
  naive: {}
  ewc: {penalty: {loguniform: [1, 1e10]}}
  replay: {memory.capacity: {choice: [200, 500, 1000]}}
search: {trials: 20, generation: 5, seeds: [0], finalists: {top: 3, seeds: [1, 2]}}
final: {seeds: [10, 11, 12]}
limits: {max_state_bytes: 4000000}
"""


def sweep(text: str = BASE) -> SweepSpec:
    return SweepSpec.parse(text, CATALOG, "sweep.yaml")
