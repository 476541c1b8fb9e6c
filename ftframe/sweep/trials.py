"""The folder of a sweep as it stands: what was asked for, and every trial with what is known of it.

A sweep is read while it runs, and after it was killed: a file that is missing or half written costs what it would have
said and is named, never the trial.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftframe.errors import ConfigError

STATES = ("done", "running", "waiting", "interrupted", "pruned", "failed")
UNKNOWN = "unknown"
"""The state of a trial whose file cannot be read."""

DIRECTIONS = ("minimize", "maximize")
_NUMBER = re.compile(r"[0-9]{1,9}")
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "infinity": math.inf, "-infinity": -math.inf}


@dataclass(frozen=True)
class Objective:
    """A metric to rank by, and which way is better."""

    metric: str
    direction: str = "minimize"

    def cost(self, value: float) -> float:
        """The value such that less is better."""
        return value if self.direction == "minimize" else -value

    def __str__(self) -> str:
        return f"{self.metric}, {self.direction}"


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: Its number, which names its files.
        state: One of `STATES`, or `UNKNOWN`.
        overrides: The keys that vary, each with the trial's value.
        metrics: Each final metric, and the numbers of the run: tokens_per_second, peak memory, seconds.
        reason: Why it has not finished, or what could not be read of it; empty if there is nothing to say.
        folder: Its run folder, which may not exist.
    """

    number: int
    state: str
    folder: Path
    overrides: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Sweep:
    """A sweep: what was asked for, and its trials by number.

    Attributes:
        typed: The overrides that were typed, secrets redacted.
        cells: How many trials were planned, if that is known.
        notes: What could not be read of the folder, a sentence each.
    """

    folder: Path
    command: str
    typed: tuple[str, ...]
    objectives: tuple[Objective, ...]
    cells: int | None
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = ()


def read_sweep(folder: Path) -> Sweep:
    """The sweep of a folder.

    Raises:
        ConfigError: If the folder holds none.
    """
    if not (folder / "sweep.json").is_file() and not (folder / "trials").is_dir():
        raise ConfigError(_explain_no_sweep(folder))
    asked, trouble = _read_json(folder, "sweep.json")
    notes = [f"{trouble}; ranked by {Objective('val/loss')}"] if trouble else []
    cells = asked.get("cells")
    trials = tuple(_read_trial(folder, number) for number in sorted(_numbers(folder)))
    cells = cells if isinstance(cells, int) and not isinstance(cells, bool) else None
    if cells is not None and cells > len(trials):
        notes.append(f"{cells - len(trials)} of {cells} trials have no file yet")
    return Sweep(
        folder=folder,
        command=str(asked.get("command") or "fit"),
        typed=tuple(str(override) for override in _as_list(asked.get("overrides"))),
        objectives=tuple(_objectives(asked.get("objectives"))) or (Objective("val/loss"),),
        cells=cells,
        trials=trials,
        notes=tuple(notes),
    )


def _explain_no_sweep(folder: Path) -> str:
    what = f"{folder} is not the folder of a sweep: it has no sweep.json."
    if not folder.is_dir():
        return f"There is no folder {folder}. Give the folder of a sweep, outputs/multirun/<name>."
    if (folder / "config.yaml").is_file() and (folder / "metrics.csv").is_file():
        return f"{what} It is the folder of a single run. Give the folder of a sweep, outputs/multirun/<name>."
    inside = sorted(path.parent for path in folder.glob("*/sweep.json"))
    if inside:
        return f"{what} Give what lies in it: {' '.join(map(str, inside[:3]))}{' ...' if len(inside) > 3 else ''}"
    return f"{what} `ftframe fit -m` makes one in outputs/multirun/."


def _numbers(folder: Path) -> set[int]:
    """The number of every trial that left a file or a run folder."""
    names = [path.stem for path in (folder / "trials").glob("*.json")]
    names += [path.name for path in (folder / "runs").glob("*") if path.is_dir()]
    return {int(name) for name in names if _NUMBER.fullmatch(name)}


def _read_trial(folder: Path, number: int) -> Trial:
    name = f"{number:04d}"
    told, trouble = _read_json(folder, f"trials/{name}.json")
    state = told.get("state")
    reasons = [trouble]
    if not trouble and state not in STATES:
        reasons.append(f"trials/{name}.json has no state that is known: {state!r}")
    run = _run_folder(folder, told.get("folder"), f"runs/{name}")
    results, trouble = _read_json(folder, f"{run}/metrics.json")
    if state == "done":
        reasons.append(trouble)
    told_overrides = told.get("overrides")
    overrides = told_overrides if isinstance(told_overrides, Mapping) else {}
    return Trial(
        number=number,
        state=state if state in STATES else UNKNOWN,
        folder=folder / run,
        overrides={str(key): value for key, value in overrides.items()},
        metrics=_metrics(told, results),
        reason="; ".join(filter(None, [_reason(told), *reasons])),
    )


def _reason(told: Mapping[str, Any]) -> str:
    """Why the trial has not finished, in its own file's words."""
    reason, code = told.get("reason"), told.get("exit_code")
    if reason:
        return str(reason)
    return f"exit code {code}" if code and told.get("state") != "done" else ""


def _run_folder(folder: Path, told: Any, usual: str) -> str:
    """The trial's run folder, relative to the sweep's; a path that leads nowhere, or out of the sweep, is not taken."""
    if not isinstance(told, str):
        return usual
    try:
        is_inside = (folder / told).resolve().is_relative_to(folder.resolve()) and (folder / told).is_dir()
    except (OSError, RuntimeError, ValueError):  # a name too long, a loop of links, a null byte
        is_inside = False
    return told if is_inside else usual


def _metrics(told: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, float]:
    """Every number of the run and every final metric, the objectives' values last, which the trial's file has."""
    found: dict[str, float] = {}
    for source in ({"seconds": told.get("seconds")}, results, results.get("final"), told.get("values")):
        for name, value in source.items() if isinstance(source, Mapping) else ():
            number = as_number(value)
            if number is not None:
                found[str(name)] = number
    return found


def as_number(value: Any) -> float | None:
    """The value as a float if it is one, also where JSON had to spell it as a text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return _NON_FINITE.get(value.strip().lower()) if isinstance(value, str) else None


def _objectives(told: Any) -> Iterator[Objective]:
    for objective in _as_list(told):
        if isinstance(objective, Mapping) and isinstance(objective.get("metric"), str):
            direction = objective.get("direction")
            yield Objective(objective["metric"], direction if direction in DIRECTIONS else DIRECTIONS[0])


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _read_json(folder: Path, name: str) -> tuple[Mapping[str, Any], str]:
    """The mapping in a file of the folder, and what is wrong with it; one of the two is empty."""
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, f"there is no {name}"
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{name} cannot be read: {type(error).__name__}"
    return (content, "") if isinstance(content, dict) else ({}, f"{name} cannot be read: it is no mapping")
