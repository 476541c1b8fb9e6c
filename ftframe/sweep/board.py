"""The leaderboard as columns and rows, of one sweep or of several."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftframe.errors import ConfigError, did_you_mean
from ftframe.runs import shown
from ftframe.sweep.ranking import Entry, rank
from ftframe.sweep.trials import Objective, Sweep, Trial

FIGURES = ("tokens_per_second", "peak_gpu_gib", "peak_host_gib", "seconds")
"""Numbers of a run that a leaderboard has beside the final metrics, which are named `val/...`."""


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard.

    Attributes:
        name: Its heading.
        kind: `place` (of the trial on the board), `key` (what varies), `metric` or `text`.
    """

    name: str
    kind: str


RANK = Column("rank", "place")


@dataclass(frozen=True)
class Board:
    """Ranked trials, of one sweep or of several.

    Attributes:
        title: What a page of it is called.
        entries: The best first; those without a rank last.
        notes: What could not be read, a sentence each.
    """

    title: str
    sweeps: tuple[Sweep, ...]
    objectives: tuple[Objective, ...]
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]

    @property
    def keys(self) -> list[str]:
        """The keys that vary, in the order in which the trials name them."""
        return list(dict.fromkeys(key for entry in self.entries for key in entry.trial.overrides))

    @property
    def metrics(self) -> list[str]:
        """The metrics that a trial has: the objectives, then the others by name, then speed, memory and time."""
        found = {name for entry in self.entries for name in entry.trial.metrics}
        objectives = [objective.metric for objective in self.objectives]
        named = sorted(name for name in found if "/" in name)
        return list(dict.fromkeys([*objectives, *named, *(name for name in FIGURES if name in found)]))

    def columns(self) -> list[Column]:
        """All columns."""
        return [
            *([Column("sweep", "text")] if len(self.sweeps) > 1 else []),
            Column("number", "place"),
            Column("state", "text"),
            RANK,
            *([Column("pareto_front", "text")] if len(self.objectives) > 1 else []),
            *(Column(key, "key") for key in self.keys),
            *(Column(metric, "metric") for metric in self.metrics),
            Column("reason", "text"),
        ]


def build_board(sweeps: Sequence[Sweep], by: Objective | None = None) -> Board:
    """The board of sweeps, ranked by their objectives or by another metric.

    Raises:
        ConfigError: If the sweeps have different objectives, or none of their trials has the metric.
    """
    names = _names(sweeps)
    objectives = (by,) if by else sweeps[0].objectives
    for sweep, name in zip(sweeps, names, strict=True):
        if by is None and sweep.objectives != objectives:
            raise ConfigError(
                f"{names[0]} is ranked by {_spell(objectives)}, and {name} by {_spell(sweep.objectives)}. "
                "Choose one metric for all of them: --by METRIC."
            )
    several = len(sweeps) > 1
    labels = names if several else [""]
    trials = [(label, trial) for sweep, label in zip(sweeps, labels, strict=True) for trial in sweep.trials]
    if by is not None:
        _refuse_unknown(by.metric, (trial for _, trial in trials))
    return Board(
        title=f"{len(sweeps)} sweeps" if several else f"Sweep {names[0]}",
        sweeps=tuple(sweeps),
        objectives=objectives,
        entries=rank(trials, objectives),
        notes=tuple(
            f"{name}: {note}" if several else note
            for sweep, name in zip(sweeps, names, strict=True)
            for note in sweep.notes
        ),
    )


def _names(sweeps: Sequence[Sweep]) -> list[str]:
    """Each folder's name, or its path where two have the same."""
    names = [sweep.folder.resolve().name for sweep in sweeps]
    return names if len(set(names)) == len(names) else [str(shown(sweep.folder.resolve())) for sweep in sweeps]


def _spell(objectives: Iterable[Objective]) -> str:
    return " and ".join(f"{objective.metric} ({objective.direction})" for objective in objectives)


def _refuse_unknown(metric: str, trials: Iterable[Trial]) -> None:
    known = sorted({name for trial in trials for name in trial.metrics})
    if metric not in known:
        raise ConfigError(
            f"--by {metric}: no trial has that metric.{did_you_mean(metric, known)}\n"
            f"Known: {', '.join(known) or 'none yet'}."
        )


def cell(entry: Entry, column: Column) -> Any:
    """What stands in a column; None for nothing."""
    trial = entry.trial
    if column.kind == "key":
        return spell_value(trial.overrides[column.name]) if column.name in trial.overrides else None
    if column.kind == "metric":
        return trial.metrics.get(column.name)
    cells: Mapping[str, Any] = {
        "sweep": entry.sweep,
        "number": trial.number,
        "state": trial.state,
        "rank": entry.rank,
        "pareto_front": "yes" if entry.on_front else "no" if entry.rank else None,
        "reason": entry.reason or None,
    }
    return cells[column.name]


def spell_value(value: Any) -> str:
    """A value as a config has it: `null`, `true`, a list in brackets; a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def counts(entries: Iterable[Entry]) -> dict[str, int]:
    """How many trials are in each state."""
    found: dict[str, int] = {}
    for entry in entries:
        found[entry.trial.state] = found.get(entry.trial.state, 0) + 1
    return found


def place_of(folder: Path) -> str:
    """A folder as a person would type it."""
    return str(shown(folder.resolve()))
