"""The run folder: its name, and the files that say what was run."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import string
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from ftframe.api import Conversation
from ftframe.errors import ConfigError

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
_typed: list[str] | None = None
_SECRET_NAMES = r"(?:api_?key|password|secret|access_?token|auth_?token|hf_?token|token)"
_SECRET = re.compile(rf"(^|[_.]){_SECRET_NAMES}$", re.IGNORECASE)
_INLINE_SECRET = re.compile(rf"((?:[{{,\s_.]){_SECRET_NAMES}\s*:\s*)[^,}}]+", re.IGNORECASE)
"""A secret within the value of an override: `logger={_target_:...,api_key:...}`."""
_CREDENTIALS = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^/@:\s]*:)[^/@\s]+@", re.IGNORECASE)
"""The password of an URL."""


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
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"output_dir={output_dir} exists already and nothing is overwritten. Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[RUN_DIR_VARIABLE] = str(folder)
    return folder


def shown(path: Path) -> Path:
    """A path as a person would type it: relative where it lies below the working folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    partial.replace(path)


def write_config(folder: Path, cfg: Any) -> None:
    """What the run was asked for: the resolved config, secrets redacted, and what was typed."""
    if not is_first_rank():
        return
    redacted = redact(OmegaConf.to_container(cfg, enum_to_str=True))
    (folder / "config.yaml").write_text(yaml.safe_dump(redacted, sort_keys=False, allow_unicode=True), encoding="utf-8")
    typed = [argument for argument in sys.argv[1:] if "=" in argument and argument[:2] != "--"]
    typed = redact_overrides(_typed if _typed is not None else typed)
    (folder / "overrides.yaml").write_text(yaml.safe_dump(typed, allow_unicode=True), encoding="utf-8")


def set_typed(overrides: Sequence[str]) -> None:
    """Say what was typed, where the command line names a file that holds it."""
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
    write_json(folder / "manifest.json", {**environment(), **facts, "sha256": artifacts})


def redact(node: Any, key: str = "") -> Any:
    """The same tree with every value whose key names a secret replaced."""
    if isinstance(node, Mapping):
        return {name: redact(value, str(name)) for name, value in node.items()}
    if isinstance(node, list):
        return [redact(value, key) for value in node]
    if isinstance(node, str):
        node = _CREDENTIALS.sub(r"\1<redacted>@", node)
    return "<redacted>" if node and _SECRET.search(key) else node


def redact_overrides(overrides: list[str]) -> list[str]:
    """The same overrides with every secret value replaced."""
    return [
        f"{override.partition('=')[0]}=<redacted>"
        if _SECRET.search(override.partition("=")[0])
        else _CREDENTIALS.sub(r"\1<redacted>@", _INLINE_SECRET.sub(r"\1<redacted>", override))
        for override in overrides
    ]


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
