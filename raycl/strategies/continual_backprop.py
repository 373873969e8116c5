"""Continual backprop: in every update the least useful of the hidden units that have had their time begin anew.

Dohare, Hernandez-Garcia, Lan, Rahman, Mahmood and Sutton, "Loss of plasticity in deep continual learning", Nature 632,
2024 (arXiv 2306.13812), algorithm 1, as their code for Online Permuted MNIST runs it (``lop/algos/gnt.py``). After each
update, in every hidden layer with outputs h, the weights being those after the step and h those before it:

    age <- age + 1
    m   <- decay m + (1 - decay) mean h                                 m' = m / (1 - decay^age)
    u   <- decay u + (1 - decay) mean|w_out| mean|h - m'| / mean|w_in|  u' = u / (1 - decay^age)

Of the units with an age above ``maturity``, ``replacement_rate`` times their number fall due; fractions add up over
updates, and whole units are replaced, those with the least u'. Their incoming weights are drawn as the layer's were at
the start (``model.init``), bias, outgoing weights, age, m and u are 0, and so is what the optimiser keeps for those
weights, Adam's count of steps with it.

The paper's runs: three hidden layers of 2,000 units, ``model.init: kaiming``, SGD at .003, one example an update,
replacement rates of 1e-4, 1e-5 and 1e-6 (the one that is plotted).

Where the paper and its code differ the code's way is the default:
- ``utility: contribution`` is the paper's, mean|w_out| mean|h|; the released settings take ``adaptable_contribution``.
- ``bias_transfer``: the code means to add w_out m' of a replaced unit to the biases of the next layer, so that the
  outputs go on as if the unit had its mean activation, but sets m to 0 before it does so. Without it outputs jump where
  a unit is replaced that is not idle, and by ``adaptable_contribution`` one that is always active alike is not useful.

Departures: the authors leave momentum of SGD as it is. Their own Adam (``AdamGnT``) multiplies a step by 1 - beta2^age,
as its correction of both biases is computed and dropped; here Adam is Adam. The units of the last hidden layer lose
their weights to the heads of all tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raycl.errors import MethodError, Problem, SpecError
from raycl.learning.perceptron import is_perceptron
from raycl.models.network import start_bound
from raycl.spec.needs import Need
from raycl.spec.options import CountFromZero, Fraction
from raycl.strategies.base import Context, Losses, Position, Strategy, StrategyConfig
from raycl.streams.task import Batch

PERCEPTRON = (
    "replaces units of linear layers, each with its ReLU, under a linear head; take model mlp, without norm and dropout"
)


class ContinualBackpropConfig(StrategyConfig):
    """How often units are replaced, and which."""

    search_space = {"replacement_rate": {"loguniform": [1e-6, 1e-3]}}

    replacement_rate: Fraction = Field(1e-4, description="rho: share of the mature units that is replaced in an update")
    maturity: CountFromZero = Field(100, description="updates for which a unit is safe")
    decay: float = Field(0.99, ge=0, lt=1, description="eta: of the running means of activation and utility")
    utility: Literal["adaptable_contribution", "contribution"] = Field(
        "adaptable_contribution",
        description="mean |outgoing w| times mean |h - its running mean|, over mean |incoming w|, as the authors' runs "
        "have it; or the first times mean |h|, as the paper",
    )
    bias_transfer: bool = Field(
        False,
        description="the next layer's biases take over what a replaced unit gave on average; the authors' code means "
        "to, and does not",
    )


class HiddenUnits:
    """How old and how useful the units of a hidden layer are.

    Args:
        units: of the layer.
        config: of the method.
    """

    def __init__(self, units: int, config: ContinualBackpropConfig, device: torch.device) -> None:
        self._config = config
        self.age, self.mean, self.utility = (torch.zeros(units, device=device) for _ in range(3))
        self.due = 0.0
        """Units to be replaced, a fraction of one mostly."""

    def update(self, activation: Tensor, incoming: Tensor, outgoing: Tensor) -> None:
        """Take in an update.

        Args:
            activation: ``[batch, units]`` of its forward pass.
            incoming: weights ``[units, inputs]`` after it.
            outgoing: weights ``[outputs, units]`` after it.
        """
        decay = self._config.decay
        self.age += 1
        self.mean.mul_(decay).add_(activation.mean(0), alpha=1 - decay)
        useful = outgoing.abs().mean(0)
        if self._config.utility == "contribution":
            useful *= activation.abs().mean(0)
        else:
            useful *= (activation - self.corrected(self.mean)).abs().mean(0)
            useful /= incoming.abs().mean(1)
        self.utility.mul_(decay).add_(useful, alpha=1 - decay)

    def corrected(self, running: Tensor) -> Tensor:
        """A running mean ``[units]`` without its bias towards the 0 it began with."""
        return running / (1 - self._config.decay**self.age)

    def fallen_due(self) -> Tensor:
        """The units ``[replaced]`` to replace after an update, those of least utility first."""
        mature = (self.age > self._config.maturity).nonzero().flatten()
        self.due += self._config.replacement_rate * len(mature)
        count = int(self.due)
        self.due -= count
        least = torch.topk(-self.corrected(self.utility)[mature], count).indices
        return mature[least]

    def begin_anew(self, chosen: Tensor) -> None:
        for value in (self.age, self.mean, self.utility):
            value[chosen] = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"age": self.age, "mean": self.mean, "utility": self.utility, "due": self.due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("age", "mean", "utility"):
            getattr(self, name).copy_(state[name])
        self.due = state["due"]


class ContinualBackprop(Strategy):
    """Replace units that are of little use."""

    Config = ContinualBackpropConfig
    keeps_best: ClassVar[bool] = False
    between_tasks = ("replacement_rate", "maturity", "decay")
    stability = ()
    paper: ClassVar[str] = "Dohare et al. 2024, Nature 632, arXiv 2306.13812"
    boundary_free: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (Need("model.name", PERCEPTRON, lambda at: at.model.perceptron),)
    naive_when = {"replacement_rate": 0.0}

    config: ContinualBackpropConfig

    def __init__(self, config: ContinualBackpropConfig, context: Context) -> None:
        super().__init__(config, context)
        if not self.network.head.affine:
            rule = "a unit's use is told by the weights that lead from it, which cosines scale away; use linear"
            raise SpecError([Problem("model.classifier", rule, "cosine")])
        if not is_perceptron(self.network):
            raise MethodError(f"continual_backprop: {PERCEPTRON}")
        self.hidden = [HiddenUnits(layer.out_features, config, context.device) for layer in self._linear()]
        self._activations: list[Tensor] = []

    def _linear(self) -> Iterator[nn.Linear]:
        """The hidden layers, in order."""
        return (layer for layer in self.network.backbone.children() if isinstance(layer, nn.Linear))

    # -- the update --------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        if not self.config.replacement_rate:
            return super().loss(batch)
        passed, self._activations = batch.x, []
        for layer in self.network.backbone.children():
            passed = layer(passed)
            if isinstance(layer, nn.ReLU):
                self._activations.append(passed.detach())
        return {"task": self.cross_entropy(self.network.head(passed), batch)}

    @torch.no_grad()
    def after_update(self, batch: Batch, at: Position) -> None:
        if not self.config.replacement_rate:
            return
        layers = [*self._linear(), self.network.head]
        weights = [layer.get_parameter("weight") for layer in layers]
        due = []
        for units, activation, (incoming, outgoing) in zip(
            self.hidden, self._activations, pairwise(weights), strict=True
        ):
            units.update(activation, incoming, outgoing)
            due.append(units.fallen_due())
        for place, chosen in enumerate(due):  # all have been judged by the weights as the step left them
            if len(chosen):
                self._replace(place, chosen, layers[place], layers[place + 1])

    def _replace(self, place: int, chosen: Tensor, layer: nn.Module, following: nn.Module) -> None:
        """Let the units ``chosen`` of a hidden layer begin anew."""
        incoming, own_bias = layer.get_parameter("weight"), layer.get_parameter("bias")
        outgoing, units = following.get_parameter("weight"), self.hidden[place]
        if self.config.bias_transfer:
            given = outgoing[:, chosen] @ units.corrected(units.mean)[chosen]
            following.get_parameter("bias").data += given
        outputs, inputs = incoming.shape
        bound = start_bound(self.network.head.start, inputs, outputs)
        drawn = torch.empty(len(chosen), inputs)
        drawn.uniform_(-bound, bound, generator=self.context.generator("replacement"))
        incoming.data[chosen] = drawn.to(incoming.device)
        own_bias.data[chosen] = 0.0
        outgoing.data[:, chosen] = 0.0
        optimizers = self.context.optimizers
        optimizers.forget(incoming, (chosen,))
        optimizers.forget(own_bias, (chosen,))
        optimizers.forget(outgoing, (slice(None), chosen))
        units.begin_anew(chosen)

    # -- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "hidden": [units.state_dict() for units in self.hidden]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        for units, stored in zip(self.hidden, state["hidden"], strict=True):
            units.load_state_dict(stored)
