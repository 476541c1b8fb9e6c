"""Where trials stand on the axes of parallel coordinates."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftframe.sweep.axes import ABSENT, LABELS, build_axis, is_log_spread

SPREADS = {
    "ranks of an adapter": ([4, 8, 16, 64], True),
    "learning rates": ([1e-5, 3e-5, 1e-4, 1e-3], True),
    "a range": (list(range(1, 101)), False),
    "a narrow one": ([1, 2, 4], False),
    "with zero": ([0.0, 1e-3, 1e-1], False),
    "below zero": ([-1, 10, 100], False),
    "one value": ([5], False),
}


@pytest.mark.parametrize(("values", "is_log"), SPREADS.values(), ids=SPREADS.keys())
def test_numbers_that_are_log_spread(values, is_log):
    assert is_log_spread([float(value) for value in values]) is is_log
    assert build_axis("r", values, is_set=[True] * len(values))["kind"] == ("log" if is_log else "linear")


def test_numbers_stand_by_value():
    axis = build_axis("optim.lr", [1e-5, 1e-3, 1e-4, 1e-4], is_set=[True] * 4)
    assert (axis["kind"], axis["places"]) == ("log", [0.0, 1.0, 0.5, 0.5])
    assert axis["ticks"] == [[0.0, "1e-05"], [0.5, "0.0001"], [1.0, "0.001"]]
    axis = build_axis("dropout", [0.0, 0.1, None], is_set=[True, True, False])
    assert (axis["kind"], axis["places"]) == ("linear", [0.0, 1.0, None])


def test_anything_else_is_a_category():
    axis = build_axis("peft", ["lora", "qlora", "lora", None], is_set=[True, True, True, False])
    assert axis["kind"] == "category"
    assert [label for _, label in axis["ticks"]] == ["lora", "qlora", ABSENT]
    assert axis["places"][0] == axis["places"][2] != axis["places"][1]
    mixed = build_axis("x", [True, 1, "1", [1], None, math.nan], is_set=[True] * 6)
    assert {label for _, label in mixed["ticks"]} == {"true", "1", "[1]", "null", "NaN"}


def test_many_categories_have_some_labels():
    axis = build_axis("path", [f"{number:04d}" for number in range(1000)], is_set=[True] * 1000)
    assert len(set(axis["places"])) == 1000
    assert 10 <= len(axis["ticks"]) <= LABELS


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_places_lie_on_the_axis_and_ticks_are_few(values):
    axis = build_axis("x", values, is_set=[True] * len(values))
    assert all(0 <= place <= 1 for place in axis["places"])
    assert all(0 <= place <= 1 for place, _ in axis["ticks"])
    assert len(axis["ticks"]) <= 20
