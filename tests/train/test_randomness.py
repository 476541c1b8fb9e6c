"""Random numbers follow from seed, rank, epoch and micro-batch alone."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ftframe.train.randomness import Randomness, derive_seed


def draws(seed: int, rank: int, epoch: int, batch_idx: int) -> tuple[Any, ...]:
    trainer: Any = SimpleNamespace(global_rank=rank, current_epoch=epoch)
    Randomness(seed).on_train_batch_start(trainer, None, None, batch_idx)  # type: ignore[arg-type]
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_the_same_position_draws_the_same_whatever_came_before() -> None:
    first = draws(0, 0, 1, 7)
    torch.rand(100), np.random.rand(3), random.random()
    assert draws(0, 0, 1, 7) == first


def test_other_positions_draw_other_numbers() -> None:
    seen = [draws(*position) for position in itertools.product((0, 1), (0, 1), (0, 1), (0, 1, 2))]
    for column in zip(*seen, strict=True):
        assert len(set(column)) == len(seen)


def test_seeds_do_not_collide_where_numbers_are_shifted() -> None:
    assert derive_seed(1, 11) != derive_seed(11, 1) != derive_seed(1, 1, 1)
    seeds = {derive_seed(*numbers) for numbers in itertools.product(range(20), repeat=3)}
    assert len(seeds) == 20**3 and all(0 <= seed < 2**63 for seed in seeds)
