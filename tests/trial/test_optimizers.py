"""Optimisers across tasks: scaled, clipped, reset, or extended with their moments."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from raycl.spec.training import TrainingConfig
from raycl.strategies.base import Trainable
from raycl.trial import checkpoint
from raycl.trial.optimizers import OptimizerSet


def training(**options: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"learning_rate": 0.1, **options})


def stepped(optimizers: OptimizerSet, parameter: nn.Parameter, gradient: float = 1.0) -> torch.Tensor:
    before = parameter.detach().clone()
    parameter.grad = torch.full_like(parameter, gradient)
    optimizers.step()
    return parameter.detach() - before


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad", "rmsprop"])
def test_every_optimiser_moves_against_the_gradient(name: str) -> None:
    parameter = nn.Parameter(torch.zeros(3))
    optimizers = OptimizerSet(training(optimizer=name))
    optimizers.build({"network": Trainable.of([parameter])})
    assert (stepped(optimizers, parameter) < 0).all()


def test_groups_scale_and_schedules_multiply_the_rate() -> None:
    slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizers = OptimizerSet(training(optimizer="sgd"))
    optimizers.build({"network": Trainable([{"params": [slow], "scale": 0.5}, {"params": [fast]}])})
    optimizers.set_rates(lambda settings: 0.1)
    slow.grad, fast.grad = torch.ones(1), torch.ones(1)
    optimizers.step()
    assert (slow.item(), fast.item()) == pytest.approx((-0.005, -0.01))


def test_a_gradient_is_clipped_by_its_norm() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    optimizers = OptimizerSet(training(optimizer="sgd", gradient_clip=1.0))
    optimizers.build({"network": Trainable.of([parameter])})
    assert stepped(optimizers, parameter, 10.0).norm().item() == pytest.approx(0.1, rel=1e-4)


def test_kept_moments_go_on_and_new_rows_start_at_zero() -> None:
    old = nn.Parameter(torch.zeros(2, 3))
    optimizers = OptimizerSet(training(optimizer="sgd", momentum=0.9))
    optimizers.build({"network": Trainable.of([old])})
    stepped(optimizers, old)
    grown = nn.Parameter(torch.cat([old.detach(), torch.zeros(1, 3)]))
    optimizers.build({"network": Trainable.of([grown])}, keep_state=True)
    moved = stepped(optimizers, grown)
    assert moved[:2].flatten().tolist() == pytest.approx([-0.19] * 6)
    assert moved[2].tolist() == pytest.approx([-0.1] * 3)


def test_moments_stay_with_their_parameter_when_another_one_leaves() -> None:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizers = OptimizerSet(training(optimizer="sgd", momentum=0.9))
    optimizers.build({"network": Trainable.of([first, second])})
    first.grad, second.grad = torch.full((2,), 5.0), torch.full((2,), 1.0)
    optimizers.step()
    optimizers.build({"network": Trainable.of([second])}, keep_state=True)
    assert stepped(optimizers, second, 0.0).tolist() == pytest.approx([-0.09] * 2)


def test_a_reset_forgets_the_moments() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    optimizers = OptimizerSet(training(optimizer="sgd", momentum=0.9))
    for _ in range(2):
        optimizers.build({"network": Trainable.of([parameter])})
        assert stepped(optimizers, parameter).tolist() == pytest.approx([-0.1, -0.1])


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_restored_moments_give_the_same_next_step(name: str) -> None:
    settings = training(optimizer=name, momentum=0.9)
    first, second = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    running, restored = OptimizerSet(settings), OptimizerSet(settings)
    running.build({"network": Trainable.of([first])})
    stepped(running, first)
    second.data.copy_(first.data)
    restored.build({"network": Trainable.of([second])})
    restored.load_state_dict(copy.deepcopy(running.state_dict()))
    assert torch.equal(stepped(running, first, 0.5), stepped(restored, second, 0.5))


# -- rows that no loss reaches ---------------------------------------------------------------------------------------

OPTIMIZERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop")
TASKS = (0, 1, 2, 1, 0)
"""The heads that learn, one after another; earlier ones come back."""
SIZES, FEATURES = (2, 3, 1), 5


def bounds(task: int) -> range:
    return range(sum(SIZES[:task]), sum(SIZES[: task + 1]))


class Head:
    """Weights and biases that grow by a task's rows, as a strategy's head does, and gradients that reach a few rows."""

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(0)
        self.weight, self.bias = nn.Parameter(torch.empty(0, FEATURES)), nn.Parameter(torch.empty(0))

    def grow(self, task: int) -> None:
        missing = max(0, bounds(task).stop - len(self.bias))
        weight, bias = (
            torch.randn(missing, *shape, generator=torch.Generator().manual_seed(task)) for shape in ((FEATURES,), ())
        )
        if missing:
            self.weight = nn.Parameter(torch.cat([self.weight.data, weight]))
            self.bias = nn.Parameter(torch.cat([self.bias.data, bias]))

    def learning(self, task: int) -> dict[nn.Parameter, list[range]]:
        return {self.weight: [bounds(task)], self.bias: [bounds(task)]}

    def gradients(self, task: int) -> None:
        """Of zero for the rows of other tasks, as autograd gives them."""
        for parameter in (self.weight, self.bias):
            parameter.grad = torch.zeros_like(parameter)
            rows = parameter.grad[bounds(task).start : bounds(task).stop]
            rows.copy_(torch.randn(rows.shape, generator=self.random))

    def values(self) -> list[torch.Tensor]:
        return [self.weight.detach().clone(), self.bias.detach().clone()]


def learn(settings: TrainingConfig, keep: bool, whole: bool = False, restored: bool = False) -> list[torch.Tensor]:
    """The values of weight and bias after each task.

    Args:
        whole: the mutant, which steps all rows.
        restored: go on from a checkpoint after every task, as a trainer does.
    """
    head, optimizers, values = Head(), OptimizerSet(settings), []
    for task in TASKS:
        if restored and task != TASKS[0]:
            state, optimizers = optimizers.state_dict(), OptimizerSet(settings)
            optimizers.build({"network": Trainable.of([head.weight, head.bias])})
            optimizers.load_state_dict(checkpoint.decode(checkpoint.encode(state)))
        head.grow(task)
        rows = None if whole else head.learning(task)
        optimizers.build({"network": Trainable.of([head.weight, head.bias])}, rows, keep)
        for _ in range(4):
            head.gradients(task)
            optimizers.step()
        values += head.values()
    return values


def learn_apart(settings: TrainingConfig, keep: bool) -> list[torch.Tensor]:
    """The reference: every head is two parameters of torch, whose gradients are None while another one learns."""
    head, parts, optimizers = Head(), {}, {}
    values = []
    for task in TASKS:
        head.grow(task)
        if task not in parts:
            own = slice(bounds(task).start, bounds(task).stop)
            parts[task] = [nn.Parameter(value[own].clone()) for value in head.values()]
        if task not in optimizers or not keep:
            optimizers[task] = reference(settings, parts[task])
        for _ in range(4):
            head.gradients(task)
            for part, parameter in zip(parts[task], (head.weight, head.bias), strict=True):
                assert parameter.grad is not None
                part.grad = parameter.grad[bounds(task).start : bounds(task).stop]
            optimizers[task].step()
        values += [torch.cat([parts[each][place].detach().clone() for each in sorted(parts)]) for place in (0, 1)]
    return values


def reference(settings: TrainingConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=settings.momentum, weight_decay=decay, fused=True)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, rate, momentum=settings.momentum, weight_decay=decay)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adagrad": torch.optim.Adagrad}
    return kinds[settings.optimizer](parameters, rate, weight_decay=decay, fused=True)


def equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


@pytest.mark.parametrize(("keep", "decay"), [(True, 0.0), (True, 0.01), (False, 0.01)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_idle_rows_stay_as_if_each_head_were_a_parameter_of_its_own(name: str, keep: bool, decay: float) -> None:
    settings = training(optimizer=name, momentum=0.9, weight_decay=decay, reset_optimizer=not keep)
    expected = learn_apart(settings, keep)
    assert equal(learn(settings, keep), expected)
    if keep:
        assert equal(learn(settings, keep, restored=True), expected)
    harmless = name == "adagrad" and not decay  # a sum of squares that gains zeros
    assert harmless or not equal(learn(settings, keep, whole=True), expected), "the mutant is caught"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_new_moments_without_decay_move_no_idle_row_of_a_whole_parameter(name: str) -> None:
    """There nothing is cut, so that results are those of one fused call over all rows."""
    settings = training(optimizer=name, momentum=0.9)
    found = learn(settings, keep=False)
    assert equal(found, learn(settings, keep=False, whole=True))
    torch.testing.assert_close(found, learn_apart(settings, keep=False))
    for before, after, task in zip(found[:-2], found[2:], [task for task in TASKS[1:] for _ in range(2)], strict=True):
        idle = [row for row in range(len(before)) if row not in bounds(task)]
        assert torch.equal(before[idle], after[idle])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_idle_moments_stay_to_the_bit(name: str) -> None:
    settings = training(optimizer=name, momentum=0.9, weight_decay=0.01, reset_optimizer=False)
    head, optimizers = Head(), OptimizerSet(settings)

    def moments(task: int) -> list[torch.Tensor]:
        """Of the rows of a task: all tensors of the state, counts of steps among them."""
        found = []
        for state in optimizers.state_dict()["network"].values():
            parts = state.get("rows", [{"ends": [0, len(head.bias)], "state": state}])
            for part in parts:
                if part["ends"] == [bounds(task).start, bounds(task).stop]:
                    found += [value.clone() for value in part["state"].values()]
        return found

    for task in (0, 1):
        head.grow(task)
        optimizers.build({"network": Trainable.of([head.weight, head.bias])}, head.learning(task), True)
        before = moments(0)
        for _ in range(3):
            head.gradients(task)
            optimizers.step()
    assert before
    assert equal(moments(0), before)
    assert moments(1)


def test_without_idle_rows_parameters_are_stepped_whole() -> None:
    """No views: one fused call over the very parameters, as ever."""
    for rows, settings in (
        (None, training(weight_decay=0.1)),
        ([range(2), range(2, 9)], training(weight_decay=0.1)),
        ([range(1)], training()),
    ):
        parameter = nn.Parameter(torch.zeros(3, 2))
        optimizers = OptimizerSet(settings)
        optimizers.build({"network": Trainable.of([parameter])}, {} if rows is None else {parameter: rows})
        (group,) = optimizers["network"].param_groups
        assert group["params"] == [parameter]
        assert group["params"][0] is parameter


def test_a_gradient_is_clipped_by_the_norm_of_whole_parameters() -> None:
    parameter = nn.Parameter(torch.zeros(4, 1))
    optimizers = OptimizerSet(training(optimizer="sgd", gradient_clip=1.0, weight_decay=1e-9))
    optimizers.build({"network": Trainable.of([parameter])}, {parameter: [range(1), range(2, 3)]})
    moved = stepped(optimizers, parameter, 10.0)
    assert moved.flatten().tolist() == pytest.approx([-0.05, 0.0, -0.05, 0.0], rel=1e-4)


# -- entries that begin anew -----------------------------------------------------------------------------------------

CHOSEN = (slice(None), torch.tensor([1, 3]))
ANEW = torch.zeros(3, 5, dtype=torch.bool)
ANEW[CHOSEN] = True


def anew(
    name: str, steps: int, begin_at: int | None, rows: list[range] | None = None, stop_at: int = -1
) -> torch.Tensor:
    """A parameter after so many steps of gradients that are the same for everybody; some entries begin anew at one.

    Args:
        stop_at: the step before which a checkpoint is written and read.
    """
    settings = training(optimizer=name, learning_rate=0.01, momentum=0.9, weight_decay=1e-3, reset_optimizer=False)
    drawn, parameter = torch.Generator().manual_seed(1), nn.Parameter(torch.zeros(3, 5))

    def built() -> OptimizerSet:
        made = OptimizerSet(settings)
        made.build({"network": Trainable.of([parameter])})
        return made

    optimizers, divided = built(), {} if rows is None else {parameter: rows}
    optimizers.build({"network": Trainable.of([parameter])}, divided, True)
    for step in range(steps):
        if step == stop_at:
            state, optimizers = checkpoint.encode(optimizers.state_dict()), built()
            optimizers.load_state_dict(checkpoint.decode(state))
            optimizers.build({"network": Trainable.of([parameter])}, divided, True)
        gradient = torch.randn(3, 5, generator=drawn)
        if step == begin_at:
            optimizers.forget(parameter, CHOSEN)
            parameter.data[ANEW] = 0.5
        if begin_at is None and step == 0:
            parameter.data[ANEW] = 0.5
        parameter.grad = gradient
        optimizers.step()
    return parameter.detach()


def young(name: str, steps: int, after: int) -> torch.Tensor:
    """The reference: a parameter that is made when the others have made ``after`` steps."""
    settings = training(optimizer=name, learning_rate=0.01, momentum=0.9, weight_decay=1e-3)
    drawn, parameter = torch.Generator().manual_seed(1), nn.Parameter(torch.full((3, 5), 0.5))
    optimizers = OptimizerSet(settings)
    optimizers.build({"network": Trainable.of([parameter])})
    for step in range(steps):
        gradient = torch.randn(3, 5, generator=drawn)
        if step >= after:
            parameter.grad = gradient
            optimizers.step()
    return parameter.detach()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_entries_begin_anew_as_if_they_had_just_been_made(name: str) -> None:
    found, untouched = anew(name, 40, begin_at=25), anew(name, 40, begin_at=None)
    torch.testing.assert_close(found[ANEW], young(name, 40, after=25)[ANEW], rtol=1e-5, atol=1e-6)
    assert torch.equal(found[~ANEW], untouched[~ANEW]), "all others go on to the bit"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_entries_that_began_anew_do_so_after_a_restore_too(name: str) -> None:
    for begin_at, stop_at in ((25, 30), (25, 25)):
        assert torch.equal(anew(name, 40, begin_at), anew(name, 40, begin_at, stop_at=stop_at))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_that_learn_alone_begin_anew_too(name: str) -> None:
    found = anew(name, 40, begin_at=25, rows=[range(1), range(2, 3)])
    torch.testing.assert_close(found[[0, 2]], anew(name, 40, begin_at=25)[[0, 2]], rtol=1e-5, atol=1e-6)


def test_the_count_of_steps_is_what_makes_the_difference_for_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant sets moments to zero and lets the count go on: its first steps are three times too large."""
    monkeypatch.setattr("raycl.trial.optimizers.correct", lambda *_: None)
    found, expected = anew("adam", 30, begin_at=25), young("adam", 30, after=25)
    assert (found - expected)[ANEW].abs().max() > 3e-3


def test_the_step_size_is_that_of_an_entry_so_young() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    optimizers = OptimizerSet(training(optimizer="adam", learning_rate=0.01))
    optimizers.build({"network": Trainable.of([parameter])})
    for step in range(2000):
        if step == 1990:
            optimizers.forget(parameter, (torch.tensor([1]),))
        before = stepped(optimizers, parameter, 4.0)
    (size,) = optimizers.step_sizes([parameter])
    torch.testing.assert_close(-before / 4.0, torch.as_tensor(size), rtol=1e-4, atol=0)


def test_a_parameter_that_nobody_steps_has_nothing_to_forget() -> None:
    known, unknown = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizers = OptimizerSet(training(optimizer="adam"))
    optimizers.build({"network": Trainable.of([known])})
    optimizers.forget(known, (torch.tensor([0]),))  # nothing is kept yet
    optimizers.forget(unknown, (torch.tensor([0]),))
    assert stepped(optimizers, known).tolist() == pytest.approx([-0.1, -0.1])
