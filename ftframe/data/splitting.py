"""Rows held out for validation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from ftframe.errors import ConfigError

T = TypeVar("T")


def hold_out(rows: Sequence[T], *, fraction: float, seed: int) -> tuple[list[T], list[T]]:
    """A seeded split into training and validation rows that keeps their order.

    Args:
        rows: All rows.
        fraction: The share of rows for validation.
        seed: Chooses the rows.

    Raises:
        ConfigError: If either side would be empty.
    """
    count = round(len(rows) * fraction)
    if not 0 < count < len(rows):
        raise ConfigError(
            f"data.validation_fraction={fraction} takes {count} of {len(rows)} rows; at least one row must stay on "
            "either side. Change it, or set data.dataset.validation_path or data.dataset.validation_split."
        )
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    train = [row for index, row in enumerate(rows) if index not in chosen]
    return train, [rows[index] for index in sorted(chosen)]
