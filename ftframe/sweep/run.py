"""A planned sweep from its first check to its leaderboard."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from filelock import FileLock, Timeout

from ftframe import compose, console, runs
from ftframe.errors import ConfigError
from ftframe.sweep import outcomes
from ftframe.sweep.cells import Cell
from ftframe.sweep.grid import Grid, compose_grid, print_refused
from ftframe.sweep.leaderboard import print_leaderboard, write_leaderboard
from ftframe.sweep.multirun import MultirunSweeper, Plan
from ftframe.sweep.processes import Engine, build_local_engine
from ftframe.sweep.progress import Lines, LiveTable
from ftframe.sweep.records import State, SweepFolder, Trial, open_sweep
from ftframe.sweep.scheduler import WITH_MANIFEST, Scheduler, Source

_MOST_JOBS = 1000
"""Jobs in a cluster's queue at a time, if `sweep.max_parallel` says nothing."""

_TRIED = 64
"""Combinations of choices that are composed to find one that can run."""


def run_planned() -> int:
    """Run what `-m` planned; 0 at once if it planned nothing.

    Returns:
        0 if every trial is done or pruned; 130 or 143 after a signal; else the exit code of the first trial that failed
        as it ran, or 2 where all that failed were refused before.

    Raises:
        ConfigError: If the sweep cannot begin, or go on in its folder.
    """
    plan, MultirunSweeper.planned = MultirunSweeper.planned, None
    if plan is None:
        return 0
    return run_grid(plan) if plan.search == "grid" else run_search(plan)


def run_search(plan: Plan) -> int:
    """Run a study's trials; what it returns is as of `run_planned`.

    Raises:
        ConfigError: If Optuna is missing, or what is asked for cannot be searched.
    """
    try:
        from ftframe.sweep.search import Search
        from ftframe.sweep.space import build_space
        from ftframe.sweep.study import SharedStudy
    except ImportError as error:
        raise ConfigError(f"hydra/sweeper=optuna: {error}. Install it: pip install 'ftframe[optuna]'") from error
    with compose.explained(plan.command):
        space = build_space(plan.varied())
        _refuse_if_none_can_run(plan)
    engine = build_engine(plan)
    folder = SweepFolder(plan.folder)
    open_sweep(folder, asked(plan))
    trials = folder.load()
    study = SharedStudy(plan.settings, space, folder.path)
    return run_source(plan, Search(plan, space, study, trials), engine, trials=trials, total=plan.settings.n_trials)


def _refuse_if_none_can_run(plan: Plan) -> None:
    """Compose a cell before the study begins, so that a misspelt key is told at once.

    Raises:
        ConfigError: If no combination of some can run.
    """
    columns = [(override.get_key_element(), _some_values(override)) for override in plan.varied()]
    problem = ""
    for values in itertools.islice(itertools.product(*(values for _, values in columns)), _TRIED):
        keys = (key for key, _ in columns)
        problem = plan.settle(0, dict(zip(keys, values, strict=True))).problem
        if not problem:
            return
    raise ConfigError(problem)


def _some_values(override: Any) -> list[str]:
    """The values of a choice; an end of an interval."""
    if override.is_discrete_sweep():
        return list(override.sweep_string_iterator())
    return [repr(override.value().start)]


def run_grid(plan: Plan) -> int:
    """Run every combination of the typed values; what it returns is as of `run_planned`."""
    with compose.explained(plan.command):
        cells = compose_grid(plan)
    print_refused(cells)
    if all(cell.problem for cell in cells):
        raise ConfigError("No combination can run." if len(cells) > 1 else cells[0].problem)
    engine = build_engine(plan)
    folder = SweepFolder(plan.folder)
    open_sweep(folder, {**asked(plan), "cells": len(cells)})
    with only_sweep(folder):
        trials = folder.load()
        todo = [cell for cell in cells if _is_due(cell, trials, folder, plan)]
        return run_source(plan, Grid(todo), engine, trials=trials, total=len(todo))


def asked(plan: Plan) -> dict[str, Any]:
    """What `sweep.json` says of a plan."""
    objectives = [{"metric": o.metric, "direction": o.direction.value} for o in plan.settings.objectives]
    sweeper = "basic" if plan.search == "grid" else plan.search
    return {
        "command": plan.command,
        "overrides": plan.typed,
        "objectives": objectives,
        "sweeper": sweeper,
        "cells": None,
    }


def build_engine(plan: Plan) -> Engine:
    """Where the trials run.

    Raises:
        ConfigError: If the launcher is none of ftframe's, or this machine has too few GPUs.
    """
    settings, launcher = plan.settings, plan.launcher
    if launcher.get("engine") == "local":
        return build_local_engine(settings.max_parallel, settings.gpus_per_trial, settings.grace_seconds)
    grace_seconds = settings.grace_seconds
    if launcher.get("engine") == "ray":
        from ftframe.sweep.ray_tasks import build_ray_engine

        return build_ray_engine(launcher, max_parallel=settings.max_parallel, grace_seconds=grace_seconds)
    if launcher.get("engine") == "submitit":
        from ftframe.sweep.clusters import build_submitit_engine

        at_a_time = settings.max_parallel or (1 if launcher["cluster"] == "local" else _MOST_JOBS)
        jobs = plan.folder / ".private" / "submitit"
        return build_submitit_engine(launcher, jobs, max_parallel=at_a_time, grace_seconds=grace_seconds)
    raise ConfigError(f"hydra.launcher={launcher}: choose hydra/launcher=local, ray, submitit_local or submitit_slurm.")


class only_sweep:  # noqa: N801 (used as a function)
    """Keep a second sweep out of a folder."""

    def __init__(self, folder: SweepFolder) -> None:
        """Take the folder's lock when entered."""
        self._folder = folder
        self._lock = FileLock(folder.private / "sweep.lock")

    def __enter__(self) -> None:
        """Take the lock."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(f"Another process runs the sweep in {self._folder.path} now.") from error

    def __exit__(self, *_: object) -> None:
        """Let go of it."""
        self._lock.release()


def run_source(plan: Plan, source: Source, engine: Engine, *, trials: dict[int, Trial], total: int | None) -> int:
    """Run the trials of a source and write the leaderboard; what it returns is as of `run_planned`."""
    folder, settings = SweepFolder(plan.folder), plan.settings
    metric = settings.objectives[0].metric
    table = LiveTable(folder, metric, total) if console.console.is_terminal else None
    view = table or Lines(metric, total)
    console.print_line(f"sweep folder: {runs.shown(folder.path)}")
    scheduler = Scheduler(
        folder,
        plan.command,
        engine,
        view=view,
        gpus_per_trial=settings.gpus_per_trial,
        grace_seconds=settings.grace_seconds,
        trials=trials,
    )
    with table or nullcontext():
        signal_number = scheduler.run(source)
    write_leaderboard(folder.path)
    print_leaderboard(folder.path)
    if signal_number is not None:
        console.print_line(f"stopped. The same command with sweep.dir={runs.shown(folder.path)} goes on.")
        return 128 + signal_number
    return _exit_code(folder.load())


def _exit_code(trials: Mapping[int, Trial]) -> int:
    failed = [trial for trial in trials.values() if trial.state not in (State.DONE, State.PRUNED)]
    if not failed:
        return 0
    return next((outcomes.shell_code(trial.exit_code or 0) for trial in failed if trial.attempts), 2)


def _is_due(cell: Cell, trials: dict[int, Trial], folder: SweepFolder, plan: Plan) -> bool:
    """Whether a cell has to run; the record of one that does not is complete afterwards.

    Raises:
        ConfigError: If it ran with another config.
    """
    trial = trials.setdefault(cell.number, Trial(cell.number, cell.varied))
    if trial.attempts and trial.config_sha256 != cell.config_sha256:
        raise ConfigError(
            f"Trial {cell.number:04} ran with another configuration than the same overrides give now: a config file, "
            "an environment variable or an installed version has changed. Change it back, or choose another sweep.dir."
        )
    if cell.problem:
        trial.state, trial.exit_code, trial.reason = State.FAILED, ConfigError.exit_code, cell.problem.splitlines()[0]
    elif trial.state in (State.RUNNING, State.INTERRUPTED) and _is_complete(trial, folder, plan):
        outcomes.settle(trial, 0, folder, needs_manifest=True)
    elif _starts_again(trial, plan.settings.retry_failed):
        trial.state = State.WAITING
    folder.save(trial)
    return trial.state is State.WAITING


def _starts_again(trial: Trial, retry_failed: bool) -> bool:
    """Whether a trial is neither over nor failed for a reason of its own, which a signal or an old refusal is not."""
    if trial.state is not State.FAILED:
        return trial.state not in (State.DONE, State.PRUNED)
    return retry_failed or not trial.attempts or (trial.exit_code or 0) < 0


def _is_complete(trial: Trial, folder: SweepFolder, plan: Plan) -> bool:
    """Whether a run came to its end though no one was left to write it down."""
    return plan.command in WITH_MANIFEST and (folder.run(trial.number) / "manifest.json").is_file()
