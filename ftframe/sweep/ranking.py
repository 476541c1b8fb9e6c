"""Which trial is best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ftframe.sweep.trials import Objective, Trial


@dataclass(frozen=True)
class Entry:
    """A trial's place.

    Attributes:
        trial: The trial.
        sweep: The name of its sweep, where several are ranked together.
        rank: From 1; None for a trial that has not finished, or that lacks a value.
        on_front: Whether no other trial is better in one objective and at least as good in all.
        reason: Why it has no rank, or what there is to say of it.
    """

    trial: Trial
    sweep: str = ""
    rank: int | None = None
    on_front: bool = False
    reason: str = ""


def rank(trials: Iterable[tuple[str, Trial]], objectives: Sequence[Objective]) -> tuple[Entry, ...]:
    """Every trial, the best first and those without a rank last, in their own order.

    One objective ranks by its direction. Of several, the trials of the Pareto front come first and the others behind
    them, both by the first objective. A trial with a value that is not finite comes after all that have none, and a tie
    keeps the order of the trials.

    Args:
        trials: Each with the name of its sweep.
        objectives: What to rank by, at least one.
    """
    entries = [Entry(trial, sweep, reason=_why_unranked(trial, objectives)) for sweep, trial in trials]
    measured = [entry for entry in entries if _is_measured(entry.trial, objectives)]
    costs = [[o.cost(entry.trial.metrics[o.metric]) for o in objectives] for entry in measured]
    front = _pareto_front(costs) if costs and len(objectives) > 1 else [False] * len(costs)
    keys = [_key(cost, on_front) for cost, on_front in zip(costs, front, strict=True)]
    order = sorted(range(len(measured)), key=keys.__getitem__)
    ranked = [replace(measured[i], rank=place, on_front=front[i]) for place, i in enumerate(order, start=1)]
    return (*ranked, *(entry for entry in entries if not _is_measured(entry.trial, objectives)))


def best_of(entries: Sequence[Entry], objectives: Sequence[Objective]) -> Entry | None:
    """The first of ranked entries, unless a value of it is not finite: then there is no best trial."""
    first = entries[0] if entries and entries[0].rank else None
    is_finite = first and all(math.isfinite(first.trial.metrics[objective.metric]) for objective in objectives)
    return first if is_finite else None


def _is_measured(trial: Trial, objectives: Sequence[Objective]) -> bool:
    return trial.state == "done" and all(objective.metric in trial.metrics for objective in objectives)


def _why_unranked(trial: Trial, objectives: Sequence[Objective]) -> str:
    missing = [objective.metric for objective in objectives if objective.metric not in trial.metrics]
    if trial.state != "done" or not missing:
        return trial.reason
    return "; ".join(filter(None, [f"no value of {', '.join(missing)}", trial.reason]))


def _key(costs: Sequence[float], on_front: bool) -> tuple[bool, bool, bool, float]:
    """Sorts finite values first, then the front, then by the first objective; a NaN last of all."""
    is_finite = all(map(math.isfinite, costs))
    return not is_finite, not on_front, math.isnan(costs[0]), 0.0 if math.isnan(costs[0]) else costs[0]


def _pareto_front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Whether each point, [points, objectives], is dominated by no other; less is better."""
    points = np.array(costs, dtype=float)
    finite = np.isfinite(points).all(axis=1)
    rivals = points[finite]
    front = []
    for point, is_finite in zip(points, finite, strict=True):
        dominated = (rivals <= point).all(axis=1) & (rivals < point).any(axis=1)
        front.append(bool(is_finite and not dominated.any()))
    return front
