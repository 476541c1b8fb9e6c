from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftframe.data.mixing import Mixture, plan_mixture
from ftframe.errors import ConfigError

sizes = st.lists(st.integers(1, 60), min_size=1, max_size=4)


def counts(mixture: Mixture, epoch: int = 0, seed: int = 0) -> np.ndarray[Any, Any]:
    """How often each example is drawn in an epoch."""
    return np.bincount(mixture.rows(seed=seed, epoch=epoch), minlength=sum(mixture.sizes))


@given(sizes=sizes, factor=st.floats(0.2, 4), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_draws_are_what_was_planned_and_even_within_a_task(
    sizes: list[int], factor: float, seed: int, epoch: int
) -> None:
    draws = tuple(max(1, round(size * factor)) for size in sizes)
    mixture = Mixture(tuple(sizes), draws)
    drawn = counts(mixture, epoch, seed)
    for size, number, first in zip(sizes, draws, np.cumsum([0, *sizes]), strict=False):
        of_task = drawn[first : first + size]
        assert of_task.sum() == number
        assert of_task.max() - of_task.min() <= 2  # 2 where an epoch crosses from one pass into the next
    assert np.array_equal(mixture.rows(seed=seed, epoch=epoch), mixture.rows(seed=seed, epoch=epoch))


def test_a_task_that_is_seldom_drawn_has_its_turn_over_the_epochs() -> None:
    mixture = Mixture((10,), (4,))
    drawn = sum(counts(mixture, epoch) for epoch in range(5))
    assert drawn.tolist() == [2] * 10


@pytest.mark.parametrize(
    ("flags", "draws"),
    [
        ({}, (90, 10)),
        ({"weights": [1, 1]}, (50, 50)),
        ({"weights": [1, 3]}, (25, 75)),
        ({"weights": [1, 1], "epoch_size": 11}, (6, 5)),
        ({"temperature": 1.0}, (90, 10)),
        ({"temperature": 2.0}, (75, 25)),  # sqrt(90) : sqrt(10) = 3 : 1
        ({"temperature": 1e9}, (50, 50)),
    ],
    ids=["all-once", "even", "weights", "epoch-size", "proportional", "square-root", "hot"],
)
def test_shares(flags: dict[str, Any], draws: tuple[int, int]) -> None:
    mixture = plan_mixture([90, 10], **flags)
    assert mixture.draws == draws
    drawn = counts(mixture)
    assert (drawn[:90].sum(), drawn[90:].sum()) == draws


@given(sizes=sizes, data=st.data())
def test_draws_add_up_and_keep_within_one_of_the_share(sizes: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.5, 9), min_size=len(sizes), max_size=len(sizes)))
    mixture = plan_mixture(sizes, weights=weights, epoch_size=500)
    assert sum(mixture.draws) == 500
    for draws, weight in zip(mixture.draws, weights, strict=True):
        assert abs(draws - 500 * weight / sum(weights)) < 1


def test_all_once_is_each_example_once_in_every_epoch() -> None:
    mixture = plan_mixture([3, 4])
    assert all(counts(mixture, epoch).tolist() == [1] * 7 for epoch in range(3))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epoch_size": 5}, "data.mixing.epoch_size has no meaning with data.mixing.strategy=all_once"),
        ({"weights": [1, 1000], "epoch_size": 10}, "Task 1 of 2 would never be drawn"),
    ],
    ids=["epoch-size", "never-drawn"],
)
def test_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan_mixture([5, 5], **flags)
