"""`ftframe leaderboard`: the trials of one sweep, or of several, ranked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ftframe import console
from ftframe.errors import ConfigError
from ftframe.sweep.board import Board, build_board, place_of
from ftframe.sweep.leaderboard import print_board, print_leaderboard, write_board, write_leaderboard
from ftframe.sweep.trials import DIRECTIONS, Objective, Sweep, read_sweep

__all__ = ["leaderboard"]

_LESS_IS_BETTER = ("loss", "perplexity", "seconds", "gib")
_MORE_IS_BETTER = ("accuracy", "match", "f1", "tokens_per_second")


def leaderboard(arguments: Sequence[str] = ()) -> int:
    """Show the leaderboard of each sweep, or one of all of them, and write their files anew; the exit code, 0.

    Raises:
        ConfigError: If a folder holds no sweep, or the trials cannot be ranked as asked.
    """
    given = _parser().parse_args(arguments)
    folders = _folders(given.folders)
    sweeps = [read_sweep(folder) for folder in folders]
    by = _objective(given.by, given.direction, sweeps)
    output = _output(given.output)
    board = build_board(sweeps, by)
    for folder in folders:
        write_leaderboard(folder)
    if len(folders) == 1 and by is None:
        print_leaderboard(folders[0])
    else:
        print_board(board)
    if output is not None:
        _write(board, output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "ftframe leaderboard",
        description="Rank the trials of a sweep, and write its sweep.csv, sweep.html and experiment/best.yaml anew. "
        "Several sweeps are ranked in one table.",
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a sweep's folder: outputs/multirun/<sweep>")
    parser.add_argument("--by", metavar="METRIC", help="rank by this metric; the sweep's own files keep its objectives")
    parser.add_argument("--direction", choices=DIRECTIONS, help="which way METRIC is better, if its name does not say")
    parser.add_argument("--output", metavar="FOLDER", help="write sweep.csv and sweep.html of this table there")
    return parser


def _folders(given: Sequence[str]) -> list[Path]:
    folders = [Path(folder).expanduser() for folder in given]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"A folder is given twice: {' '.join(given)}.")
    return folders


def _objective(by: str | None, direction: str | None, sweeps: Sequence[Sweep]) -> Objective | None:
    """What to rank by in place of the sweeps' objectives; which way is better, they say it or the metric's name.

    Raises:
        ConfigError: If nothing says which way is better.
    """
    if by is None:
        if direction is not None:
            raise ConfigError(f"--direction {direction}: which metric? Add --by METRIC.")
        return None
    if direction is not None:
        return Objective(by, direction)
    for objective in (objective for sweep in sweeps for objective in sweep.objectives):
        if objective.metric == by:
            return objective
    for words, way in ((_MORE_IS_BETTER, "maximize"), (_LESS_IS_BETTER, "minimize")):
        if by.lower().endswith(words):
            return Objective(by, way)
    raise ConfigError(
        f"--by {by}: is more or less of it better? Add --direction {' or --direction '.join(DIRECTIONS)}."
    )


def _output(given: str | None) -> Path | None:
    if given is None:
        return None
    folder = Path(given).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {given} is a file. Give a folder.")
    if (folder / "sweep.json").exists():
        raise ConfigError(f"--output {given} is the folder of a sweep, which has files of these names. Give another.")
    return folder


def _write(board: Board, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_board(board, folder)
    console.print_line(f"All of it: {place_of(folder / 'sweep.html')}")
