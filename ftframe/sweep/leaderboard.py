"""`sweep.csv` of a sweep."""

from __future__ import annotations

import csv
from pathlib import Path

from ftframe.console import print_line
from ftframe.sweep.records import SweepFolder


def write_leaderboard(folder: Path) -> None:
    """Write `sweep.csv`: a row for each trial."""
    with (folder / "sweep.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "state", "val/loss"])
        for trial in SweepFolder(folder).load().values():
            writer.writerow([trial.number, trial.state.value, (trial.values or {}).get("val/loss")])


def print_leaderboard(folder: Path) -> None:
    """Show where the rows are."""
    print_line(f"leaderboard: {folder / 'sweep.csv'}")
