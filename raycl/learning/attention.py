"""Hard attention: gates on the hidden units of a backbone, and updates that are scaled by what the gates protect.

Serrà, Surís, Miron and Karatzoglou, "Overcoming catastrophic forgetting with hard attention to the task", ICML 2018
(arXiv 1801.01423), sections 2.3 to 2.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from raycl.errors import MethodError
from raycl.learning.ownership import FrozenEntries
from raycl.models.cut import cut
from raycl.models.resnet import Block

Compensation = Literal["float32", "exact"]

LIMIT = 50.0
"""Where the compensation stops: ``|s e|`` is clamped to it."""

SHORTEST_RISE = 5
"""Updates in which the sharpness rises at the quickest: with one or two it would only jump."""


class _ExactGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embedding: Tensor, sharpness: float, s_max: float) -> Tensor:
        ctx.save_for_backward(embedding)
        ctx.sharpness, ctx.s_max = sharpness, s_max
        return torch.sigmoid(sharpness * embedding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (embedding,) = ctx.saved_tensors
        slope = torch.sigmoid(embedding) * torch.sigmoid(-embedding)
        beyond = (ctx.sharpness * embedding).abs_().clamp_(min=LIMIT).sub_(LIMIT)
        return gradient * slope.mul_(ctx.s_max).mul_(beyond.neg_().exp_()), None, None


class _PublishedGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embedding: Tensor, sharpness: float, s_max: float) -> Tensor:
        gates = torch.sigmoid(sharpness * embedding)
        ctx.save_for_backward(embedding, gates)
        ctx.sharpness, ctx.s_max = sharpness, s_max
        return gates

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        embedding, gates = ctx.saved_tensors
        plain = gradient * ((1 - gates) * gates) * ctx.sharpness
        raised = torch.cosh((ctx.sharpness * embedding).clamp_(-LIMIT, LIMIT)) + 1
        return plain * (ctx.s_max / ctx.sharpness * raised / (torch.cosh(embedding) + 1)), None, None


def gate(embedding: Tensor, sharpness: float, s_max: float, compensation: Compensation = "exact") -> Tensor:
    """Sigmoid(s e), whose gradient is compensated for the annealing of s.

    The paper multiplies the gradient q = s sigmoid'(s e) by ``s_max (cosh(s e) + 1) / (s (cosh(e) + 1))``, with
    ``|s e|`` clamped to 50. That is ``s_max sigmoid'(e)``, times exp(50 - |s e|) beyond the clamp.

    ``exact`` is this closed form. ``float32`` takes the steps of the authors' code in the embedding's precision: there
    sigmoid(s e) is 1 from s e = 24 log 2 = 16.6 on, and the gradient of an open gate 0, while that of a closed one
    lives until the clamp. While s rises to s_max, open gates so get 16.6 of the 51 parts of the gradient that closed
    ones get, and that both get by ``exact``: what a price on open gates makes of them is a third.
    """
    function = _ExactGate if compensation == "exact" else _PublishedGate
    gates: Tensor = function.apply(embedding, sharpness, s_max)
    return gates


def annealed(update: int, updates: int, passes: int, s_max: float) -> float:
    """The sharpness s of an update: linear from 1 / s_max to s_max in every pass.

    Passes of fewer than :data:`SHORTEST_RISE` updates share a rise.

    Args:
        update: from 0.
        updates: of the whole phase.
        passes: over the rows, of which the phase consists.
    """
    passes = max(1, min(passes, updates // SHORTEST_RISE))
    done = min(1.0, update * passes % updates / max(1, updates - passes))
    return 1 / s_max + (s_max - 1 / s_max) * done


class ScaledUpdates:
    """Parameters that go only a share of the way on which an optimiser sends them.

    The update is scaled, not the gradient. For plain SGD both are the same; Adam would undo a scaled gradient, and
    momentum and weight decay would get around it. A share of 0 keeps an entry to the last bit, and its gradient is
    zeroed, so that it takes no part in gradient clipping; a share of 1 leaves an entry free.

    Args:
        parameters: by name.
        share: in the parameter's shape, in [0, 1].
    """

    def __init__(self, parameters: Mapping[str, Tensor], share: Mapping[str, Tensor]) -> None:
        partly = {name for name, value in share.items() if ((value > 0) & (value < 1)).any()}
        whole = {name: value == 0 for name, value in share.items() if name not in partly}
        self._frozen = FrozenEntries(parameters, whole)
        held = ((parameters[name], value) for name, value in share.items() if name in partly)
        self._parts = [(parameter, torch.empty_like(parameter), value) for parameter, value in held]
        self._moving = [value.sign() for _, _, value in self._parts]

    @torch.no_grad()
    def before_update(self) -> None:
        self._frozen.zero_gradients()
        for (parameter, before, _), moving in zip(self._parts, self._moving, strict=True):
            if parameter.grad is not None:
                parameter.grad.mul_(moving)
            before.copy_(parameter)

    @torch.no_grad()
    def after_update(self) -> None:
        self._frozen.restore()
        for parameter, before, share in self._parts:
            torch.lerp(before, parameter, share, out=parameter)


@dataclass(frozen=True)
class _Layer:
    """A linear or convolutional layer between two groups of gated units; ``source`` is None for the images."""

    module: nn.Linear | nn.Conv2d
    source: int | None
    target: int


class Attention:
    """One gate for every hidden unit of a backbone, or channel of a convolution, behind its ReLU.

    Gates of all layers stand in one vector ``[units]``, from the first layer to the last.

    Args:
        backbone: modules in a row, residual blocks among them. Hooks are left in it, which do nothing but during
            :meth:`features`.

    Raises:
        MethodError: units cannot be told apart, or there are none.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.sizes: list[int] = []
        self._layers: list[_Layer] = []
        self._gates: tuple[Tensor, ...] = ()
        row = cut(backbone, None)[0]
        pending: nn.Linear | nn.Conv2d | None = None
        source: int | None = None
        for module in row:
            if isinstance(module, (nn.Linear, nn.Conv2d)) and pending is None:
                pending = module
            elif isinstance(module, nn.ReLU) and pending is not None:
                source, pending = self._gated(module, (pending, source)), None
            elif isinstance(module, Block) and pending is None:
                source = self._gated_block(module, source)
            elif not isinstance(module, _PASSED):
                raise MethodError(
                    "hat: gates stand behind layers with a ReLU, and normalisation must keep units apart "
                    f"(got {type(module).__name__}); take model mlp, cnn or a resnet, with norm: none or batch"
                )
        if pending is not None or not self.sizes:
            raise MethodError("hat: needs hidden layers, each with a ReLU (got none); give model.hidden some units")
        if any(isinstance(module, nn.GroupNorm) for module in backbone.modules()):
            raise MethodError("hat: group norm mixes units of several tasks; set model.norm: none or batch")

    @property
    def units(self) -> int:
        return sum(self.sizes)

    def split(self, units: Tensor) -> tuple[Tensor, ...]:
        """``[units]`` -> those of each layer, from the first to the last."""
        layers: tuple[Tensor, ...] = units.split(self.sizes)
        return layers

    def _gated(self, behind: nn.Module, *layers: tuple[nn.Module, int | None]) -> int:
        """Put gates behind a module that passes on the (summed) outputs of layers, given with their sources."""
        group = len(self.sizes)
        for module, source in layers:
            assert isinstance(module, (nn.Linear, nn.Conv2d))
            self._layers.append(_Layer(module, source, group))
        self.sizes.append(self._layers[-1].module.weight.shape[0])

        def apply(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            return output * self._gates[group].view(-1, *[1] * (output.dim() - 2)) if self._gates else output

        behind.register_forward_hook(apply)
        return group

    def _gated_block(self, block: Block, source: int | None) -> int:
        """Gates behind a residual block's inner ReLU and behind the block. What a shortcut passes on is gated."""
        first, _, relu, second, _ = block.residual
        inner = self._gated(relu, (first, source))
        projections = block.shortcut[:1] if isinstance(block.shortcut, nn.Sequential) else ()
        return self._gated(block, (second, inner), *((projection, source) for projection in projections))

    def features(self, x: Tensor, gates: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """``[batch, features]`` through gates ``[units]``, with some of the backbone's parameters and buffers replaced.

        Args:
            state: by their names in the backbone.
        """
        self._gates = gates.split(self.sizes)
        try:
            found: Tensor = functional_call(self.backbone, dict(state), (x,)) if state else self.backbone(x)
        finally:
            self._gates = ()
        return found

    def shares(self, used: Tensor) -> dict[str, Tensor]:
        """How far each weight and bias may still go: 1 - min(a_i, a_j) with i its output and j its input, 1 - a_i.

        Args:
            used: ``[units]``, the largest gate of any earlier task.

        Returns:
            By names in the backbone, in the parameters' shapes. Behind a flattened image a channel has several inputs.
        """
        names = {module: name for name, module in self.backbone.named_modules()}
        groups = used.split(self.sizes)
        shares = {}
        for layer in self._layers:
            weight, name = layer.module.weight, names[layer.module]
            kept = groups[layer.target]
            if layer.module.bias is not None:
                shares[f"{name}.bias"] = 1 - kept
            kept = kept[:, None].expand(weight.shape[:2])
            if layer.source is not None:
                inputs = groups[layer.source]
                kept = torch.minimum(kept, inputs.repeat_interleave(weight.shape[1] // len(inputs)))
            kept = kept.view(*kept.shape, *[1] * (weight.dim() - 2))
            shares[f"{name}.weight"] = (1 - kept).expand(weight.shape).contiguous()
        return shares


_PASSED = (
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.GroupNorm,
)
"""Modules that keep units apart, or, in the case of batch norm, are kept per task."""
