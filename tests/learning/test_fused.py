"""Optimisers by their kernels alone, against those of torch."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycl.errors import MethodError
from raycl.learning.fused import FusedOptimizer
from raycl.spec.training import OptimizerName

SHAPES = ((5, 3), (4,), (2, 3, 3, 3), ())
RATE = 0.1

CASES: list[tuple[OptimizerName, dict[str, Any]]] = [
    (name, {"weight_decay": decay, **options})
    for decay in (0.0, 0.1)
    for name, options in (
        ("adam", {}),
        ("adam", {"betas": (0.8, 0.9), "eps": 1e-3}),
        ("adamw", {}),
        ("sgd", {}),
        ("sgd", {"momentum": 0.9}),
        ("adagrad", {}),
        ("adagrad", {"lr_decay": 0.1, "eps": 1e-3}),
        ("rmsprop", {}),
        ("rmsprop", {"momentum": 0.5, "alpha": 0.9}),
    )
]


def torchs(name: OptimizerName, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if name == "rmsprop":
        return torch.optim.RMSprop(groups)
    kinds: dict[str, Any] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
        "adagrad": torch.optim.Adagrad,
    }
    optimizer: torch.optim.Optimizer = kinds[name](groups, fused=True)
    return optimizer


def learned(
    make: Any, name: OptimizerName, options: dict[str, Any], late: bool = True
) -> tuple[list[Tensor], dict[int, dict[str, Any]]]:
    """Parameters and their states after six steps of a falling rate.

    Args:
        late: one of them has no gradient before the third.
    """
    random = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=random)) for shape in SHAPES]
    parameters[2].data = parameters[2].data.to(memory_format=torch.channels_last)
    groups = [{"params": parameters[:2], "lr": RATE, **options}, {"params": parameters[2:], "lr": RATE / 2, **options}]
    optimizer = make(name, groups)
    for step in range(6):
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=random))
        if late and step < 2:
            parameters[3].grad = None
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
    return [p.detach() for p in parameters], {place: optimizer.state.get(p, {}) for place, p in enumerate(parameters)}


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_step_and_every_state_is_that_of_torch_to_the_bit(name: OptimizerName, options: dict[str, Any]) -> None:
    late = name != "sgd" or "momentum" not in options  # torch's own refuses it; the next test has it
    found, states = learned(FusedOptimizer, name, dict(options), late)
    expected, torch_states = learned(torchs, name, dict(options), late)
    assert all(torch.equal(own, other) for own, other in zip(found, expected, strict=True))
    for place, state in torch_states.items():
        assert states[place].keys() == state.keys()
        for key, value in state.items():
            assert torch.equal(states[place][key], value), key
            assert states[place][key].dtype == value.dtype


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_momentum_begins_with_the_first_gradient(decay: float) -> None:
    """Parameter by parameter as torch's, which takes a step of all or of none for the first."""
    options = {"momentum": 0.9, "weight_decay": decay}
    found, states = learned(FusedOptimizer, "sgd", options)

    class Each:
        """One optimiser of torch for each parameter."""

        def __init__(self, name: OptimizerName, groups: list[dict[str, Any]]) -> None:
            self.each = [torchs(name, [{**group, "params": [p]}]) for group in groups for p in group["params"]]
            self.param_groups = [optimizer.param_groups[0] for optimizer in self.each]

        @property
        def state(self) -> dict[Tensor, dict[str, Any]]:
            return {parameter: state for each in self.each for parameter, state in each.state.items()}

        def step(self) -> None:
            for optimizer in self.each:
                if optimizer.param_groups[0]["params"][0].grad is not None:
                    optimizer.step()

    expected, torch_states = learned(Each, "sgd", options)
    assert all(torch.equal(own, other) for own, other in zip(found, expected, strict=True))
    for place, state in torch_states.items():
        assert torch.equal(states[place]["momentum_buffer"], state["momentum_buffer"])


def test_a_decay_that_is_not_taken_apart_is_seen() -> None:
    """The mutant: adamw's weight decay among the gradients."""
    wrong, _ = learned(FusedOptimizer, "adamw", {"weight_decay": 0.1, "decoupled_weight_decay": False})
    right, _ = learned(torchs, "adamw", {"weight_decay": 0.1})
    assert not torch.equal(wrong[0], right[0])


def test_a_parameter_without_gradient_keeps_still_and_counts_no_step() -> None:
    still = nn.Parameter(torch.ones(2))
    optimizer = FusedOptimizer("adamw", [{"params": [still], "lr": RATE, "weight_decay": 0.5}])
    optimizer.step()
    assert still.tolist() == [1, 1]
    assert not optimizer.state


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            [{"params": [], "dampening": 0.5}],
            "may hold momentum, nesterov, params, weight_decay, and scale .got dampening",
        ),
        ([{"params": [torch.zeros(1)] * 2}], "in one group once"),
        ([{"params": [nn.Parameter(torch.zeros(1)) * 2]}], "a tensor that was computed"),
    ],
)
def test_what_it_cannot_step_is_refused(groups: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        FusedOptimizer("sgd", [{"lr": RATE, "weight_decay": 0.0, **group} for group in groups])


def test_parameters_and_states_may_be_replaced_between_steps() -> None:
    """Nothing of the last step is held: ``data`` that is set anew, and states that are, take part in the next one."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = FusedOptimizer("adam", [{"params": [parameter], "lr": RATE, "weight_decay": 0.0}])
    parameter.grad = torch.ones(2)
    optimizer.step()
    kept = copy.deepcopy(optimizer.state[parameter])
    optimizer.step()
    once_more = parameter.detach().clone()
    parameter.data, optimizer.state[parameter] = torch.full((2,), 0.9), kept
    parameter.grad = torch.ones(2)
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), once_more)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad", "rmsprop"])
def test_a_gradient_that_lies_otherwise_in_memory_reaches_its_own_entries(name: OptimizerName) -> None:
    """As a transposed one does; kernels of torch alone would give it to other entries."""
    straight, turned = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2, 3))
    gradient = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]])
    for parameter, own in ((straight, gradient), (turned, gradient.T.contiguous().T)):
        optimizer = FusedOptimizer(name, [{"params": [parameter], "lr": RATE, "weight_decay": 0.0}])
        for _ in range(2):
            parameter.grad = own
            optimizer.step()
    assert torch.equal(straight, turned)


def test_a_trial_imports_nothing_of_torchs_compiler() -> None:
    """Its import takes a second and 100 MB, and the first object of ``torch.optim`` would bring it."""
    code = """
import sys
from support import finish, trainer, trial
for name in ("ewc", "hypernetwork"):
    finish(trainer(trial(name, training={"iterations": 2})))
assert "torch._dynamo" not in sys.modules
import torch
torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
assert "torch._dynamo" in sys.modules, "nothing to show"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd="tests")
