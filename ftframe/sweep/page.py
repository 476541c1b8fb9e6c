"""`sweep.html`: the leaderboard as one self-contained page."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ftframe.sweep import curves
from ftframe.sweep.axes import Axis, build_axis
from ftframe.sweep.board import RANK, Board, cell, counts, place_of
from ftframe.sweep.importances import importances
from ftframe.sweep.ranking import Entry, best_of
from ftframe.sweep.trials import Sweep

SCRIPTS = ("page.js", "table.js", "coordinates.js", "curves.js")

KEPT = 2000
"""The most points of one curve, before it is known how many curves there are."""


def render(board: Board, folder: Path) -> str:
    """The page.

    All that comes from trials is in one JSON block, without a `<`, and the script puts it on the page as text. The
    page's policy allows this script alone, by its digest, and no request.

    Args:
        board: What to show.
        folder: Where the page will lie; its links are relative.
    """
    script = "".join(_asset(name) for name in SCRIPTS)
    data = json.dumps(_finite(_data(board, folder)), separators=(",", ":"), default=str)
    page = _asset("sweep.html").replace("/*style*/", _asset("sweep.css")).replace("/*script*/", script)
    code = page.rpartition("<script>")[2].partition("</script>")[0]
    page = page.replace("<!--digest-->", base64.b64encode(hashlib.sha256(code.encode()).digest()).decode())
    page = page.replace("<!--title-->", escape(board.title))
    return page.replace("<!--data-->", data.replace("<", "\\u003c"))


def _asset(name: str) -> str:
    return (files("ftframe.sweep") / "html" / name).read_text(encoding="utf-8")


def _finite(node: Any) -> Any:
    """The same tree with what JSON has no number for spelt as a text."""
    if isinstance(node, float) and not math.isfinite(node):
        return "NaN" if math.isnan(node) else "Infinity" if node > 0 else "-Infinity"
    if isinstance(node, Mapping):
        return {str(key): _finite(value) for key, value in node.items()}
    return [_finite(value) for value in node] if isinstance(node, list | tuple) else node


def _data(board: Board, folder: Path) -> dict[str, Any]:
    columns = sorted(board.columns(), key=lambda column: column != RANK)  # a person looks for the rank first
    shares, how = importances(board.entries, board.objectives[0])
    best = best_of(board.entries, board.objectives)
    return {
        "title": board.title,
        "objectives": [{"metric": o.metric, "direction": o.direction} for o in board.objectives],
        "sweeps": [{"folder": place_of(sweep.folder), "command": _command(sweep)} for sweep in board.sweeps],
        "again": _again(board) if best else None,
        "states": counts(board.entries),
        "notes": board.notes,
        "columns": [{"name": column.name, "kind": column.kind} for column in columns],
        "rows": [[cell(entry, column) for column in columns] for entry in board.entries],
        "names": [_name(entry) for entry in board.entries],
        "ranks": [entry.rank for entry in board.entries],
        "links": [_link(entry, folder) for entry in board.entries],
        "axes": _axes(board),
        "curves": _curves(board),
        "importances": {"shares": list(shares.items()), "how": how},
    }


def _command(sweep: Sweep) -> str:
    """The command that started the sweep, as a shell takes it; `-m` comes from Hydra as an override."""
    return shlex.join(["ftframe", sweep.command, "-m", *(o for o in sweep.typed if not o.startswith("hydra.mode="))])


def _again(board: Board) -> str | None:
    """The command that runs the best trial again; several sweeps have a file each."""
    if len(board.sweeps) > 1:
        return None
    return f"ftframe {board.sweeps[0].command} --config-dir {place_of(board.sweeps[0].folder)} experiment=best"


def _name(entry: Entry) -> str:
    return f"{entry.sweep} {entry.trial.number}" if entry.sweep else str(entry.trial.number)


def _link(entry: Entry, folder: Path) -> str | None:
    """The trial's run folder, as a path that can be nothing but a path."""
    if not entry.trial.folder.is_dir():
        return None
    return "./" + quote(os.path.relpath(entry.trial.folder.resolve(), folder.resolve())) + "/"


def _axes(board: Board) -> list[Axis]:
    """An axis for each key that has several values, and for each objective; places of the ranked trials alone."""
    ranked = [entry.trial for entry in board.entries if entry.rank]
    drawn = [t for t in ranked if all(math.isfinite(t.metrics[o.metric]) for o in board.objectives)]
    if not drawn:
        return []
    found = []
    for key in board.keys:
        is_set = [key in trial.overrides for trial in drawn]
        axis = build_axis(key, [trial.overrides.get(key) for trial in drawn], is_set=is_set)
        if len({place if place is not None else -1 for place in axis["places"]}) > 1:
            found.append(axis)
    for objective in board.objectives:
        values = [trial.metrics[objective.metric] for trial in drawn]
        axis = build_axis(objective.metric, values, is_set=[True] * len(values))
        found.append({**axis, "remark": f"{'less' if objective.direction == 'minimize' else 'more'} is better"})
    return found


def _curves(board: Board) -> list[dict[str, Any]]:
    """A chart for each metric that was logged by step: its lines, each with the row of its trial."""
    metrics = list(dict.fromkeys(["train/loss", "val/loss", *(objective.metric for objective in board.objectives)]))
    read = [_read(entry.trial.folder, metrics) for entry in board.entries]
    most = max(8, curves.POINTS // max(1, sum(map(len, read))))
    charts = []
    for metric in metrics:
        lines = [(row, found[metric]) for row, found in enumerate(read) if metric in found]
        if lines:
            thinned = [[row, *_split(curves.thin(curve, most))] for row, curve in lines]
            charts.append({"metric": metric, "lines": thinned})
    return charts


def _read(folder: Path, metrics: Sequence[str]) -> dict[str, curves.Curve]:
    """The curves of a run, short enough to hold those of all runs at once."""
    found = curves.read_curves(folder / "metrics.csv", metrics)
    return {metric: curves.thin(curve, KEPT) for metric, curve in found.items()}


def _split(curve: Sequence[tuple[float, float]]) -> Iterable[list[float]]:
    """Steps and values of a curve, to six digits."""
    for axis in zip(*curve, strict=True):
        yield [int(number) if number.is_integer() and abs(number) < 1e15 else float(f"{number:.6g}") for number in axis]
