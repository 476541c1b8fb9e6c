"""One trial on a machine of a cluster: what a job of SLURM's or a task of Ray's runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_OF_THE_CLUSTER = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_JOB_NAME")
"""With these, Lightning would take the job's one process for a rank that someone else has started."""


def run_trial(command: Sequence[str], log: str, lock: str, environment: Mapping[str, str]) -> int:
    """Run a trial's command to its end; its exit code, below 0 the signal that killed it.

    Args:
        command: What to run.
        log: Where its output goes.
        lock: Held meanwhile: a job that an earlier sweep left in the queue waits for this one, or this one for it.
        environment: Variables to set.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _OF_THE_CLUSTER}
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with Path(log).open("ab") as output:
            trial = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**kept, **environment},
                start_new_session=True,
            )
        return _wait(trial)
    finally:
        os.close(descriptor)


def _wait(trial: subprocess.Popen[bytes]) -> int:
    """The exit code of a trial; a SIGTERM for the job is one for all of the trial's processes."""

    def pass_on(number: int, _frame: Any) -> None:
        os.killpg(trial.pid, number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        return trial.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(trial.pid, signal.SIGKILL)
