"""Progressive networks: every task gets a column of its own, which also reads the features of all columns before it.

Rusu et al., "Progressive neural networks", 2016 (arXiv 1606.04671). Columns of earlier tasks are frozen: without
gradients, outside the optimiser and in evaluation mode, so that their answers stay to the last bit. A new column starts
from random weights, as do the lateral connections to each of its layers but the first, its head included. In the form
``adapter`` (equation 2) these scale what the earlier columns put in by learned numbers, project it, apply a ReLU and
project it again; in the form ``direct`` (equation 1) they are one linear map. Task j is answered by column j, which
sees columns before it and no later one.

By default the method costs a network for every task, and laterals that grow with the number of columns.
``match_parameters`` makes the columns so narrow that all of them, laterals included, have no more parameters than one
network of the sweep's model: the number of tasks is then read from the stream, before later tasks have come.

Departures: the paper learns policies, here it is classification; adapters have n / 2k units in column k by default, for
n outputs of the layer (at least 8), where the paper speaks of a subspace of dimension n; where U leads to a convolution
it has that layer's kernel. In residual networks laterals go to the inputs of blocks (:mod:`raycl.models.columns`).
``reset_optimizer: false`` means nothing here: moments belong to a column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from raycl.errors import MethodError, Problem, SpecError
from raycl.learning.own_units import own_head_only, require_own_units
from raycl.models.columns import Adapter, Column, ColumnStack, direct
from raycl.models.width import matching_width, parameters_with_head
from raycl.spec.needs import NEW_OPTIMIZERS, Idle, Need
from raycl.spec.options import Width
from raycl.strategies.base import Context, Losses, Strategy, StrategyConfig, Trainable
from raycl.streams.task import Batch


class ProgressiveConfig(StrategyConfig):
    """How columns are connected, and how wide they are."""

    search_space: ClassVar[dict[str, Any]] = {
        "laterals": {"choice": ["adapter", "direct"]},
        "adapter_dim": {"lograndint": [8, 128]},
    }

    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(("adapter_dim",), "only laterals: adapter has adapters", lambda at: at.options.laterals != "adapter"),
        NEW_OPTIMIZERS,
    )

    laterals: Literal["adapter", "direct", "none"] = Field(
        "adapter", description="what leads from earlier columns to a layer; none: independent networks"
    )
    adapter_dim: Width | None = Field(
        None, description="units of an adapter; default: n / 2k in column k for the layer's n outputs, at least 8"
    )
    match_parameters: bool = Field(
        False, description="make columns so narrow that all have together no more parameters than the sweep's model"
    )


class Progressive(Strategy):
    """Add a column for every task, and freeze those before it."""

    Config = ProgressiveConfig
    acts_from = {"laterals": 2, "adapter_dim": 2}
    stability = ()
    diagnosable: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (own_head_only("each column of a progressive network"),)
    scenarios: ClassVar[frozenset[str]] = frozenset({"task"})
    zero_shot: ClassVar[bool] = False
    idle_rows = "never"
    paper: ClassVar[str] = "Rusu et al. 2016, Progressive neural networks (arXiv 1606.04671)"

    config: ProgressiveConfig

    def __init__(self, config: ProgressiveConfig, context: Context) -> None:
        super().__init__(config, context)
        require_own_units(context.scenario, "each column of a progressive network")
        self.columns = ColumnStack()
        self._width = self._matching_width() if config.match_parameters else 1.0

    # -- growth and optimisation -------------------------------------------------------------------------------

    def _matching_width(self) -> float:
        """The largest factor on widths at which all columns have no more parameters than one network.

        Raises:
            SpecError: even the narrowest columns have more.
        """
        scenario = self.context.scenario
        if scenario.num_tasks == 1:
            return 1.0
        limit = parameters_with_head(self.network, scenario.num_outputs)

        def parameters(width: float) -> int:
            columns = (self._new_column(task, width) for task in range(scenario.num_tasks))
            return sum(p.numel() for column in columns for p in column.parameters())

        if width := matching_width(parameters, limit):
            return width
        rule = f"{scenario.num_tasks} columns cannot be as small as one network of this model; take a wider model"
        raise SpecError([Problem("match_parameters", rule, f"{limit} parameters")])

    def _new_column(self, task: int, width: float) -> Column:
        """The network drawn first is the first task's, so that this task is learned as naive fine-tuning learns it."""
        network = self.context.new_network(width) if task or width != 1 else self.network
        network.grow_head(self.context.scenario.sizes[task])
        return Column(network, self._lateral_to(task)).to(self.context.device)

    def _lateral_to(self, columns: int) -> Callable[[nn.Module], nn.Module] | None:
        """Builds what leads from so many columns to a layer."""
        config, generator = self.config, self.context.generator.start("network")
        if not columns or config.laterals == "none":
            return None
        if config.laterals == "direct":
            return lambda link: direct(link, columns, generator)
        return lambda link: Adapter(link, columns, config.adapter_dim, generator)

    def grow(self, task: int) -> None:
        self.task = task
        self.columns.requires_grad_(False)
        column = self._new_column(task, self._width)
        self.columns.append(column)
        self.network = column.network

    def trainable(self, task: int) -> Mapping[str, Trainable]:
        """An optimiser of its own for every column: no old one is in it, and no moments are handed on."""
        return {f"column {task}": Trainable.of(self.columns[task].parameters())}

    def train(self, mode: bool) -> None:
        self.columns.eval()
        self.columns[-1].train(mode)

    # -- the update --------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        """Cross-entropy over the task's own units."""
        labels = batch.y - self.context.scenario.offset(self.task)
        return {"task": self.label_loss(self.columns(batch.x, self.task), labels)}

    # -- prediction and state ----------------------------------------------------------------------------------

    def predict(self, x: Tensor, task: int | None) -> Tensor:
        """Logits ``[batch, outputs so far]`` of the task's column, minus infinity outside its units."""
        if task is None:
            raise MethodError("progressive: needs the task id to predict; use scenario task")
        scenario = self.context.scenario
        units = scenario.units(task)
        logits = x.new_full((len(x), scenario.outputs(self.task)), float("-inf"))
        logits[:, units.start : units.stop] = self.columns(x, task)
        return logits

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.columns.parameters())

    def state_dict(self) -> dict[str, Any]:
        return {"columns": self.columns.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.columns.load_state_dict(state["columns"])
