"""The two files through which a trial and its sweep talk of pruning, in the trial's run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

REPORTS, VERDICTS = "reports.jsonl", "verdicts.jsonl"


def append_line(file: Path, content: Mapping[str, float]) -> None:
    """Add one line; whoever reads meanwhile sees all of it or none."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(content) + "\n")


def read_lines(file: Path) -> list[dict[str, float]]:
    """The whole lines of a JSON Lines file that another process is writing; none if there is no file."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
