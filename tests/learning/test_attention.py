"""Gates and their compensated gradient, the annealing of their sharpness, and updates that go a share of their way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.learning.attention import Attention, ScaledUpdates, annealed, gate
from raycl.models.cnn import CNNConfig
from raycl.models.cnn import build as build_cnn
from raycl.models.mlp import MLPConfig
from raycl.models.mlp import build as build_mlp
from raycl.models.resnet import ResNet18Config, ResNet32Config, build_resnet18, build_resnet32

S_MAX = 400.0
Gate = Callable[[Tensor, float, float], Tensor]

# -- the gradient of a gate ------------------------------------------------------------------------------------


def slope(function: Gate, embedding: Tensor, sharpness: float) -> Tensor:
    """The gradient of the sum of gates with respect to the embedding."""
    embedding = embedding.clone().requires_grad_()
    function(embedding, sharpness, S_MAX).sum().backward()
    assert embedding.grad is not None
    return embedding.grad


def compensated(embedding: Tensor, sharpness: float, clamp: float = 50.0) -> Tensor:
    """The paper's formula on the plain gradient, found by central differences, in float64."""
    e = embedding.double()
    h = 1e-6 / sharpness
    plain = (torch.sigmoid(sharpness * (e + h)) - torch.sigmoid(sharpness * (e - h))) / (2 * h)
    factor = S_MAX * (torch.cosh((sharpness * e).clamp(-clamp, clamp)) + 1) / (sharpness * (torch.cosh(e) + 1))
    return plain * factor


def check_compensation(function: Gate) -> None:
    for sharpness in (1 / S_MAX, 0.1, 1.0, 7.0):
        reach = min(6.0, 50.0 / sharpness)
        embedding = torch.linspace(-reach, reach, 201)
        e = embedding.double()
        closed = S_MAX * torch.sigmoid(e) * torch.sigmoid(-e)
        torch.testing.assert_close(slope(function, embedding, sharpness).double(), closed, rtol=1e-6, atol=0)


def without_compensation(embedding: Tensor, sharpness: float, s_max: float) -> Tensor:
    """A mutant: the gradient as it comes."""
    return torch.sigmoid(sharpness * embedding)


def test_the_gradient_is_that_of_a_gate_of_slope_one() -> None:
    check_compensation(gate)


def test_a_gradient_without_compensation_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_compensation(without_compensation)


@pytest.mark.parametrize("sharpness", [1 / S_MAX, 0.3, 2.0])
def test_it_is_the_papers_formula_on_finite_differences(sharpness: float) -> None:
    embedding = torch.linspace(-4, 4, 81)
    found = slope(gate, embedding, sharpness).double()
    torch.testing.assert_close(found, compensated(embedding, sharpness), rtol=1e-5, atol=0)


def unclamped(embedding: Tensor, sharpness: float, s_max: float) -> Tensor:
    """A mutant: the paper's factor without the clamp, on the gradient that float32 gives."""
    factor = s_max * (torch.cosh(sharpness * embedding) + 1) / (sharpness * (torch.cosh(embedding) + 1))
    gates = torch.sigmoid(sharpness * embedding)
    gates.register_hook(lambda gradient: gradient * factor.detach())
    return gates


def check_extremes(function: Gate) -> None:
    found = slope(function, torch.tensor([-6.0, -1.0, 0.0, 1.0, 6.0]), S_MAX)
    assert bool(torch.isfinite(found).all())
    assert float(found[2]) == S_MAX / 4


def test_sharp_gates_have_finite_gradients() -> None:
    check_extremes(gate)


def test_a_factor_that_overflows_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_extremes(unclamped)


def test_beyond_the_clamp_the_gradient_fades_as_the_papers_does() -> None:
    e, sharpness = torch.tensor([-0.3, -0.2, 0.2, 0.3]).double(), 300.0
    plain = sharpness * torch.sigmoid(sharpness * e) * torch.sigmoid(-sharpness * e)
    factor = S_MAX * (torch.cosh((sharpness * e).clamp(-50, 50)) + 1) / (sharpness * (torch.cosh(e) + 1))
    torch.testing.assert_close(slope(gate, e, sharpness), plain * factor, rtol=1e-9, atol=0)


def in_float32(embedding: Tensor, sharpness: float, s_max: float) -> Tensor:
    return gate(embedding, sharpness, s_max, "float32")


def test_in_float32_the_gradient_is_the_same_while_a_gate_is_not_1() -> None:
    for sharpness in (1 / S_MAX, 0.1, 1.0, 7.0):
        reach = min(6.0, 8.0 / sharpness)
        embedding = torch.linspace(-reach, reach, 201)
        torch.testing.assert_close(
            slope(in_float32, embedding, sharpness), slope(gate, embedding, sharpness), rtol=5e-4, atol=0
        )


def check_open_gates(function: Gate) -> None:
    """24 log 2 = 16.64: from there on 1 + exp(-s e) is 1 in float32, while exp(s e) is not 0 for a long time."""
    products = torch.tensor([16.0, 17.0, 30.0, 49.0])
    limit = S_MAX * float(torch.sigmoid(torch.tensor(1.0)) * torch.sigmoid(torch.tensor(-1.0)))
    opened = [float(slope(function, torch.ones(1), float(product))) for product in products]
    closed = [float(slope(function, -torch.ones(1), float(product))) for product in products]
    assert closed == pytest.approx([limit] * 4, rel=1e-4)
    assert opened[0] == pytest.approx(limit, rel=0.1)
    assert opened[1:] == [0.0, 0.0, 0.0]


def test_in_float32_an_open_gate_loses_its_gradient_where_its_sigmoid_is_1() -> None:
    check_open_gates(in_float32)


def test_an_exact_gradient_called_float32_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_open_gates(gate)


def test_an_open_gate_gets_a_third_of_the_gradient_that_a_closed_one_gets() -> None:
    """While s rises from 0 to s_max: 24 log 2 of 50 + 1 parts, where rounding allows."""
    ramp = torch.linspace(1 / S_MAX, S_MAX, 2001).tolist()
    for function, share in ((in_float32, 24 * math.log(2) / 51), (gate, 1.0)):
        opened, closed = (sum(float(slope(function, e * torch.ones(1), s)) for s in ramp) for e in (1.0, -1.0))
        assert opened / closed == pytest.approx(share, rel=0.03)


# -- annealing -------------------------------------------------------------------------------------------------

Schedule = Callable[[int, int, int, float], float]


def check_every_pass(schedule: Schedule) -> None:
    updates, passes = 35, 5
    values = [schedule(update, updates, passes, S_MAX) for update in range(updates)]
    line = torch.linspace(1 / S_MAX, S_MAX, 7).double()
    for first in range(0, updates, 7):
        torch.testing.assert_close(torch.tensor(values[first : first + 7]).double(), line, rtol=1e-5, atol=1e-5)


def test_sharpness_rises_from_end_to_end_in_every_pass() -> None:
    check_every_pass(annealed)


def test_annealing_over_the_whole_task_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_every_pass(lambda update, updates, passes, s_max: annealed(update, updates, 1, s_max))


def steps(schedule: Schedule, updates: int, passes: int) -> list[float]:
    return [round(schedule(update, updates, passes, S_MAX)) for update in range(updates)]


def test_passes_of_one_update_share_a_rise() -> None:
    assert steps(annealed, 10, 10) == [0, 100, 200, 300, 400] * 2
    assert steps(annealed, 3, 3) == [0, 200, 400]
    assert steps(annealed, 10, 2) == [0, 100, 200, 300, 400] * 2


def test_a_rise_without_steps_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycl.learning.attention.SHORTEST_RISE", 2)
    assert steps(annealed, 10, 10) == [0, 400] * 5


@pytest.mark.parametrize(("updates", "passes"), [(1, 1), (2, 2), (5, 5), (17, 3), (400, 7)])
def test_every_length_ends_sharp(updates: int, passes: int) -> None:
    values = [annealed(update, updates, passes, S_MAX) for update in range(updates)]
    assert values[0] == 1 / S_MAX
    assert all(1 / S_MAX <= value <= S_MAX for value in values)
    if updates > 1:
        assert values[-1] == pytest.approx(S_MAX)


# -- scaled updates --------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}
SHARE = torch.tensor([0.0, 0.25, 0.5, 1.0]).repeat(5)


class ScalesGradients(ScaledUpdates):
    """A mutant: the gradient is scaled, and the optimiser does what it likes."""

    def before_update(self) -> None:
        for parameter, _, share in self._parts:
            assert parameter.grad is not None
            parameter.grad.mul_(share)

    def after_update(self) -> None:
        pass


def check_scaling(kind: type[ScaledUpdates], optimizer: str) -> None:
    start = torch.randn(20, generator=torch.Generator().manual_seed(0))
    free, held = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    updates = [OPTIMIZERS[optimizer]([parameter]) for parameter in (free, held)]
    for step in range(3):
        if step == 1:  # from here on, with momentum of earlier updates
            scaled = kind({"w": held}, {"w": SHARE})
        before = held.detach().clone()
        for parameter in (free, held):
            parameter.grad = torch.ones(20)
        if step:
            scaled.before_update()
        for update in updates:
            update.step()
        if step:
            scaled.after_update()
            moved = (held - before).detach()
            torch.testing.assert_close(moved, SHARE * (free - before).detach(), rtol=1e-5, atol=1e-6)
            assert torch.equal(held[SHARE == 0], before[SHARE == 0])
            assert torch.equal(held[SHARE == 1], free[SHARE == 1])
        free.data.copy_(held.data)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_an_update_goes_its_share_whatever_the_optimizer(optimizer: str) -> None:
    check_scaling(ScaledUpdates, optimizer)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_scaled_gradients_are_caught(optimizer: str) -> None:
    with pytest.raises(AssertionError):
        check_scaling(ScalesGradients, optimizer)


@pytest.mark.parametrize("share", [[0.0, 1.0, 1.0, 0.0], [0.0, 0.5, 1.0, 0.0]])
def test_what_is_kept_takes_no_part_in_clipping(share: list[float]) -> None:
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.tensor([1e6, 1.0, 2.0, 1e6])
    ScaledUpdates({"w": parameter}, {"w": torch.tensor(share)}).before_update()
    assert parameter.grad.tolist() == [0.0, 1.0, 2.0, 0.0]


# -- gates in a backbone ---------------------------------------------------------------------------------------


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: build_mlp(MLPConfig(hidden=(9, 7)), (1, 8, 8), seeded()).backbone,
    "cnn": lambda: build_cnn(CNNConfig(channels=(4, 6), hidden=8), (2, 8, 8), seeded()).backbone,
    "resnet18": lambda: build_resnet18(ResNet18Config(width=4, norm="none"), (2, 16, 16), seeded()).backbone,
    "resnet32": lambda: build_resnet32(ResNet32Config(width=4, norm="none"), (2, 16, 16), seeded()).backbone,
}
IMAGES = {"mlp": (1, 8, 8), "cnn": (2, 8, 8), "resnet18": (2, 16, 16), "resnet32": (2, 16, 16)}


def gates_of(attention: Attention, seed: int) -> Tensor:
    return (torch.rand(attention.units, generator=torch.Generator().manual_seed(seed)) < 0.5).float()


def check_protection(name: str, kind: type[Attention]) -> None:
    """Noise wherever weights are free does not move the features of an old task by a bit, and does move others."""
    backbone = BACKBONES[name]()
    attention = kind(backbone)
    x = torch.randn(5, *IMAGES[name], generator=seeded())
    old, older = gates_of(attention, 1), gates_of(attention, 2)
    shares = attention.shares(torch.maximum(old, older))
    before = [attention.features(x, gates, {}) for gates in (old, older, 1 - old)]
    noise = seeded()
    with torch.no_grad():
        for path, parameter in backbone.named_parameters():
            parameter += shares[path] * torch.randn(parameter.shape, generator=noise)
    after = [attention.features(x, gates, {}) for gates in (old, older, 1 - old)]
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[2], before[2])


@pytest.mark.parametrize("name", list(BACKBONES))
def test_what_is_free_does_not_reach_an_old_task(name: str) -> None:
    check_protection(name, Attention)


class FreeBiases(Attention):
    """A mutant: biases are protected by nothing."""

    def shares(self, used: Tensor) -> dict[str, Tensor]:
        shares = super().shares(used)
        return {name: torch.ones_like(share) if name.endswith("bias") else share for name, share in shares.items()}


class Tiles(Attention):
    """A mutant: behind a flattened image the channels' gates follow one another, pixel by pixel."""

    def shares(self, used: Tensor) -> dict[str, Tensor]:
        shares = super().shares(used)
        for name, share in shares.items():
            channels = self.sizes[1]
            if share.dim() == 2:
                positions = share.shape[1] // channels
                shares[name] = share.view(len(share), channels, positions).transpose(1, 2).flatten(1).contiguous()
        return shares


@pytest.mark.parametrize("mutant", [FreeBiases, Tiles])
def test_a_wrong_protection_is_caught(mutant: type[Attention]) -> None:
    with pytest.raises(AssertionError):
        check_protection("cnn", mutant)


def test_exactly_the_weights_between_used_units_are_kept() -> None:
    attention = Attention(BACKBONES["cnn"]())
    used = torch.rand(attention.units, generator=seeded())
    first, second, hidden = used.split([4, 6, 8])
    shares = attention.shares(used)
    backbone = attention.backbone
    assert {name: share.shape for name, share in shares.items()} == {n: p.shape for n, p in backbone.named_parameters()}
    assert torch.equal(shares["0.bias"], 1 - first)
    for unit in range(6):
        assert torch.equal(shares["0.weight"][unit % 4], (1 - first[unit % 4]).expand(2, 3, 3))
        for channel in range(4):
            assert (shares["4.weight"][unit, channel] == 1 - min(second[unit], first[channel])).all()
    weight = shares["9.weight"].view(8, 6, 4)
    for unit in range(8):
        for channel in range(6):
            assert (weight[unit, channel] == 1 - min(hidden[unit], second[channel])).all()


def test_a_closed_gate_is_a_unit_that_is_not_there() -> None:
    backbone = build_mlp(MLPConfig(hidden=(9, 7)), (1, 8, 8), seeded()).backbone
    attention = Attention(backbone)
    gates = gates_of(attention, 3)
    first, second = (half.bool() for half in gates.split([9, 7]))
    x = torch.randn(5, 1, 8, 8, generator=seeded())
    found = attention.features(x, gates, {})
    assert not found[:, ~second].any()
    one, two = backbone[1], backbone[3]
    hidden = torch.relu(nn.functional.linear(x.flatten(1), one.weight[first], one.bias[first]))
    alone = torch.relu(nn.functional.linear(hidden, two.weight[second][:, first], two.bias[second]))
    torch.testing.assert_close(found[:, second], alone)
    torch.testing.assert_close(attention.features(x, torch.ones(16), {}), backbone(x))


def test_parameters_can_be_replaced_for_one_pass() -> None:
    attention = Attention(BACKBONES["mlp"]())
    x = torch.randn(5, 1, 8, 8, generator=seeded())
    state: Mapping[str, Tensor] = {"3.weight": torch.zeros(7, 9), "3.bias": torch.ones(7)}
    assert torch.equal(attention.features(x, torch.ones(16), state), torch.ones(5, 7))
    assert not torch.equal(attention.features(x, torch.ones(16), {}), torch.ones(5, 7))


@pytest.mark.parametrize(
    ("backbone", "rule"),
    [
        (nn.Sequential(nn.Flatten()), "needs hidden layers"),
        (nn.Sequential(nn.Linear(2, 2)), "needs hidden layers"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU()), "got Linear"),
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh()), "got Tanh"),
        (nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(8, 8), nn.ReLU()), "set model.norm: none or batch"),
    ],
)
def test_backbones_whose_units_cannot_be_gated(backbone: Any, rule: str) -> None:
    with pytest.raises(MethodError, match=rule):
        Attention(backbone)
