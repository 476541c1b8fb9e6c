"""The run folder: its name, and the files that say what was run."""

from __future__ import annotations

import json
import os
import platform
import secrets
import string
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from ftframe.api import Conversation
from ftframe.durable_files import PARTIAL, sha256_of_files, write_json, write_text
from ftframe.errors import ConfigError
from ftframe.redaction import redact, redact_overrides

CONFIG = "config.yaml"
OVERRIDES = "overrides.yaml"
MANIFEST = "manifest.json"
"""The last file of a run: where it stands, the run is complete."""

LOCK = ".lock"

RUN_DIR_VARIABLE = "FTFRAME_RUN_DIR"
"""Set by the first process while a run lasts, so that the ranks it starts use the same folder."""

_PACKAGES = (
    "ftframe",
    "torch",
    "lightning",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
)
_typed: list[str] = []


class FolderTakenError(ConfigError):
    """The run folder is another run's."""


def new_run_id() -> str:
    """`<date>_<time>_<4 random letters>`, local time."""
    letters = "".join(secrets.choice(string.ascii_lowercase) for _ in range(4))
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{letters}"


def is_first_rank() -> bool:
    """Whether this process writes the run's files."""
    return all(os.environ.get(name, "0") in ("0", "") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


@contextmanager
def new_run_folder(output_dir: str) -> Iterator[Path]:
    """A run's folder, to this run alone: made by the first rank and found by the others.

    Raises:
        FolderTakenError: If the folder holds something already, or another process is at work in it.
        ConfigError: If it cannot be made.
    """
    if not is_first_rank():
        yield Path(os.environ.get(RUN_DIR_VARIABLE, output_dir))
        return
    folder = _made(output_dir)
    with claimed(folder):
        _refuse_used(folder, output_dir)  # not before: whoever has claimed it may be about to write
        os.environ[RUN_DIR_VARIABLE] = str(folder)
        try:
            yield folder
        finally:
            os.environ.pop(RUN_DIR_VARIABLE, None)


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """The folder to this run alone, until the process ends in whatever way.

    Raises:
        FolderTakenError: If another process is at work in it.
        ConfigError: If nothing can be written there.
    """
    if not is_first_rank():
        yield folder
        return
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderTakenError(
            f"Another process is at work in {folder}. Wait until it has ended, or choose another folder: output_dir=..."
        ) from error
    except OSError as error:
        raise ConfigError(f"{folder}: nothing can be written there: {error.strerror}.") from error
    try:
        yield folder
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def _made(output_dir: str) -> Path:
    try:
        folder = Path(output_dir).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise _taken(output_dir) from error
    except (OSError, RuntimeError, ValueError) as error:  # ~nobody, a NUL, a name too long, a file on the way
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"output_dir={output_dir}: the folder cannot be made: {reason}.") from error
    return folder


def _refuse_used(folder: Path, output_dir: str) -> None:
    """Refuse a folder that holds more than a run leaves that was killed before it wrote anything."""
    if any(path.name not in (LOCK, OVERRIDES) and not path.name.startswith(PARTIAL) for path in folder.iterdir()):
        raise _taken(output_dir)


def _taken(output_dir: str) -> FolderTakenError:
    return FolderTakenError(
        f"output_dir={output_dir} exists already and nothing is overwritten. Choose another folder."
    )


def shown(path: Path) -> Path:
    """A path as a person would type it: relative where it lies below the working folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def write_config(folder: Path, cfg: Any) -> None:
    """What the run was asked for: the resolved config, secrets redacted, and what was typed."""
    if not is_first_rank():
        return
    redacted = redact(OmegaConf.to_container(cfg, enum_to_str=True))
    typed = redact_overrides(_typed)
    write_text(folder / OVERRIDES, yaml.safe_dump(typed, allow_unicode=True))
    write_text(folder / CONFIG, yaml.safe_dump(redacted, sort_keys=False, allow_unicode=True))  # last: now it is a run


def set_typed(overrides: Sequence[str]) -> None:
    """Say which overrides were typed."""
    global _typed
    _typed = list(overrides)


def write_samples(
    path: Path, conversations: Sequence[Conversation], *, answers: Mapping[str, Mapping[int, str]]
) -> None:
    """One line per prompt: its turns, the right answer where it is known, and the model's answer at each stage."""
    with path.open("w", encoding="utf-8") as file:
        for index, conversation in enumerate(conversations):
            has_answer = conversation[-1].role == "assistant"
            turns = conversation[:-1] if has_answer else conversation
            row = {
                "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
                **({"reference": conversation[-1].content} if has_answer else {}),
                **{stage: texts.get(index) for stage, texts in answers.items()},
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_rejected(folder: Path, rejected: Sequence[Mapping[str, str]]) -> None:
    """`rejected_rows.jsonl`, if there are any: one line per row that was left out, with its place and the reason."""
    if rejected and is_first_rank():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rejected]
        (folder / "rejected_rows.jsonl").write_text("".join(lines), encoding="utf-8")


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Versions, machine, the given facts and the digest of every artifact; the last file of a run that is complete."""
    artifacts = {
        f"{part}/{name}": digest
        for part in ("adapter", "model")
        if (folder / part).is_dir()
        for name, digest in sha256_of_files(folder / part).items()
    }
    write_json(folder / MANIFEST, {**environment(), **redact(facts), "sha256": artifacts})


def environment() -> dict[str, Any]:
    """Versions, command line, machine and commit of this process; secrets redacted."""
    return {
        "command": [Path(sys.argv[0]).name, *redact_overrides(sys.argv[1:])],
        **versions(),
        "platform": platform.platform(),
        "git_commit": _git_commit(),
    }


def versions() -> dict[str, Any]:
    """Those of Python and of the packages that decide the numbers."""
    return {"python": platform.python_version(), "packages": {name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the folder the command was started in, if it is a git checkout."""
    try:
        result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
