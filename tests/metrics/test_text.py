"""Metrics of generated text."""

import math

import pytest

from ftframe.metrics.text import ExactMatch


@pytest.mark.parametrize(
    ("preds", "target", "ignore_case", "expected"),
    [
        (["Rome"], ["Rome"], False, 1.0),
        (["Rome", "Oslo"], ["Rome", "Bern"], False, 0.5),
        (["rome"], ["Rome"], False, 0.0),
        (["rome"], ["Rome"], True, 1.0),
        ([" Rome\n"], ["Rome"], False, 1.0),
        (["Rome"], ["\tRome "], False, 1.0),
        (["Ro me"], ["Rome"], False, 0.0),
        (["Rome."], ["Rome"], False, 0.0),
        ([""], [""], False, 1.0),
        ([""], ["Rome"], False, 0.0),
        (["Straße", "ÅÄÖ", "x"], ["straße", "åäö", "y"], True, 2 / 3),
    ],
    ids=[
        "equal",
        "half",
        "case",
        "ignored case",
        "trimmed prediction",
        "trimmed reference",
        "inner space",
        "full stop",
        "both empty",
        "empty prediction",
        "ignored case beyond ASCII",
    ],
)
def test_exact_match(preds, target, ignore_case, expected):
    metric = ExactMatch(ignore_case=ignore_case)
    metric.update(preds, target)
    assert metric.compute().item() == pytest.approx(expected)


PREDS = ["a", "b", "c", "d", "e", "f", "g"]
TARGET = ["a", "x", "c", "d", "x", "x", "g"]


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_two_updates_equal_one(cut):
    whole, parts = ExactMatch(), ExactMatch()
    whole.update(PREDS, TARGET)
    parts.update(PREDS[:cut], TARGET[:cut])
    parts.update(PREDS[cut:], TARGET[cut:])
    assert parts.compute() == whole.compute() == pytest.approx(4 / 7)


@pytest.mark.parametrize("cut", [1, 3, 7], ids=["uneven", "nearly even", "one rank without rows"])
def test_states_of_two_ranks_add_up(cut):
    """What torchmetrics does over ranks: reduce each state by its own function, then compute."""
    whole, first, second = ExactMatch(), ExactMatch(), ExactMatch()
    whole.update(PREDS, TARGET)
    first.update(PREDS[:cut], TARGET[:cut])
    if PREDS[cut:]:
        second.update(PREDS[cut:], TARGET[cut:])
    reductions = {name: fx.__name__ for name, fx in first._reductions.items()}
    assert reductions == {"matches": "dim_zero_sum", "total": "dim_zero_sum"}
    merged = ExactMatch()
    for name in reductions:
        setattr(merged, name, getattr(first, name) + getattr(second, name))
    merged.update([], [])
    assert merged.compute() == whole.compute()
    assert merged.total == 7

    first.merge_state(second)
    assert first.compute() == whole.compute()


def test_reset_forgets():
    metric = ExactMatch()
    metric.update(["a"], ["a"])
    metric.reset()
    metric.update(["a"], ["b"])
    assert metric.compute() == 0


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_nothing_counted_is_nan():
    assert math.isnan(ExactMatch().compute())


def test_unequal_numbers_are_refused():
    metric = ExactMatch()
    with pytest.raises(ValueError, match=r"^2 predictions for 1 references$"):
        metric.update(["a", "b"], ["a"])
