"""What a run logged over its steps, as curves short enough for a page."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

POINTS = 60_000
"""The most points of all curves of a page together."""

Curve = list[tuple[float, float]]


def read_curves(path: Path, metrics: Iterable[str]) -> dict[str, Curve]:
    """The points (step, value) of each metric that a `metrics.csv` has, by step.

    A step that a resumed run logged again counts as it was logged last. What is no finite number is left out, and so is
    the rest of a file that breaks off.
    """
    found: dict[str, dict[float, float]] = {}
    wanted = tuple(metrics)
    for row in _rows(path):
        step = _finite(row.get("step"))
        for name in wanted:
            value = _finite(row.get(name))
            if step is not None and value is not None:
                found.setdefault(name, {})[step] = value
    return {name: sorted(points.items()) for name, points in found.items()}


def _rows(path: Path) -> Iterator[Mapping[str | None, Any]]:
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            yield from csv.DictReader(file)
    except (OSError, csv.Error):
        return


def _finite(text: Any) -> float | None:
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def thin(curve: Sequence[tuple[float, float]], most: int) -> Curve:
    """At most so many points of a curve.

    Its ends are kept, and the lowest and the highest point of each stretch between them, so that no spike is lost.

    Args:
        curve: Points by step.
        most: At least 4.
    """
    if len(curve) <= most:
        return list(curve)
    stretches = (most - 2) // 2
    inner = curve[1:-1]
    kept = [curve[0]]
    for index in range(stretches):
        stretch = inner[index * len(inner) // stretches : (index + 1) * len(inner) // stretches]
        extremes = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(extremes)
    return [*kept, curve[-1]]
