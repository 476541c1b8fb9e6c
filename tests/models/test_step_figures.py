import copy
import math

import pytest
import torch

from ftframe.models.step_figures import Figures, Step, can_skip_on_device, skip_if_not_finite

GOOD = torch.tensor([12.5, 40.0, 3.0], dtype=torch.float64)
BAD = {
    "loss is nan": [math.nan, 40.0, 3.0],
    "loss is infinite": [math.inf, 40.0, 3.0],
    "norm is nan": [12.5, 40.0, math.nan],
    "norm is infinite": [12.5, 40.0, math.inf],
    "no token": [0.0, 0.0, 0.0],
}


def test_figures_are_the_sums():
    step = Step.begin(7, GOOD, [[1, 2], [3]])
    assert step.figures() == Figures(loss=12.5, tokens=40.0, squared_norm=3.0)
    assert (step.number, step.rows) == (7, [[1, 2], [3]])
    assert step.waited_seconds >= 0


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (5,))]


def fused(kind=torch.optim.AdamW, **options):
    return kind(parameters(), lr=0.1, fused=True, **options)


def half_fused():
    first, second = parameters()
    return torch.optim.AdamW([{"params": [first], "fused": True}, {"params": [second], "fused": False}])


OPTIMIZERS = {
    "fused AdamW": (fused, True),
    "fused Adam": (lambda: fused(torch.optim.Adam), True),
    "AdamW": (lambda: torch.optim.AdamW(parameters()), False),
    "half fused": (half_fused, False),
    "fused SGD": (lambda: fused(torch.optim.SGD), False),
    "Adagrad": (lambda: torch.optim.Adagrad(parameters()), False),
}


@pytest.mark.parametrize(("make", "expected"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_which_optimizers_can_skip(make, expected):
    optimizer = make()
    assert can_skip_on_device(optimizer, optimizer.param_groups) is expected


def step(optimizer, gradient=1.0):
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()


def everything(optimizer):
    """Copies of the weights and of the optimizer's state for each."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    return copy.deepcopy([(p.detach(), dict(optimizer.state[p])) for p in weights])


def is_same(first, second):
    return all(
        torch.equal(weight, other) and all(torch.equal(state[key], others[key]) for key in state)
        for (weight, state), (other, others) in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam])
@pytest.mark.parametrize("sums", BAD.values(), ids=BAD)
def test_a_bad_step_changes_neither_weights_nor_state(kind, sums):
    optimizer = fused(kind, weight_decay=0.1)
    step(optimizer)
    before = everything(optimizer)
    skip_if_not_finite(optimizer, torch.tensor(sums, dtype=torch.float64))
    step(optimizer, math.nan)
    assert is_same(everything(optimizer), before)


def test_a_bad_first_step_changes_no_weight():
    optimizer = fused()
    before = everything(optimizer)
    skip_if_not_finite(optimizer, torch.tensor(BAD["loss is nan"]))
    step(optimizer, math.nan)
    for (weight, state), (expected, _) in zip(everything(optimizer), before, strict=True):
        assert torch.equal(weight, expected)
        assert state["step"] == 0
        assert not state["exp_avg"].any()


def test_steps_behind_a_bad_one_are_left_out_too():
    optimizer = fused()
    step(optimizer)
    before = everything(optimizer)
    skip_if_not_finite(optimizer, torch.tensor(BAD["norm is infinite"]))
    step(optimizer, math.inf)
    skip_if_not_finite(optimizer, GOOD)
    step(optimizer)
    assert is_same(everything(optimizer), before)


def test_good_steps_are_those_of_an_optimizer_without_the_flag():
    optimizer, plain = fused(), fused()
    for _ in range(3):
        skip_if_not_finite(optimizer, GOOD)
        step(optimizer)
        step(plain)
    assert is_same(everything(optimizer), everything(plain))
    assert not torch.equal(optimizer.param_groups[0]["params"][0], parameters()[0])
