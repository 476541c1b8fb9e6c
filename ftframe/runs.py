"""The run folder: its name, and the files that say what was run."""

from __future__ import annotations

import hashlib
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
from typing import IO, Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from ftframe.api import Conversation
from ftframe.errors import ConfigError
from ftframe.redaction import redact, redact_overrides

CONFIG = "config.yaml"
OVERRIDES = "overrides.yaml"
MANIFEST = "manifest.json"
"""The last file of a run: where it stands, the run is complete."""

PARTIAL = ".partial-"
"""Begins the name of a file that is being written."""

LOCK = ".lock"

RUN_DIR_VARIABLE = "FTFRAME_RUN_DIR"
"""Set by the first process of a run, so that the ranks it starts use the same folder."""

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


def new_run_id() -> str:
    """`<date>_<time>_<4 random letters>`, local time."""
    letters = "".join(secrets.choice(string.ascii_lowercase) for _ in range(4))
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{letters}"


def is_first_rank() -> bool:
    """Whether this process writes the run's files."""
    return all(os.environ.get(name, "0") in ("0", "") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def create_run_folder(output_dir: str) -> Path:
    """The run's folder, made by the first rank and found by the others.

    Raises:
        ConfigError: If the folder exists already and holds something.
    """
    if not is_first_rank():
        shared = os.environ.get(RUN_DIR_VARIABLE, output_dir)
        return Path(shared)
    folder = Path(output_dir).expanduser().resolve()
    if folder.is_file() or (folder.is_dir() and any(not _is_ours(path) for path in folder.iterdir())):
        raise ConfigError(f"output_dir={output_dir} exists already and nothing is overwritten. Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[RUN_DIR_VARIABLE] = str(folder)
    return folder


def _is_ours(path: Path) -> bool:
    """Whether a file is what a run leaves that was killed before it wrote anything."""
    return path.name == LOCK or path.name.startswith(PARTIAL)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """The folder to this run alone, until the process ends in whatever way.

    Raises:
        ConfigError: If another process is at work in it.
    """
    if not is_first_rank():
        yield
        return
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            f"Another process is at work in {folder}. Wait until it has ended, or choose another folder: output_dir=..."
        ) from error
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def shown(path: Path) -> Path:
    """A path as a person would type it: relative where it lies below the working folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that stands under its name only once it is whole and on the disk; until then, what was there stays.

    The partial file lies beside the target: from another filesystem, such as that of `$TMPDIR`, a file is copied, and a
    kill in the middle would leave half of it under the good name.

    Raises:
        OSError: If it cannot be written, as on a full disk; nothing of it is left then.
    """
    partial = path.with_name(f"{PARTIAL}{path.name}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, as `fsync` of a file does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all; what UTF-8 has no bytes for is escaped."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def write_config(folder: Path, cfg: Any) -> None:
    """What the run was asked for: the resolved config, secrets redacted, and what was typed."""
    if not is_first_rank():
        return
    redacted = redact(OmegaConf.to_container(cfg, enum_to_str=True))
    write_text(folder / CONFIG, yaml.safe_dump(redacted, sort_keys=False, allow_unicode=True))
    typed = redact_overrides([argument for argument in sys.argv[1:] if "=" in argument and argument[:2] != "--"])
    write_text(folder / OVERRIDES, yaml.safe_dump(typed, allow_unicode=True))


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
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
    }


def sha256_of_files(folder: Path) -> dict[str, str]:
    """Digest of each file below a folder, by its relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def sha256(path: Path) -> str:
    """Digest of one file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
