"""Which trial is best."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftframe.sweep.ranking import best_of, rank
from ftframe.sweep.trials import Objective, Trial

LOSS = Objective("val/loss")
SPEED = Objective("tokens_per_second", "maximize")
VALUES = st.one_of(st.integers(0, 5).map(float), st.sampled_from([math.nan, math.inf, -math.inf]))


def trials(values, objectives=(LOSS,), state="done"):
    """A trial for each tuple of values."""
    named = [dict(zip((o.metric for o in objectives), row, strict=True)) for row in values]
    return [("", Trial(number, state, Path(), metrics=metrics)) for number, metrics in enumerate(named)]


def numbers(entries):
    return [entry.trial.number for entry in entries]


@pytest.mark.parametrize(
    ("direction", "order"),
    [("minimize", [2, 0, 4, 5, 1, 3, 6]), ("maximize", [0, 4, 5, 2, 1, 3, 6])],
)
def test_one_objective(direction, order):
    values = [(1.0,), (math.nan,), (0.5,), (math.inf,), (1.0,), (1.0,), (-math.inf,)]
    entries = rank(trials(values, (Objective("val/loss", direction),)), [Objective("val/loss", direction)])
    assert numbers(entries)[:4] == order[:4]
    assert set(numbers(entries)[4:]) == {1, 3, 6}
    assert [entry.rank for entry in entries] == [1, 2, 3, 4, 5, 6, 7]
    assert numbers(entries)[-1] == 1, "a NaN comes last of all"


def test_only_finished_trials_rank():
    done = trials([(1.0,)])
    others = [
        ("", Trial(number, state, Path(), metrics={"val/loss": 0.1}, reason=f"it {state}"))
        for number, state in enumerate(("failed", "pruned", "interrupted", "running", "waiting", "unknown"), start=1)
    ]
    lacking = [("", Trial(7, "done", Path(), reason="there is no metrics.json"))]
    entries = rank([*others, *lacking, *done], [LOSS])
    assert numbers(entries) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [entry.rank for entry in entries] == [1, *[None] * 7]
    assert entries[1].reason == "it failed"
    assert entries[-1].reason == "no value of val/loss; there is no metrics.json"


def test_several_objectives_put_the_pareto_front_first():
    values = [(1.0, 100.0), (0.5, 50.0), (0.6, 50.0), (2.0, 200.0), (0.5, 50.0), (0.4, math.nan)]
    entries = rank(trials(values, (LOSS, SPEED)), [LOSS, SPEED])
    assert numbers(entries) == [1, 4, 0, 3, 2, 5]
    assert [entry.on_front for entry in entries] == [True, True, True, True, False, False]


@given(st.lists(st.tuples(VALUES, VALUES), max_size=12))
def test_the_front_is_what_nothing_dominates(values):
    entries = rank(trials(values, (LOSS, SPEED)), [LOSS, SPEED])
    assert sorted(numbers(entries)) == list(range(len(values)))
    finite = [row for row in values if all(map(math.isfinite, row))]
    for entry in entries:
        loss, speed = values[entry.trial.number]
        beaten = any(a <= loss and b >= speed and (a, b) != (loss, speed) for a, b in finite)
        assert entry.on_front == (math.isfinite(loss) and math.isfinite(speed) and not beaten)
    front = [entry.on_front for entry in entries]
    assert front == sorted(front, reverse=True)


@given(st.lists(st.tuples(VALUES), max_size=12))
def test_ties_keep_their_order_and_ranks_have_no_gap(values):
    entries = rank(trials(values), [LOSS])
    assert [entry.rank for entry in entries] == list(range(1, len(values) + 1))
    finite = [(row[0], number) for number, row in enumerate(values) if math.isfinite(row[0])]
    assert numbers(entries)[: len(finite)] == [number for _, number in sorted(finite)]


@pytest.mark.parametrize(
    ("values", "best"), [([(2.0,), (1.0,)], 1), ([(math.nan,)], None), ([(-math.inf,)], None), ([], None)]
)
def test_the_best_has_finite_values(values, best):
    found = best_of(rank(trials(values), [LOSS]), [LOSS])
    assert (found.trial.number if found else None) == best


def test_nothing_is_best_if_nothing_has_finished():
    assert best_of(rank(trials([(1.0,)], state="failed"), [LOSS]), [LOSS]) is None
