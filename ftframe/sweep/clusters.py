"""Trials as jobs of submitit's: in SLURM's queue, or to try that, processes of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ftframe.errors import ConfigError, FtframeError
from ftframe.sweep.processes import LOST, Job, claim, is_run_elsewhere
from ftframe.sweep.slurm import ENDED, Queue, has_own_gpus, parameters
from ftframe.sweep.worker import run_trial, where

_LOOK_SECONDS = 0.5
_RESULT_SECONDS = 5.0
"""How long after a job's end its result may take to be seen on a disk that machines share."""

_FOREVER = 60 * 24 * 365
"""Minutes."""


class Jobs(Protocol):
    """Where submitit's jobs are."""

    def ended(self, job: Any) -> tuple[str, int] | None:
        """What became of a job that is over, and the exit code of a trial that left none; None while it is not over."""

    def stop(self, job: Any) -> None:
        """Send SIGTERM."""

    def kill(self, job: Any) -> None:
        """End it at once."""


class LocalJobs:
    """Processes of this machine's."""

    def ended(self, job: Any) -> tuple[str, int] | None:
        """As `Jobs`."""
        return ("ended without a result", LOST) if job.done() else None

    def stop(self, job: Any) -> None:
        """As `Jobs`; submitit's own way is SIGINT, after which its worker has no time for the trial."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(job.job_id), signal.SIGTERM)

    def kill(self, job: Any) -> None:
        """As `Jobs`."""
        job.cancel()


class SlurmJobs:
    """Jobs in SLURM's queue."""

    def __init__(self) -> None:
        """Begin without any."""
        self.queue = Queue()

    def ended(self, job: Any) -> tuple[str, int] | None:
        """As `Jobs`."""
        state = self.queue.state(job.job_id)
        return (state, ENDED[state]) if state in ENDED else None

    def stop(self, job: Any) -> None:
        """As `Jobs`."""
        self.queue.stop(job.job_id)

    def kill(self, job: Any) -> None:
        """As `Jobs`."""
        self.queue.cancel(job.job_id)


@dataclass
class SubmititProcess:
    """A job of submitit's.

    Attributes:
        job: The job.
        jobs: Where it is.
        note: The file with its number; deleted with its end.
        told: As `Process`.
    """

    job: Any
    jobs: Jobs
    note: Path
    told: str = ""
    _code: int | None = None
    _next_look: float = 0.0
    _given_up: float | None = None

    def poll(self) -> int | None:
        """As `Process`."""
        if self._code is None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_SECONDS
            self._code = self._look()
            if self._code is not None:
                self.note.unlink(missing_ok=True)
        return self._code

    def _look(self) -> int | None:
        if self._has_result():
            error = self.job.exception()
            if error is None:
                return int(self.job.result())
            self.told = f"its job {self.job.job_id} failed: {_last_line_of_trace(str(error))}"
            return 1
        if (ended := self.jobs.ended(self.job)) is None:
            return None
        if self._given_up is None:
            self._given_up = time.monotonic() + _RESULT_SECONDS
        if time.monotonic() < self._given_up:
            return None
        state, code = ended
        said = (self.job.stderr() or "").strip().splitlines()
        self.told = ": ".join([f"its job {self.job.job_id}: {state}", *said[-1:]])
        return code

    def _has_result(self) -> bool:
        """Whether the result is there; to open the folder makes a client of NFS look at the server's."""
        result = Path(self.job.paths.result_pickle)
        with os.scandir(result.parent):
            return result.exists()

    def stop(self) -> None:
        """As `Process`."""
        self.jobs.stop(self.job)

    def kill(self) -> None:
        """As `Process`."""
        self.jobs.kill(self.job)


def _last_line_of_trace(message: str) -> str:
    """The error itself in submitit's message: it stands between two lines of dashes, a traceback above it."""
    parts = message.split("-" * 22)
    return parts[-2 if len(parts) > 2 else -1].strip().splitlines()[-1]


@dataclass
class SubmititEngine:
    """Trials as jobs of submitit's.

    Attributes:
        executor: Which submits them.
        jobs: Where they are.
        max_parallel: Most jobs at a time.
        grace_seconds: How long what an earlier sweep left may take to end.
        deals_gpus: Whether each job is given its trial's number of GPUs.
    """

    executor: Any
    jobs: Jobs
    max_parallel: int
    grace_seconds: float
    deals_gpus: bool

    def has_gpus(self, gpus: int) -> bool:
        """As `Engine`; the cluster finds them."""
        return True

    def start(self, job: Job) -> SubmititProcess:
        """As `Engine`.

        Raises:
            ConfigError: If the cluster refuses the job, or another sweep runs the trial.
            FtframeError: If the job of an earlier sweep cannot be ended.
        """
        note = job.lock.with_suffix(".job")
        self._end_earlier(note, job.lock)
        os.close(claim(job.lock, self.grace_seconds))
        job.prepare()
        if self.deals_gpus:
            self.executor.parameters["gpus_per_node"] = job.gpus or None  # None is no flag
        try:
            submitted = self.executor.submit(run_trial, list(job.command), str(job.log), **where(job.lock))
        except Exception as error:  # FailedJobError, with what sbatch said, and others of submitit's own
            raise ConfigError(f"hydra.launcher: the cluster refuses trial {job.number:04}: {error}") from error
        if isinstance(self.jobs, SlurmJobs):
            self.jobs.queue.add(submitted.job_id)
            note.write_text(submitted.job_id)
        return SubmititProcess(submitted, self.jobs, note)

    def _end_earlier(self, note: Path, lock: Path) -> None:
        """Cancel the job of a sweep that was killed: the cluster did not hear of that."""
        if not (isinstance(self.jobs, SlurmJobs) and note.is_file()):
            return
        queue, number = self.jobs.queue, note.read_text()
        queue.add(number)
        queue.stop(number)
        until = time.monotonic() + self.grace_seconds
        while queue.state(number) not in ENDED or is_run_elsewhere(lock):
            if time.monotonic() > until + 60.0:
                raise FtframeError(f"Trial {lock.stem} still runs as job {number} of SLURM's. End it: scancel {number}")
            if time.monotonic() > until:
                queue.cancel(number)
            time.sleep(0.5)
        note.unlink()

    def close(self) -> None:
        """As `Engine`."""


def build_submitit_engine(
    launcher: dict[str, Any], folder: Path, *, max_parallel: int, grace_seconds: float
) -> SubmititEngine:
    """The engine of `hydra/launcher=submitit_slurm` and `submitit_local`.

    Args:
        launcher: The `hydra.launcher` node.
        folder: Where submitit keeps its files.
        max_parallel: Most jobs at a time.
        grace_seconds: How long what an earlier sweep left may take to end.

    Raises:
        ConfigError: If submitit is missing, or there is no such cluster here, or it refuses a parameter.
    """
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(f"hydra/launcher: {error}. Install it: pip install 'ftframe[submitit]'") from error
    is_slurm = launcher["cluster"] == "slurm"
    given = parameters(launcher["parameters"]) if is_slurm else launcher["parameters"]
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=launcher["cluster"])
        executor.update_parameters(**{"name": "ftframe", **given})
    except Exception as error:  # RuntimeError, NameError and others of submitit's own
        raise ConfigError(f"hydra.launcher: {type(error).__name__}: {error}") from error
    # submitit's own defaults would end every trial after minutes; SLURM's is that of the partition.
    executor.parameters.setdefault(*(("time", None) if is_slurm else ("timeout_min", _FOREVER)))
    return SubmititEngine(
        executor,
        SlurmJobs() if is_slurm else LocalJobs(),
        max_parallel,
        grace_seconds,
        deals_gpus=is_slurm and not has_own_gpus(given),
    )
