"""The loop of a sweep: start trials where there is room, watch them, and write down what becomes of each."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from ftframe.runs import CONFIG
from ftframe.sweep import outcomes
from ftframe.sweep.cells import Cell
from ftframe.sweep.processes import Engine, Job, Process
from ftframe.sweep.records import State, SweepFolder, Trial
from ftframe.sweep.trial import COMMAND_VARIABLE, FLAG, freeze

POLL_SECONDS = 0.05
WITH_MANIFEST = ("fit", "evaluate")
"""Commands whose runs end with a manifest."""


@dataclass
class Running:
    """A trial that runs.

    Attributes:
        trial: Its record.
        cell: Its config.
        process: Its process.
        since: When this attempt began, by the monotonic clock.
    """

    trial: Trial
    cell: Cell
    process: Process
    since: float


class Source(Protocol):
    """Where trials come from."""

    def take(self) -> Cell | None:
        """The next cell to run; None if there is none now."""

    def is_exhausted(self) -> bool:
        """Whether there will be no more."""

    def watch(self, running: Sequence[Running]) -> None:
        """Look at the trials that run."""

    def ended(self, trial: Trial) -> None:
        """Hear what became of a trial, before it is written down; the trial may be changed."""


class View(Protocol):
    """What a person sees of a sweep that runs."""

    def started(self, trial: Trial) -> None:
        """A trial has started."""

    def ended(self, trial: Trial) -> None:
        """A trial has ended."""

    def refresh(self, running: Sequence[Running]) -> None:
        """Some time has passed."""


@dataclass
class Scheduler:
    """Runs the trials of one sweep.

    Attributes:
        folder: The sweep's.
        command: The command of every trial.
        engine: Where they run.
        view: Who is told.
        gpus_per_trial: GPUs of one trial.
        grace_seconds: How long a trial may take to save its state.
        trials: The records so far, by number.
    """

    folder: SweepFolder
    command: str
    engine: Engine
    view: View
    gpus_per_trial: int
    grace_seconds: float
    trials: dict[int, Trial]
    _running: list[Running] = field(default_factory=list)
    _signal: int | None = None

    def run(self, source: Source) -> int | None:
        """Run what a source gives, to its end or until a signal comes.

        Args:
            source: Where the trials come from.

        Returns:
            The signal that ended the sweep, or None.
        """
        pending: Cell | None = None
        with _signals(self._heard):
            try:
                while self._signal is None:
                    while self._signal is None and len(self._running) < self.engine.max_parallel:
                        pending = pending or source.take()
                        if pending is None or not self.engine.has_gpus(self._gpus(pending)):
                            break
                        self._start(pending)
                        pending = None
                    self._reap(source)
                    if not self._running and pending is None and source.is_exhausted():
                        break
                    source.watch(self._running)
                    self.view.refresh(self._running)
                    time.sleep(POLL_SECONDS)
            finally:
                self._stop(source)
                self.engine.close()
        return self._signal

    def _heard(self, number: int, _frame: Any) -> None:
        if self._signal is not None:  # whoever asks twice does not want to wait
            for running in self._running:
                running.process.kill()
        self._signal = number

    def _gpus(self, cell: Cell) -> int:
        """GPUs of a trial, if there are any: none where it is told to stay on the CPU."""
        config = cell.config or {}
        accelerator = config["accelerator"] if "accelerator" in config else config["trainer"]["accelerator"]
        return 0 if accelerator == "cpu" else self.gpus_per_trial

    def _start(self, cell: Cell) -> None:
        trial = self.trials.get(cell.number) or Trial(cell.number, cell.varied)
        job = Job(
            cell.number,
            command=[*_trial_command(), self.command, f"{FLAG}{self.folder.frozen(cell.number)}"],
            log=self.folder.log(cell.number),
            lock=self.folder.lock(cell.number),
            gpus=self._gpus(cell),
            prepare=lambda: self._prepare(cell),
        )
        process = self.engine.start(job)
        trial.config_sha256, trial.attempts = cell.config_sha256, trial.attempts + 1
        trial.state, trial.exit_code, trial.reason = State.RUNNING, None, None
        trial.started = datetime.now().astimezone().isoformat(timespec="seconds")
        self.trials[cell.number] = trial
        self.folder.save(trial)
        self._running.append(Running(trial, cell, process, time.monotonic()))
        self.view.started(trial)

    def _prepare(self, cell: Cell) -> None:
        """Write the config that every process of the trial reads; nothing of an earlier attempt runs any more."""
        config = resumed(self.folder, cell, self.command)
        freeze(self.folder.frozen(cell.number), config, cell.overrides)

    def _reap(self, source: Source) -> None:
        for running in list(self._running):
            code = running.process.poll()
            if code is not None:
                self._running.remove(running)
                self._end(running, code, source)

    def _end(self, running: Running, code: int, source: Source) -> None:
        trial = running.trial
        has_manifest = self.command in WITH_MANIFEST
        outcomes.settle(trial, code, self.folder, needs_manifest=has_manifest, told=running.process.told)
        if self._signal is not None and trial.state is not State.DONE:
            trial.state, trial.reason = State.INTERRUPTED, "the sweep was stopped"
        trial.seconds = round((trial.seconds or 0.0) + time.monotonic() - running.since, 2)
        source.ended(trial)
        self.folder.save(trial)
        self.folder.frozen(trial.number).unlink(missing_ok=True)
        self.view.ended(trial)

    def _stop(self, source: Source) -> None:
        """Let the trials that still run save their state and leave; end those that take too long."""
        if self._running and self._signal is None:  # an error ended the loop
            self._signal = signal.SIGTERM
        for running in self._running:
            running.process.stop()
        until = time.monotonic() + self.grace_seconds
        while self._running:
            if time.monotonic() > until:
                for running in self._running:
                    running.process.kill()
            self._reap(source)
            time.sleep(POLL_SECONDS)


def resumed(folder: SweepFolder, cell: Cell, command: str) -> dict[str, Any]:
    """The config of a trial: going on where an earlier attempt left its run folder, if it did."""
    assert cell.config is not None
    run = folder.run(cell.number)
    if command == "fit" and (run / CONFIG).is_file():
        return {**cell.config, "ckpt_path": str(run), "output_dir": str(run)}
    if run.exists():
        shutil.rmtree(run)
    return cell.config


def _trial_command() -> list[str]:
    given = os.environ.get(COMMAND_VARIABLE)
    return shlex.split(given) if given else [sys.executable, "-m", "ftframe"]


@contextmanager
def _signals(heard: Callable[[int, Any], None]) -> Iterator[None]:
    """Hear Ctrl-C and SIGTERM: trials are in process groups of their own, which a terminal does not reach."""
    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
