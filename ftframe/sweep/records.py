"""What a sweep keeps on disk: one file for what was asked, and one for each trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ftframe.durable_files import write_json
from ftframe.errors import ConfigError
from ftframe.redaction import redact, redact_overrides

FORMAT = 1


class State(StrEnum):
    """Where a trial stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    PRUNED = "pruned"
    INTERRUPTED = "interrupted"


@dataclass
class Trial:
    """One trial of a sweep.

    Attributes:
        number: Its place in the sweep, from 0.
        overrides: What varies: the value of each key or group that the sweep sets.
        state: Where it stands.
        exit_code: Of its process; below 0 the signal that killed it.
        reason: Why it is not done.
        folder: Its run folder, relative to the sweep's.
        started: When its last attempt began, ISO 8601 with the zone.
        seconds: How long its attempts took together.
        attempts: How often it was started.
        values: Its final metrics, and the numbers beside them.
        config_sha256: Digest of its configuration, with references to other keys as they stand.
    """

    number: int
    overrides: dict[str, Any]
    state: State = State.WAITING
    exit_code: int | None = None
    reason: str | None = None
    folder: str = ""
    started: str | None = None
    seconds: float | None = None
    attempts: int = 0
    values: dict[str, float] | None = None
    config_sha256: str = ""

    def __post_init__(self) -> None:
        """Complete what follows from the number."""
        self.state = State(self.state)
        self.folder = self.folder or f"runs/{self.number:04}"


@dataclass(frozen=True)
class SweepFolder:
    """The paths of a sweep.

    Attributes:
        path: The folder itself.
    """

    path: Path

    def prepare(self) -> None:
        """Make the folders; what only this user may read is apart."""
        try:
            for name in ("trials", "runs", "logs"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            self.private.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"sweep.dir={self.path}: the folder cannot be made: {error.strerror}.") from error
        self.private.chmod(0o700)

    @property
    def private(self) -> Path:
        """Frozen configs, in which secrets are not redacted, and locks."""
        return self.path / ".private"

    def run(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.path / "runs" / f"{number:04}"

    def log(self, number: int) -> Path:
        """What the process of a trial printed."""
        return self.path / "logs" / f"{number:04}.txt"

    def frozen(self, number: int) -> Path:
        """The config that all processes of a trial read."""
        return self.private / f"{number:04}.yaml"

    def lock(self, number: int) -> Path:
        """Held while any process of a trial lives."""
        return self.private / f"{number:04}.lock"

    def save(self, trial: Trial) -> None:
        """Write a trial's file, whole or not at all."""
        content = {**asdict(trial), "overrides": redact(trial.overrides)}
        write_json(self.path / "trials" / f"{trial.number:04}.json", content)

    def load(self) -> dict[int, Trial]:
        """The trials so far, by number."""
        files = sorted((self.path / "trials").glob("[0-9]*.json"))
        trials = [_read_trial(file) for file in files]
        return {trial.number: trial for trial in trials}

    def values(self, number: int) -> dict[str, float] | None:
        """The final metrics of a run and the numbers beside them; None if there are none."""
        file = self.run(number) / "metrics.json"
        if not file.is_file():
            return None
        content = json.loads(file.read_text(encoding="utf-8"))
        numbers = {**content, **(content.get("final") or {})}
        return {name: value for name, value in numbers.items() if type(value) in (int, float)}


def _read_trial(file: Path) -> Trial:
    """A trial's record.

    Raises:
        ConfigError: If it is damaged.
    """
    try:
        return Trial(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file} is damaged: {error}. Delete it, and its trial starts again.") from error


EXECUTION_KEYS = (
    "sweep.dir",
    "sweep.max_parallel",
    "sweep.gpus_per_trial",
    "sweep.grace_seconds",
    "sweep.retry_failed",
    "sweep.n_trials",
    "sweep.heartbeat_seconds",
    "hydra.sweep.dir",
    "hydra/launcher",
    "hydra.launcher",
)
"""Where and how trials run; they may change while a sweep goes on."""


def open_sweep(folder: SweepFolder, asked: Mapping[str, Any]) -> bool:
    """Write `sweep.json`, or hold what is asked against the one that is there.

    Args:
        folder: The sweep's folder.
        asked: `command`, `overrides` as typed, `objectives`, `sweeper` and `cells`.

    Returns:
        Whether the sweep goes on, rather than begins.

    Raises:
        ConfigError: If the folder is something else's, or another sweep was asked for in it.
    """
    file = folder.path / "sweep.json"
    content = {"format": FORMAT, **asked, "overrides": redact_overrides(list(asked["overrides"]))}
    if file.is_file():
        _refuse_changes(folder, json.loads(file.read_text(encoding="utf-8")), content)
        folder.prepare()
        return True
    if folder.path.is_file() or (folder.path.is_dir() and {*folder.path.iterdir()} - {folder.private}):
        raise ConfigError(f"sweep.dir={folder.path} holds something that is no sweep. Choose another folder.")
    folder.prepare()
    write_json(file, content)
    return False


def _refuse_changes(folder: SweepFolder, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    where = f"{folder.path} holds a sweep that was asked for differently"
    if before.get("format") != FORMAT:
        raise ConfigError(f"{folder.path} has format {before.get('format')}, and this ftframe reads {FORMAT}.")
    for name in ("command", "sweeper"):
        if before[name] != now[name]:
            raise ConfigError(f"{where}: {name} was {before[name]} and is {now[name]}. Choose another sweep.dir.")
    old, new = _defining(before["overrides"]), _defining(now["overrides"])
    gone = [override for override in old if override not in new]
    added = [override for override in new if override not in old]
    if old != new and not gone and not added:
        raise ConfigError(f"{where}: in another order, which numbers the trials differently:\n  {' '.join(old)}")
    if gone or added:
        lines = [*(f"  before, not now: {o}" for o in gone), *(f"  now, not before: {o}" for o in added)]
        raise ConfigError("\n".join([f"{where}:", *lines, "Type the same overrides, or choose another sweep.dir."]))


def _defining(overrides: Sequence[str]) -> list[str]:
    """The overrides that say what is trained."""
    return [o for o in overrides if not o.partition("=")[0].lstrip("+~").startswith(EXECUTION_KEYS)]
