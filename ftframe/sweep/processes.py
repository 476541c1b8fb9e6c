"""The processes of trials on this machine: each a process group of its own, on GPUs of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from ftframe.errors import ConfigError, FtframeError

LOST = -signal.SIGKILL
"""The exit code of a trial that is gone without one: as if it had been killed."""

_OF_ONE_RUN = ("FTFRAME_RUN_DIR", "RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that the first rank of a run sets for its others; a trial is a run of its own."""


@dataclass(frozen=True)
class Job:
    """One start of a trial.

    Attributes:
        number: Of the trial.
        command: What to run.
        log: Where its output goes.
        lock: Held while one of its processes lives.
        gpus: How many GPUs it needs, where there are any.
        prepare: Writes the trial's config; called when nothing of an earlier attempt runs any more.
    """

    number: int
    command: Sequence[str]
    log: Path
    lock: Path
    gpus: int
    prepare: Callable[[], None]


class Process(Protocol):
    """A trial that was started.

    Attributes:
        told: Why it ended, if whoever ran it ended it; empty where its own exit code says all.
    """

    told: str

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""

    def stop(self) -> None:
        """Ask it to save its state and leave."""

    def kill(self) -> None:
        """End it at once."""


class Engine(Protocol):
    """Where trials run.

    Attributes:
        max_parallel: Most trials at a time.
    """

    max_parallel: int

    def has_gpus(self, gpus: int) -> bool:
        """Whether that many are free for one more trial."""

    def start(self, job: Job) -> Process:
        """Start a trial."""

    def close(self) -> None:
        """Let go of everything; no trial runs any more."""


def visible_gpus() -> list[str]:
    """Ids of the GPUs that trials may use, as CUDA_VISIBLE_DEVICES takes them; torch is not asked, nor imported."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in (part.strip() for part in given.split(",")) if name and name != "-1"]
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip().isdigit()]


def claim(lock: Path, grace_seconds: float) -> int:
    """The descriptor of a trial's lock, taken; what a killed sweep left running is ended first.

    The processes of a trial inherit the descriptor, and the kernel lets go of the lock when the last of them is gone.

    Raises:
        ConfigError: If another sweep runs this trial now.
        FtframeError: If what holds the lock cannot be ended.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _try_lock(descriptor):
            _end_orphans(lock, descriptor, grace_seconds)
    except BaseException:
        os.close(descriptor)
        raise
    note_owner(descriptor, None)
    return descriptor


def is_run_elsewhere(lock: Path) -> bool:
    """Whether a living sweep runs this trial now."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if _try_lock(descriptor):
            return False
        owner = json.loads(lock.read_text() or "{}")
        return owner.get("host") != socket.gethostname() or _lives(owner)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, seconds: float = 0.0) -> bool:
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
        time.sleep(0.05)


def note_owner(descriptor: int, group: int | None) -> None:
    """Write into a lock that this process has taken it, and for which process group."""
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "born": psutil.Process().create_time(),
        "group": group,
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(owner).encode(), 0)


def _end_orphans(lock: Path, descriptor: int, grace_seconds: float) -> None:
    """End the process group that still holds a lock though the sweep that started it is gone."""
    owner = json.loads(lock.read_text() or "{}")
    if owner.get("host") != socket.gethostname() or _lives(owner):
        raise ConfigError(
            f"Trial {lock.stem} is run by another sweep now, process {owner.get('pid')} on {owner.get('host')}. "
            "Wait for it, stop it, or choose another sweep.dir."
        )
    for signal_number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
        if owner["group"] is not None:
            send(owner["group"], signal_number)
        if _try_lock(descriptor, seconds):
            return
    raise FtframeError(f"Trial {lock.stem} is still running, and what runs it cannot be ended. `lsof {lock}` names it.")


def _lives(owner: Mapping[str, float]) -> bool:
    """Whether the process that took a lock is there still; a later one may have its number."""
    try:
        return bool(abs(psutil.Process(int(owner["pid"])).create_time() - owner["born"]) < 1.0)
    except psutil.Error:
        return False


def send(group: int, signal_number: int) -> None:
    """Send a signal to a process group, if there is anything left of it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal_number)


@dataclass
class LocalProcess:
    """A process group on this machine.

    Attributes:
        popen: Its first process.
        gpus: The GPUs it has.
        pool: Where they go back to.
        told: As `Process`.
    """

    popen: subprocess.Popen[bytes]
    gpus: list[str]
    pool: list[str]
    told: str = ""
    _code: int | None = None

    def poll(self) -> int | None:
        """As `Process`; what is left of the group is ended, and its GPUs are free again."""
        if self._code is None and (code := self.popen.poll()) is not None:
            self._code = code
            send(self.popen.pid, signal.SIGKILL)
            self.pool.extend(self.gpus)
        return self._code

    def stop(self) -> None:
        """As `Process`."""
        send(self.popen.pid, signal.SIGTERM)

    def kill(self) -> None:
        """As `Process`."""
        send(self.popen.pid, signal.SIGKILL)


@dataclass
class LocalEngine:
    """Trials on this machine.

    Attributes:
        max_parallel: Most trials at a time.
        gpus: The GPUs that no trial has.
        grace_seconds: How long what an earlier sweep left may take to end.
    """

    max_parallel: int
    gpus: list[str]
    grace_seconds: float

    def __post_init__(self) -> None:
        """Remember whether this machine has GPUs."""
        self._has_gpus = bool(self.gpus)

    def has_gpus(self, gpus: int) -> bool:
        """As `Engine`."""
        return len(self.gpus) >= gpus or not self._has_gpus

    def start(self, job: Job) -> LocalProcess:
        """As `Engine`."""
        descriptor = claim(job.lock, self.grace_seconds)
        taken, self.gpus[: job.gpus] = self.gpus[: job.gpus], []
        try:
            job.prepare()
            with job.log.open("ab") as log:
                popen = subprocess.Popen(
                    job.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(taken),
                    start_new_session=True,
                    pass_fds=(descriptor,),
                )
            note_owner(descriptor, popen.pid)
        except OSError as error:
            raise ConfigError(f"{' '.join(job.command[:1])} cannot be started: {error.strerror}.") from error
        finally:
            os.close(descriptor)
        return LocalProcess(popen, taken, self.gpus)

    def close(self) -> None:
        """As `Engine`; there is nothing to let go of."""

    def _environment(self, gpus: Sequence[str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in _OF_ONE_RUN}
        threads = {} if self.max_parallel == 1 else {"OMP_NUM_THREADS": str(self._threads())}
        return {**threads, **kept, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}

    def _threads(self) -> int:
        """This process's cores in as many parts as there are trials at a time."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // self.max_parallel)


def build_local_engine(max_parallel: int | None, gpus_per_trial: int, grace_seconds: float) -> LocalEngine:
    """The engine for what this machine has.

    Raises:
        ConfigError: If there are GPUs, and not enough for one trial.
    """
    gpus = visible_gpus()
    if gpus and gpus_per_trial > len(gpus):
        raise ConfigError(f"sweep.gpus_per_trial={gpus_per_trial}: there are {len(gpus)} ({', '.join(gpus)}).")
    at_a_time = len(gpus) // gpus_per_trial if gpus and gpus_per_trial else 1
    return LocalEngine(max_parallel or at_a_time, gpus, grace_seconds)
