"""What a sweep folder says."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def records(folder: Path) -> list[dict[str, Any]]:
    """The trials of a sweep, in order."""
    return [json.loads(file.read_text()) for file in sorted((folder / "trials").glob("*.json"))]


def leaderboard(folder: Path) -> dict[int, tuple[str, str]]:
    """State and validation loss of each trial, from `sweep.csv`."""
    with (folder / "sweep.csv").open(newline="") as file:
        return {int(row["number"]): (row["state"], row["val/loss"]) for row in csv.DictReader(file)}


def starts(folder: Path) -> list[list[str]]:
    """What each trial that began wrote of itself."""
    file = folder / "starts.txt"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(condition: Callable[[], Any], seconds: float = 90.0) -> None:
    """Wait until something holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


def group_lives(group: int) -> bool:
    """Whether a process group has a process that is no zombie."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    shown = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    found = [line.split() for line in shown.splitlines()]
    return any(int(pgid) == group and not stat.startswith("Z") for pgid, stat in found)
