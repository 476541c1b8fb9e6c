"""The cells of a grid: composed and checked before the first trial starts, then run in order."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from ftframe import console
from ftframe.sweep.cells import Cell
from ftframe.sweep.multirun import Plan, combinations
from ftframe.sweep.names import find_problems
from ftframe.sweep.progress import described
from ftframe.sweep.records import Trial
from ftframe.sweep.scheduler import Running

_BATCH = 32
"""Cells that one process composes at a time; a smaller grid is composed in this one."""

_SHOWN_REFUSED = 20
_forked: Plan | None = None
"""What the processes of the pool compose from: inherited, since Hydra's loader cannot be sent."""


class Grid:
    """The cells of a grid, in order."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        """Give these."""
        self._left = list(reversed(cells))

    def take(self) -> Cell | None:
        """As `Source`."""
        return self._left.pop() if self._left else None

    def is_exhausted(self) -> bool:
        """As `Source`."""
        return not self._left

    def watch(self, running: Sequence[Running]) -> None:
        """As `Source`; a grid lets every trial run to its end."""

    def ended(self, trial: Trial) -> None:
        """As `Source`."""


def compose_grid(plan: Plan) -> list[Cell]:
    """Every combination of the typed values, composed and checked; those that cannot run say why.

    Raises:
        ConfigError: If there is no end of combinations.
        HydraException: If an override or an option is wrong.
    """
    values = combinations(plan.varied())
    batches = [range(start, min(start + _BATCH, len(values))) for start in range(0, len(values), _BATCH)]
    cells = [plan.settle(number, values[number]) for number in batches[0]]
    if len(batches) > 1:
        cells += _compose_in_parallel(plan, [[(number, values[number]) for number in batch] for batch in batches[1:]])
    composed = [cell for cell in cells if cell.config is not None]
    for cell, problem in zip(composed, find_problems([cell.config or {} for cell in composed]), strict=True):
        cell.problem = problem
    return cells


def _compose_in_parallel(plan: Plan, batches: Sequence[Sequence[tuple[int, Mapping[str, str]]]]) -> list[Cell]:
    """The cells of some batches, on all cores; an error of Hydra's is raised here, where it can be explained."""
    global _forked
    _forked = plan
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        found = [cell for batch in pool.map(_compose_batch, batches) for cell in batch]
    asked = [item for batch in batches for item in batch]
    return [cell or plan.settle(*item) for cell, item in zip(found, asked, strict=True)]


def _compose_batch(batch: Sequence[tuple[int, Mapping[str, str]]]) -> list[Cell | None]:
    assert _forked is not None
    return [_try_to_settle(_forked, number, values) for number, values in batch]


def _try_to_settle(plan: Plan, number: int, values: Mapping[str, str]) -> Cell | None:
    """The cell, or None where Hydra raises: not every one of its exceptions can be sent to another process."""
    try:
        return plan.settle(number, values)
    except Exception:
        return None


def print_refused(cells: Sequence[Cell]) -> None:
    """The combinations that cannot run, under the reason that they share."""
    refused = [cell for cell in cells if cell.problem]
    by_reason: dict[str, list[Cell]] = {}
    for cell in refused:
        by_reason.setdefault(cell.problem, []).append(cell)
    if refused:
        console.print_line(f"{len(refused)} of {len(cells)} combinations cannot run:")
    for reason, members in by_reason.items():
        console.print_line(f"  {reason}")
        for cell in members[:_SHOWN_REFUSED]:
            console.print_line(f"    {cell.number:04}  {described(cell.varied)}")
        if len(members) > _SHOWN_REFUSED:
            console.print_line(f"    and {len(members) - _SHOWN_REFUSED} more")
