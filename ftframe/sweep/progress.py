"""What a person sees while a sweep runs: a live table in a terminal, a line for each event elsewhere."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from ftframe.console import console, print_line
from ftframe.sweep.records import State, SweepFolder, Trial
from ftframe.sweep.scheduler import Running

REFRESH_SECONDS = 1.0
_SHOWN_ENDED = 10
_STYLES = {State.DONE: "green", State.FAILED: "red", State.INTERRUPTED: "yellow", State.PRUNED: "dim"}


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: Optimizer steps so far; None before the first.
        total: Of the whole run.
        loss: The last logged training loss.
        tokens_per_second: Over all ranks.
        seconds_per_step: The mean so far.
    """

    step: int | None = None
    total: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_per_step: float | None = None


def read_progress(run: Path) -> Progress:
    """How far a run is, from its `progress.json` and `metrics.csv`; what is not there yet, or half written, is None."""
    loss = None
    try:
        with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
            losses = [row["train/loss"] for row in csv.DictReader(file) if row.get("train/loss")]
        loss = float(losses[-1]) if losses else None
        told = json.loads((run / "progress.json").read_text(encoding="utf-8"))
        return Progress(told["step"], told["total_steps"], loss, told["tokens_per_second"], told["seconds_per_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return Progress(loss=loss)


def described(overrides: Mapping[str, Any]) -> str:
    """What varies, as it would be typed."""
    return " ".join(f"{key}={value}" for key, value in overrides.items())


def outcome(trial: Trial, metric: str) -> str:
    """The end of a trial in a few words."""
    value = (trial.values or {}).get(metric)
    parts = [trial.state.value, f"{metric} {value:.4f}" if value is not None else "", trial.reason or ""]
    return "  ".join(part for part in parts if part)


class Lines:
    """One line for each trial that ends."""

    def __init__(self, metric: str, total: int | None) -> None:
        """Show one metric; `total` is the number of trials where it is known."""
        self._metric = metric
        self._width = len(str(total or 0))
        self._of = f"/{total}" if total else ""
        self._ended = 0

    def started(self, trial: Trial) -> None:
        """As `View`; nothing is shown."""

    def ended(self, trial: Trial) -> None:
        """As `View`."""
        self._ended += 1
        counted = f"{self._ended:>{self._width}}{self._of}"
        told = f"{described(trial.overrides)}  {outcome(trial, self._metric)}  {trial.seconds or 0.0:.1f} s"
        print_line(f"{counted}  trial {trial.number:04}  {told}")

    def refresh(self, running: Sequence[Running]) -> None:
        """As `View`; nothing is shown."""


class LiveTable:
    """A table that follows the trials; use it in a `with`."""

    def __init__(self, folder: SweepFolder, metric: str, total: int | None) -> None:
        """Show the trials of a folder, and one metric of those that ended."""
        self._folder = folder
        self._metric = metric
        self._total = total
        self._ended: list[Trial] = []
        self._refreshed = 0.0
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> LiveTable:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last drawing where it is."""
        self._live.stop()

    def started(self, trial: Trial) -> None:
        """As `View`."""
        self._refreshed = 0.0

    def ended(self, trial: Trial) -> None:
        """As `View`."""
        self._ended.append(trial)
        self._refreshed = 0.0

    def refresh(self, running: Sequence[Running]) -> None:
        """As `View`."""
        if time.monotonic() - self._refreshed >= REFRESH_SECONDS:
            self._refreshed = time.monotonic()
            self._live.update(self._table(running), refresh=True)

    def _table(self, running: Sequence[Running]) -> Table:
        of = f" of {self._total}" if self._total is not None else ""
        table = Table(title=f"{len(self._ended)}{of} trials ended", title_justify="left")
        for name in ("trial", "varied", "state", "step", "loss", "tokens/s", "ETA"):
            table.add_column(name, justify="right" if name in ("step", "loss", "tokens/s", "ETA") else "left")
        for trial in self._ended[-_SHOWN_ENDED:]:
            style = _STYLES.get(trial.state, "")
            told = f"[{style}]{escape(outcome(trial, self._metric))}[/{style}]"
            speed = (trial.values or {}).get("tokens_per_second")
            table.add_row(f"{trial.number:04}", escape(described(trial.overrides)), told, "", "", _number(speed), "")
        for item in running:
            table.add_row(*self._row(item))
        return table

    def _row(self, item: Running) -> list[str]:
        progress = read_progress(self._folder.run(item.trial.number))
        step = "" if progress.step is None else f"{progress.step}/{progress.total}"
        loss = "" if progress.loss is None else f"{progress.loss:.4f}"
        told = [f"{item.trial.number:04}", escape(described(item.trial.overrides)), item.trial.state.value]
        return [*told, step, loss, _number(progress.tokens_per_second), _duration(remaining(progress))]


def remaining(progress: Progress) -> float | None:
    """Seconds of training that a run still needs at its pace so far; None where no one can tell."""
    if progress.step is None or progress.total is None or progress.seconds_per_step is None:
        return None
    return progress.seconds_per_step * max(0, progress.total - progress.step)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
