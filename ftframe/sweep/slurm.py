"""SLURM's queue, from its own commands: submitit asks the accounting database alone, which not every cluster has."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftframe.errors import ConfigError
from ftframe.sweep.outcomes import OUT_OF_MEMORY, STOPPED_BY_SIGTERM

FORGOTTEN = "gone from SLURM's queue"

ENDED = {
    "COMPLETED": 1,  # of jobs that left no result: the worker itself could not run, or could not write
    "FAILED": 1,
    "OUT_OF_MEMORY": OUT_OF_MEMORY,
    **dict.fromkeys(("BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL"), STOPPED_BY_SIGTERM),
    **dict.fromkeys(("PREEMPTED", "REVOKED", "TIMEOUT", FORGOTTEN), STOPPED_BY_SIGTERM),
}
"""Last states of jobs, each with the exit code of a trial that has none. Source: squeue(1), JOB STATE CODES."""

_GPUS = ("gpus_per_node", "slurm_gpus_per_node", "slurm_gpus_per_task", "slurm_num_gpus", "slurm_gres")
_LOOK_SECONDS = 5.0


@dataclass
class Queue:
    """The states of this user's jobs, all asked for at once and not more often than every few seconds.

    Attributes:
        states: By the number of the job.
    """

    states: dict[str, str] = field(default_factory=dict)
    _next_look: float = 0.0

    def add(self, job: str) -> None:
        """Count a job that was just submitted among those that wait."""
        self.states[job] = "PENDING"

    def state(self, job: str) -> str:
        """The state of a job; that of the last answer where SLURM gives none."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_SECONDS
            command = ("squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%i %T")
            if (answer := _ask(*command)) is not None:
                self.states = dict(line.split() for line in answer.splitlines() if len(line.split()) == 2)
                return self.states.get(job, FORGOTTEN)
        return self.states.get(job, FORGOTTEN)

    def stop(self, job: str) -> None:
        """Take a job out of the queue, or if it runs, send SIGTERM; unlike for a cancelled one, no KILL follows."""
        _ask("scancel", "--quiet", "--state=PENDING", job)
        _ask("scancel", "--quiet", "--state=RUNNING", "--signal=TERM", job)
        self._next_look = min(self._next_look, time.monotonic() + 1.0)

    def cancel(self, job: str) -> None:
        """End a job; SLURM kills what is left of it after its own `KillWait`."""
        _ask("scancel", "--quiet", job)
        self._next_look = min(self._next_look, time.monotonic() + 1.0)


def _ask(*command: str) -> str | None:
    """What a command of SLURM's prints; None if it fails, as while its controller restarts."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of submitit's for jobs of one trial each.

    SLURM is told not to start a job again by itself: the trial would begin anew in a run folder that is used. One that
    was preempted saves its state as after SIGTERM, and the sweep's next start goes on with it.

    Args:
        given: `hydra.launcher.parameters`.

    Raises:
        ConfigError: If a trial would not be one task, or could be started again.
    """
    for name in ("nodes", "tasks_per_node", "slurm_nodes", "slurm_ntasks_per_node"):
        if given.get(name, 1) != 1:
            raise ConfigError(
                f"hydra.launcher.parameters.{name}={given[name]}: a trial is one task on one node, "
                "which starts its other ranks itself. For several GPUs set sweep.gpus_per_trial and trainer.devices."
            )
    further = dict(given.get("slurm_additional_parameters") or {})
    if "requeue" in further:
        raise ConfigError(
            "hydra.launcher.parameters.slurm_additional_parameters.requeue: SLURM would start a trial anew in a run "
            "folder that is used. Leave it out; the same command goes on with trials that were preempted."
        )
    return {**given, "slurm_additional_parameters": {**further, "no-requeue": True}}


def has_own_gpus(given: Mapping[str, Any]) -> bool:
    """Whether `hydra.launcher.parameters` says itself which GPUs a job gets."""
    return any(name in given for name in _GPUS)
