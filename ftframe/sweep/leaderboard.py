"""The leaderboard of a sweep: on the console, as `sweep.csv` and `sweep.html`, and its best trial as a config."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftframe import console
from ftframe.durable_files import write_text
from ftframe.sweep.board import RANK, Board, Column, build_board, cell, counts, place_of, spell_value
from ftframe.sweep.experiment import write_experiment
from ftframe.sweep.page import render
from ftframe.sweep.ranking import Entry, best_of
from ftframe.sweep.trials import read_sweep

SHOWN = 30
"""The most rows of a table on the console; the files have all."""

REASON = 300
"""The most characters of a reason on the console."""


def write_leaderboard(folder: Path) -> None:
    """Write `sweep.csv`, `sweep.html` and `experiment/best.yaml` of a sweep, each whole or not at all.

    Raises:
        ConfigError: If the folder holds no sweep.
    """
    sweep = read_sweep(folder)
    board = build_board([sweep])
    write_board(board, folder)
    write_experiment(sweep, best_of(board.entries, board.objectives))


def print_leaderboard(folder: Path) -> None:
    """Show the leaderboard of a sweep as a table, and how its best trial is run again.

    Raises:
        ConfigError: If the folder holds no sweep.
    """
    sweep = read_sweep(folder)
    board = build_board([sweep])
    print_board(board)
    console.print_line(f"All of it: {place_of(folder / 'sweep.html')}")
    best = best_of(board.entries, board.objectives)
    if best is not None:
        console.print_line(
            f"Trial {best.trial.number} again: ftframe {sweep.command} --config-dir {place_of(folder)} experiment=best"
        )


def write_board(board: Board, folder: Path) -> None:
    """Write `sweep.csv` and `sweep.html` of a board into a folder."""
    write_text(folder / "sweep.csv", render_csv(board))
    write_text(folder / "sweep.html", render(board, folder))


def render_csv(board: Board) -> str:
    """One row per trial, numbers in full, the best first."""
    columns = board.columns()
    rows = [[cell(entry, column) for column in columns] for entry in board.entries]
    return "".join(map(_csv_line, [[column.name for column in columns], *rows]))


def _csv_line(cells: Sequence[Any]) -> str:
    """A row that ends in a newline alone, as tools for lines expect; asked for that, csv would leave `CR` unquoted."""
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def print_board(board: Board) -> None:
    """Show the ranked trials as a table, then a line for each of the others, with its reason."""
    by = " and ".join(map(str, board.objectives))
    ranked = [entry for entry in board.entries if entry.rank]
    others = [entry for entry in board.entries if not entry.rank]
    if ranked:
        columns = [column for column in board.columns() if column.name in _SHORT or column.kind == "key"]
        columns += [Column(name, "metric") for name in board.metrics if name in _shown_metrics(board)]
        columns.sort(key=lambda column: column != RANK)  # the first column is the one that a table is read by
        rows = [[_spell(entry, column) for column in columns] for entry in ranked[:SHOWN]]
        console.print_table(_headings(columns), rows, title=f"{board.title}: by {by}")
        _print_rest(len(ranked))
        if any(entry.on_front for entry in ranked):
            console.print_line("* no other trial is better in one objective and as good in the others")
    else:
        console.print_line(f"{board.title}: no trial has finished with {by}")
    for entry in others[:SHOWN]:
        console.print_line(_describe_unranked(entry))
    _print_rest(len(others))
    for note in board.notes:
        console.print_line(f"note: {note}")
    states = ", ".join(f"{count} {state}" for state, count in counts(board.entries).items())
    console.print_line(f"{len(board.entries)} trials: {states or 'none yet'}")


_SHORT = ("rank", "sweep", "number")
"""The columns that a terminal has room for, beside what varies."""


def _shown_metrics(board: Board) -> set[str]:
    return {*(objective.metric for objective in board.objectives), "tokens_per_second", "peak_gpu_gib", "seconds"}


def _headings(columns: Sequence[Column]) -> list[str]:
    """The last part of each name where no other ends in it."""
    ends = [column.name.rpartition(".")[2] for column in columns]
    short = [end if ends.count(end) == 1 else column.name for end, column in zip(ends, columns, strict=True)]
    return ["trial" if heading == "number" else heading.replace("_", " ") for heading in short]


def _spell(entry: Entry, column: Column) -> str:
    if column == RANK:
        return f"{entry.rank}{' *' if entry.on_front else ''}"
    value: Any = entry.trial.overrides.get(column.name) if column.kind == "key" else None
    value = value if isinstance(value, float) else cell(entry, column)
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"
    return "-" if value is None else _shorten(str(value), 60)


def _print_rest(number: int) -> None:
    if number > SHOWN:
        console.print_line(f"... and {number - SHOWN} more; sweep.csv and sweep.html have all")


def _describe_unranked(entry: Entry) -> str:
    trial = entry.trial
    name = f"{entry.sweep} trial {trial.number}" if entry.sweep else f"trial {trial.number}"
    keys = " ".join(f"{key}={_shorten(spell_value(value), 60)}" for key, value in trial.overrides.items())
    reason = f": {_shorten(entry.reason, REASON)}" if entry.reason else ""
    return f"{name} {'not ranked' if trial.state == 'done' else trial.state}{reason}{f' ({keys})' if keys else ''}"


def _shorten(text: str, most: int) -> str:
    """The text on one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
