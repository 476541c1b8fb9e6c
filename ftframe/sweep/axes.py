"""The axes of parallel coordinates: where each trial stands on each, from 0 to 1, and what is written beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from ftframe.sweep.board import spell_value
from ftframe.sweep.importances import is_numeric

NAMED = 8
"""With so many values or fewer, each is a tick."""

LABELS = 30
"""The most labels of an axis of categories."""

LOG_SPREAD = 8
"""How many times the least value the greatest must be for a logarithmic axis."""

ABSENT = "not set"

Axis = dict[str, Any]


def build_axis(name: str, values: Sequence[Any], *, is_set: Sequence[bool]) -> Axis:
    """An axis for the values of all trials.

    Numbers stand on a linear axis, or on a logarithmic one where that spreads them more evenly; anything else stands on
    an axis of categories.

    Args:
        name: Its heading.
        values: One per trial, at least one in all.
        is_set: Whether the trial has a value at all; on an axis of numbers it has no place if not.
    """
    given = [value for value, has_value in zip(values, is_set, strict=True) if has_value]
    if not given or not is_numeric(given) or not math.isfinite(float(max(given)) - float(min(given))):
        return _category_axis(name, [spell_value(v) if has else ABSENT for v, has in zip(values, is_set, strict=True)])
    numbers = [float(value) for value in given]
    scale = math.log10 if is_log_spread(numbers) else _linear
    low, high = scale(min(numbers)), scale(max(numbers))
    distinct = sorted(set(numbers))
    ticks = distinct if len(distinct) <= NAMED else _ticks(distinct[0], distinct[-1], is_log=scale is math.log10)

    def place(number: float) -> float:
        return round((scale(number) - low) / (high - low), 4) if high > low else 0.5

    return {
        "name": name,
        "kind": "log" if scale is math.log10 else "linear",
        "ticks": [[place(tick), f"{tick:.6g}"] for tick in ticks],
        "places": [place(float(v)) if has else None for v, has in zip(values, is_set, strict=True)],
    }


def is_log_spread(numbers: Sequence[float]) -> bool:
    """Whether positive numbers lie more evenly on a logarithmic axis: by where the middle one of them stands."""
    distinct = sorted(set(numbers))
    low, high = distinct[0], distinct[-1]
    if low <= 0 or high < LOG_SPREAD * low:
        return False
    middle = median(distinct)

    def unevenness(scale: Callable[[float], float]) -> float:
        return abs((scale(middle) - scale(low)) / (scale(high) - scale(low)) - 0.5)

    return unevenness(math.log10) < unevenness(_linear)


def _linear(number: float) -> float:
    return number


def _category_axis(name: str, labels: Sequence[str]) -> Axis:
    distinct = sorted(set(labels), key=lambda label: (label == ABSENT, label))
    places = {label: (rank + 0.5) / len(distinct) for rank, label in enumerate(distinct)}
    every = math.ceil(len(distinct) / LABELS)
    return {
        "name": name,
        "kind": "category",
        "ticks": [[round(places[label], 4), label] for label in distinct[::every]],
        "places": [round(places[label], 4) for label in labels],
    }


def _ticks(low: float, high: float, *, is_log: bool) -> list[float]:
    """Round numbers from low to high, 3 to 9 or so."""
    if not is_log:
        step = _round_step((high - low) / 5)
        first, last = math.ceil(low / step), math.floor(high / step)
        return [float(f"{index * step:.12g}") for index in range(first, last + 1)]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(decades) <= 3 else (1,)
    found = [float(f"{factor}e{decade}") for decade in decades for factor in factors]
    inside = [tick for tick in found if low <= tick <= high]
    return inside[:: math.ceil(len(inside) / NAMED) or 1]


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= step), 10 * power)
