"""The base of every options class, and the blocks that say what is learned and by what network: stream, model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raycl.errors import Problem, SpecError
from raycl.spec.needs import Idle, Need

ScenarioName = Literal["task", "domain", "class"]
HeadKind = Literal["auto", "single", "per_task"]

LARGEST = 1e38
"""Numbers that networks compute with are float32, which ends a little above."""
MOST = 1_000_000_000
EXACT = 2**53
"""Whole numbers up to this are exact wherever a table or a sampler takes them for a float."""

Positive = Annotated[float, Field(gt=0, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=MOST)]
CountFromZero = Annotated[int, Field(ge=0, le=MOST)]
Bytes = Annotated[int, Field(ge=1, le=EXACT)]
Width = Annotated[int, Field(ge=1, le=65_536)]
"""Units, channels or dimensions of a layer."""
Widths = Annotated[tuple[Width, ...], Field(max_length=64)]
STREAM_HELP = "the kind of stream: a registered name"
MODEL_HELP = "the kind of network: a registered name"
Dropped = Annotated[float, Field(ge=0, lt=1)]
DROPOUT_HELP = "share of the outputs of each layer that are left out in training"
WEIGHTS_HELP = "a registered name (imagenet), or the path of a file of `raycl export` below the data root"
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Results hold seeds as 64-bit integers."""
KnownAtTest = Annotated[ScenarioName, Field(description="what is known at test, van de Ven and Tolias 2019")]
Tasks = Annotated[int, Field(ge=1, le=10_000, description="tasks of the stream, learned one after another")]


class Later:
    """Marks a field that came, or whose default came, after the first results: ``Annotated[int, Later()]``.

    At its default it stands in no hash (or as ``before``, where the default had another name), so the default must mean
    what was done before the field existed.
    """

    def __init__(self, before: Any = None) -> None:
        self.before = before


class Options(BaseModel):
    """Strict, frozen options: unknown keys are refused, and nothing is silently converted.

    Values are validated in JSON mode (``Options.model_validate_json``), so that lists become tuples and
    whole numbers may stand for floats, while ``"4"`` and ``true`` never stand for 4.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    search_space: ClassVar[dict[str, Any]] = {}
    """The usual search space, as it would stand in a sweep file: ``{"penalty": {"loguniform": [1, 1e6]}}``."""
    needs: ClassVar[tuple[Need, ...]] = ()
    """What must hold where these options stand; refused otherwise."""
    ignores: ClassVar[tuple[Idle, ...]] = ()
    """Options that do nothing beside these."""

    @classmethod
    def later(cls) -> dict[str, Any]:
        """The fields marked :class:`Later`: name -> (default, what hashes take for it, None for nothing)."""
        marked = {}
        for name, field in cls.model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, Later):
                    marked[name] = (field.get_default(call_default_factory=True), mark.before)
        return marked

    def decisive(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """Plain data as hashes take it: later fields that stand at their default as before they came.

        Args:
            exclude: fields that decide nothing.
        """
        before = self.as_before()
        data: dict[str, Any] = {}
        for name, value in self.model_dump(mode="json").items():
            inner = getattr(self, name)
            if name in exclude or (name in before and before[name] is None):
                continue
            data[name] = before.get(name, inner.decisive() if isinstance(inner, Options) else value)
        return data

    def as_before(self) -> dict[str, Any]:
        """The later fields that stand at their default: dotted path -> what hashes take for it, None for nothing."""
        later = self.later()
        found = {name: before for name, (default, before) in later.items() if getattr(self, name) == default}
        for name in type(self).model_fields.keys() - found.keys():
            inner = getattr(self, name)
            if isinstance(inner, Options):
                found |= {f"{name}.{path}": before for path, before in inner.as_before().items()}
        return found


def one_of(names: Sequence[str]) -> str:
    """The rule for options of which one may stand."""
    return f"set one of {', '.join(names)}"


class OneOf(Options):
    """A word with options of its own: a mapping of one of several names to that name's options.

    Every field is None unless it is the one.
    """

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self._given()) != 1:
            raise ValueError(one_of(tuple(type(self).model_fields)))
        return self

    def _given(self) -> dict[str, Any]:
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}

    @property
    def name(self) -> str:
        (name,) = self._given()
        return name

    @property
    def chosen(self) -> Any:
        """What stands under the name."""
        (options,) = self._given().values()
        return options


WeightsName = Annotated[str, Field(min_length=1, description=WEIGHTS_HELP)]
WeightsHash = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the file; a run fills it in")]
AllowSeen = Annotated[
    bool, Later(), Field(description="search though the weights have learned from the stream's own data set")
]


class EncodeConfig(Options):
    """A frozen backbone that the images go through once; its features are the stream's images from then on."""

    weights: WeightsName
    weights_hash: WeightsHash | None = None
    resize: Annotated[int, Field(ge=8, le=1024)] | None = Field(
        None, description="height and width of what the backbone sees; default: of the images it was trained on"
    )
    dtype: Literal["float32", "float16"] = Field("float32", description="of the features, in memory and on disk")
    allow_seen: AllowSeen = False


class StreamConfig(Options):
    """What every stream has; each stream adds its own options."""

    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "training.active_logits",
            "says which tasks a unit belongs to, and nobody tells where stream.boundaries is 'hidden'; use auto or all",
            lambda at: not (at.hidden and at.training.active_logits in ("own", "current", "seen")),
        ),
    )
    encodable: ClassVar[bool] = True
    """Whether its tasks hold the data set's images as they are, so that features can be computed once for all."""

    name: str = Field(description=STREAM_HELP)
    dataset: str = Field("digits", description="a registered data set")
    scenario: KnownAtTest = "class"
    tasks: Tasks = 5
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="share of the training examples, stratified by class, on which a search scores"
    )
    normalize: Literal["unit", "mean_std", "mean_std_first_task", "none"] = Field(
        "unit",
        description="pixels to [0, 1]; then by mean and deviation: of all training images of the data set, validation "
        "rows, later tasks and absent classes included, or of the training rows of the first task that is learned; "
        "or left in 0..255",
    )
    pad: Annotated[int, Field(ge=0, le=16)] = Field(0, description="zero pixels added on each side")
    augment: Literal["none", "flip", "crop", "crop_flip"] = Field(
        "none",
        description="of training images, anew in every batch: flip mirrors half of them, crop cuts each out of itself "
        "with 4 zero pixels on each side",
    )
    train_per_task: Count | None = Field(None, description="at most so many training examples a task, stratified")
    seed: Seed | None = Field(None, description="pins class order, split and permutations; default: the run's seed")
    boundaries: Literal["given", "hidden"] = Field("given", description="whether training is told where a task ends")
    encode: EncodeConfig | None = Field(None, description="a frozen backbone; tasks then hold features, not images")

    @model_validator(mode="after")
    def _features_have_no_pixels(self) -> StreamConfig:
        if self.encode is None:
            return self
        if not self.encodable:
            raise ValueError(f"stream {self.name!r} changes pixels from task to task, which encode does not go with")
        if self.pad or self.augment != "none":
            raise ValueError("pad and augment change pixels, which a stream with encode does not have; leave them out")
        return self


class ModelConfig(Options):
    """What every model has; each model adds its own options."""

    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "training.batch_size",
            "batch norm has no statistics of one row; set it above 1, or model.norm: none",
            lambda at: not (at.flat_batch_norm and at.training.batch_size == 1),
        ),
        Need(
            "stream.train_per_task",
            "batch norm has no statistics of one row; set it above 1, or model.norm: none",
            lambda at: not (at.flat_batch_norm and at.stream.train_per_task == 1),
        ),
    )
    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(("model.weights_hash",), "there are no model.weights to insist on", lambda at: at.model.weights is None),
        Idle(
            ("model.classifier_scale",),
            "only model.classifier: cosine is scaled",
            lambda at: at.model.classifier != "cosine",
        ),
    )

    name: str = Field(description=MODEL_HELP)
    head: HeadKind = Field(
        "auto",
        description="one set of output units per task, or a single set; auto: per_task where the task id is given",
    )
    init: Literal["default", "xavier", "kaiming"] = Field(
        "default",
        description="how the model's layers start: as torch's own, or Xavier- or Kaiming-uniform with biases of zero",
    )
    weights: WeightsName | None = Field(None, description="where the backbone starts; " + WEIGHTS_HELP)
    weights_hash: WeightsHash | None = None
    allow_seen: AllowSeen = False
    classifier: Annotated[Literal["auto", "linear", "cosine"], Later()] = Field(
        "auto",
        description="the head: rows and biases, or scaled cosines of rows and features, without biases; auto: linear",
    )
    classifier_scale: Annotated[Positive, Later()] = Field(10.0, description="of cosine: the largest logit")

    widths: ClassVar[tuple[str, ...]] = ()
    """The options that say how wide the model's layers are; none where its width is fixed."""

    @property
    def flat_batch_norm(self) -> bool:
        """Whether batch norm normalises single numbers, so that a batch of one row has no statistics."""
        return False

    @property
    def perceptron(self) -> bool:
        """Whether the network is hidden linear layers, each followed by its ReLU alone, and a linear head."""
        return False

    def scaled(self, factor: float) -> Self:
        """The same model with every width times ``factor``, rounded, at least 1.

        Raises:
            SpecError: the model's width is fixed, or its weights are.
        """
        if not self.widths or self.weights is not None:
            rule = "a model of another width is asked for; take one whose width is an option, without weights"
            raise SpecError([Problem("model", rule, self.weights or self.name)])

        def times(width: Any) -> Any:
            return tuple(map(times, width)) if isinstance(width, tuple) else max(1, round(width * factor))

        return self.model_copy(update={name: times(getattr(self, name)) for name in self.widths})
