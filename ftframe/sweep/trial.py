"""A trial's side: its config from the frozen file, and its end with the end of the sweep that started it."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from ftframe import compose, runs
from ftframe.errors import ConfigError

FLAG = "--frozen="
"""`ftframe fit --frozen=FILE`: what a sweep starts, and Lightning again for each further rank."""

COMMAND_VARIABLE = "FTFRAME_TRIAL_COMMAND"
"""In place of `python -m ftframe`, such as a profiler in front of it."""

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
_REFERENCE = re.compile(r"(\\*)\$\{")


def freeze(file: Path, config: dict[str, Any], overrides: Sequence[str]) -> None:
    """Write a resolved config that this user alone can read: secrets are in it as they are."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        yaml.safe_dump({"overrides": list(overrides), "config": config}, stream, sort_keys=False, allow_unicode=True)


def load_frozen(arguments: Sequence[str]) -> Any | None:
    """The config of a frozen file, checked as any other; None if the command line names none.

    Raises:
        ConfigError: If the file cannot be read.
    """
    files = [argument.removeprefix(FLAG) for argument in arguments if argument.startswith(FLAG)]
    if not files:
        return None
    die_with_parent()
    try:
        content = yaml.safe_load(Path(files[0]).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{FLAG}{files[0]}: {error}") from error
    runs.set_typed(content["overrides"])
    return compose.check(OmegaConf.create(_as_text(content["config"])))


def die_with_parent() -> None:
    """Be sent SIGTERM when the process that started this one is gone, however it ended; on Linux only."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it was gone before it could be watched
            os.kill(os.getpid(), signal.SIGTERM)


def _as_text(node: Any) -> Any:
    """The same tree, with what looks like a reference to another key kept as the text that it is by now."""
    if isinstance(node, dict):
        return {key: _as_text(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_as_text(value) for value in node]
    return _REFERENCE.sub(lambda found: found[1] * 2 + "\\${", node) if isinstance(node, str) else node
