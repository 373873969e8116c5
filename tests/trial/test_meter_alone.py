"""What the meter counts in networks of any kind, without a method."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from raycl.learning.fisher import diagonal_fisher
from raycl.learning.grouped_gradients import GroupedGradients
from raycl.models.network import GrowingHead
from raycl.streams.task import Batch
from raycl.trial.meter import Meter

# -- the meter alone ---------------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def read(meter: Meter) -> tuple[int, int]:
    meter.settle()
    counts = meter.forwards, meter.gradients
    meter.reset()
    return counts


def test_copies_count_with_the_network_and_nothing_counts_while_paused() -> None:
    meter, net, x = Meter(), network(), torch.ones(5, 3)
    meter.watch_network(net)
    copy.deepcopy(net)(x).sum().backward()
    assert read(meter) == (5, 5)
    with meter.paused(), meter.paused():
        net(x)
    assert read(meter) == (0, 0)


def test_parts_that_run_in_one_phase_are_one_pass_and_others_are_passes_of_their_own() -> None:
    meter, net, x = Meter(), network(), torch.ones(5, 3)
    meter.watch_network(net)
    with torch.no_grad():
        features = net[:3](x)
    net[3:](torch.cat([features, features])).sum().backward()  # stored activations join at the cut
    assert read(meter) == (10, 10)
    net[:3](x).square().sum().backward()
    assert read(meter) == (5, 5), "features that learn without the head"
    net[:3](x)
    meter.settle()
    net[3:](features)
    assert read(meter) == (10, 0)


def test_a_vectorised_function_counts_every_row_that_it_holds() -> None:
    meter, net, x = Meter(), network(), torch.ones(5, 3)
    meter.watch_network(net)
    weights = dict(net.named_parameters())

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(net, weights, (row[None],))
        return output.sum()

    torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
    assert read(meter) == (5, 5)


def test_modules_that_a_method_makes_itself_are_found_once() -> None:
    meter, net, x = Meter(), network(), torch.ones(5, 3)
    meter.watch_network(net)

    class Method:
        known, part, teacher = net, net[1:3], copy.deepcopy(net)
        empty, made = nn.Sequential(), network()

    method = Method()
    vars(method).update({name: getattr(Method, name) for name in ("known", "part", "teacher", "empty", "made")})
    for _ in range(2):
        meter.watch_attributes(method)
    method.known(x)
    method.teacher(x)
    assert read(meter) == (10, 0)
    method.made(x)
    assert read(meter) == (5, 0)


def test_heads_of_a_methods_own_are_part_of_its_network_and_networks_in_lists_are_not() -> None:
    """One row through trunk and head is one pass, in the first task as in later ones, when heads have come."""
    meter, net, x = Meter(), network(), torch.ones(5, 3)
    meter.watch_network(net)

    class Method:
        def __init__(self) -> None:
            self.network, self.heads, self.teachers = net, nn.ModuleDict(), [{"old": network()}]

    method = Method()
    for task in range(2):
        method.heads[str(task)] = nn.Linear(2, 2)
        meter.watch_attributes(method)
        method.heads[str(task)](method.network(x)).sum().backward()
        assert read(meter) == (5, 5), task
        method.heads[str(task)](torch.ones(3, 2))
        assert read(meter) == (3, 0), "stored features, without the trunk"
        method.teachers[0]["old"](x)
        method.network(x)
        assert read(meter) == (10, 0)


def test_a_layer_that_runs_again_for_its_gradient_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers without a closed form are run once more for every function of the outputs, behind the network's back."""
    meter = Meter()
    net = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2))
    meter.watch_network(net)
    x, y = torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)
    batch = Batch(x, x, y, y, y.bool())

    def fisher() -> None:
        diagonal_fisher(net, [batch], lambda _: torch.ones(4, 2, dtype=torch.bool), "exact", torch.Generator())

    fisher()
    assert read(meter) == (4, 8)
    gradients = GroupedGradients(net, x[:1])
    assert read(meter) == (1, 0)
    gradients(x, lambda rows, logits: logits.logsumexp(1), [3, 1])
    assert read(meter) == (4, 4)
    monkeypatch.setattr("raycl.learning.layer_gradients._Bare.forward", lambda bare, *inputs: bare.layer(*inputs))
    fisher()
    assert read(meter) != (4, 8), "the mutant: its hooks run again as well"


def test_one_head_of_several_is_a_pass() -> None:
    meter, head, x = Meter(), GrowingHead(3, torch.Generator()), torch.ones(5, 3)
    head.grow(4)
    meter.watch_network(head)
    head.own(x, range(1, 3)).sum().backward()
    assert read(meter) == (5, 5)
    head.alone(x, range(1, 3))
    assert read(meter) == (5, 0)
