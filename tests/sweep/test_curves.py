"""What a run logged, as curves for a page."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftframe.sweep.curves import read_curves, thin

METRICS = ("train/loss", "val/loss")
FILES = {
    "as logged": ("step,epoch,train/loss,val/loss\n0,0,2.5,\n1,0,,2.25\n1,0,2.0,\n", {0: 2.5, 1: 2.0}),
    "broken off": ("step,train/loss\n0,2.5\n1,2", {0: 2.5, 1: 2.0}),
    "broken off in a row": ("step,epoch,train/loss\n0,0,2.5\n1,", {0: 2.5}),
    "not finite": ("step,train/loss\n0,2.5\n1,nan\n2,inf\n3,1.5\n", {0: 2.5, 3: 1.5}),
    "resumed": ("step,train/loss\n0,2.5\n1,2.25\n2,9.0\n1,2.0\n2,1.75\n", {0: 2.5, 1: 2.0, 2: 1.75}),
    "nothing": ("", {}),
    "other columns": ("epoch,loss\n0,2.5\n", {}),
    "quotes that do not end": ('step,train/loss\n0,2.5\n1,"' + "x" * 200_000, {0: 2.5}),
    "bytes": ("step,train/loss\n0,2.5\n\0\0,\0\n", {0: 2.5}),
}


@pytest.mark.parametrize(("text", "points"), FILES.values(), ids=FILES.keys())
def test_curves_are_read(tmp_path, text, points):
    (tmp_path / "metrics.csv").write_text(text)
    found = read_curves(tmp_path / "metrics.csv", METRICS)
    assert found.get("train/loss", []) == sorted(points.items())


def test_without_a_file_there_are_none(tmp_path):
    assert read_curves(tmp_path / "metrics.csv", METRICS) == {}
    assert read_curves(tmp_path, METRICS) == {}


@given(st.lists(st.floats(-1e6, 1e6), max_size=300), st.integers(4, 50))
def test_a_thinned_curve_keeps_its_ends_and_its_extremes(values, most):
    curve = [(float(step), value) for step, value in enumerate(values)]
    kept = thin(curve, most)
    assert len(kept) <= most
    assert kept == sorted(kept)
    assert set(kept) <= set(curve)
    if curve:
        assert (kept[0], kept[-1]) == (curve[0], curve[-1])
        assert min(value for _, value in kept) == min(values)
        assert math.isclose(max(value for _, value in kept), max(values))
