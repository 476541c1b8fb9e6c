"""Folders of sweeps as a launcher leaves them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LOSS = {"metric": "val/loss", "direction": "minimize"}


class SweepFolder:
    """A sweep's folder, filled trial by trial."""

    def __init__(self, path: Path, **asked: Any) -> None:
        """Make it, with its sweep.json."""
        self.path = path
        (path / "trials").mkdir(parents=True)
        told = {"format": 1, "command": "fit", "overrides": [], "objectives": [LOSS], "sweeper": "basic", "cells": None}
        (path / "sweep.json").write_text(json.dumps({**told, **asked}))

    def add(
        self,
        overrides: Mapping[str, Any],
        final: Mapping[str, Any] | None = None,
        *,
        curve: Sequence[Mapping[str, Any]] = (),
        numbers: Mapping[str, Any] | None = None,
        **told: Any,
    ) -> int:
        """Add a trial, done if it has final metrics; its number.

        Args:
            overrides: What it varies.
            final: Its final metrics.
            curve: Rows of its metrics.csv.
            numbers: Further numbers of its metrics.json.
            **told: Keys of its trial file that are not as usual.
        """
        number = len(list((self.path / "trials").iterdir()))
        run = self.path / "runs" / f"{number:04d}"
        run.mkdir(parents=True)
        state = "done" if final is not None else "running"
        usual = {
            "number": number,
            "overrides": dict(overrides),
            "state": state,
            "exit_code": 0 if final is not None else None,
            "reason": None,
            "folder": f"runs/{run.name}",
            "started": "2026-11-25T10:00:00",
            "seconds": 12.5 if final is not None else None,
            "attempts": 1,
            "values": None,
        }
        (self.path / "trials" / f"{run.name}.json").write_text(json.dumps({**usual, **told}))
        if final is not None:
            results = {"baseline": None, "final": dict(final), "seconds": 11.0, **(numbers or {})}
            (run / "metrics.json").write_text(json.dumps(results))
        if curve:
            header = list(dict.fromkeys(name for row in curve for name in row))
            lines = [",".join(str(row.get(name, "")) for name in header) for row in curve]
            (run / "metrics.csv").write_text("\n".join([",".join(header), *lines]) + "\n")
        return number


def falling(steps: int, last: float) -> list[dict[str, Any]]:
    """Rows of a metrics.csv in which the loss falls; every fourth step has a validation."""
    rows: list[dict[str, Any]] = []
    for step in range(steps):
        loss = last + 3 * 0.9**step
        rows.append({"step": step, "epoch": 0, "train/loss": loss, "val/loss": ""})
        if step % 4 == 3:
            rows.append({"step": step, "epoch": 0, "train/loss": "", "val/loss": loss * 1.1})
    return rows
