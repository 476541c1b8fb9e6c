"""One trial on a machine of a cluster: what a job of SLURM's or a task of Ray's runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftframe.sweep.processes import note_owner

_OF_THE_CLUSTER = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_JOB_NAME")
"""With these, Lightning would take the job's one process for a rank that someone else has started."""

_ENDING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that a cluster ends a job with. SIGUSR2 announces the time limit to jobs of submitit's, whose own handler
would leave at once, and the trial be killed in place of saving its state."""


def where(lock: Path) -> dict[str, Any]:
    """What `run_trial` is told beside the command: the trial's lock, and what it needs of this process."""
    names = ("FTFRAME_CACHE", "HF_HUB_OFFLINE", "HF_HOME", "OMP_NUM_THREADS", "PYTHONPATH")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    return {"lock": str(lock), "environment": environment, "directory": str(Path.cwd())}


class _StoppedError(Exception):
    """A signal came before the trial was started."""


@dataclass
class _Relay:
    """Passes on what ends the job to all processes of the trial, as SIGTERM.

    Attributes:
        trial: The first of them, once there is one.
        waiting: Whether the job is still waiting for the trial's lock.
        heard: Whether a signal came.
    """

    trial: subprocess.Popen[bytes] | None = None
    waiting: bool = True
    heard: bool = False

    def hear(self, _number: int, _frame: Any) -> None:
        """Handle a signal."""
        self.heard = True
        if self.waiting:
            raise _StoppedError
        self.pass_on()

    def pass_on(self) -> None:
        """Tell the trial, if there is one and a signal came."""
        if self.heard and self.trial is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.trial.pid, signal.SIGTERM)


def run_trial(command: Sequence[str], log: str, *, lock: str, environment: Mapping[str, str], directory: str) -> int:
    """Run a trial's command to its end; its exit code, below 0 the signal that killed it.

    Args:
        command: What to run.
        log: Where its output goes.
        lock: Held until the last of its processes is gone: two jobs of one trial run one after the other.
        environment: Variables to set.
        directory: Where it runs, since what the config names may be relative to it.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _OF_THE_CLUSTER}
    relay = _Relay()
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with _listening(relay):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            relay.waiting = False
            note_owner(descriptor, None)
            with Path(log).open("ab") as output:
                relay.trial = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**kept, **environment},
                    cwd=directory,
                    start_new_session=True,
                    pass_fds=(descriptor,),
                )
            note_owner(descriptor, relay.trial.pid)
            relay.pass_on()
            return _wait(relay.trial)
    except _StoppedError:
        return 128 + signal.SIGTERM
    finally:
        os.close(descriptor)


@contextmanager
def _listening(relay: _Relay) -> Iterator[None]:
    before = {number: signal.signal(number, relay.hear) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(trial: subprocess.Popen[bytes]) -> int:
    """The exit code of a trial; what is left of its processes is ended."""
    try:
        return trial.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(trial.pid, signal.SIGKILL)
