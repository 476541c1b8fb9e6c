"""The names in the configs of a sweep, checked in a process of their own, so that what plugins import stays there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ftframe import extensions
from ftframe.errors import FtframeError

_NAMED = ("data", "metrics", "template")
_MARK = "names checked: "


def find_problems(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the datasets, templates and metrics of each config; empty where nothing is.

    Raises:
        FtframeError: If the process that imports them does not answer.
    """
    asked = [json.dumps({key: config[key] for key in _NAMED if key in config}, default=str) for config in configs]
    distinct = list(dict.fromkeys(asked))
    if not distinct:
        return []
    done = subprocess.run(
        [sys.executable, "-m", __name__], input="\n".join(distinct), capture_output=True, text=True, check=False
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if not answers:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise FtframeError(f"Importing the plugins of the sweep ended in: {last}")
    found = dict(zip(distinct, json.loads(answers[-1].removeprefix(_MARK)), strict=True))
    return [found[config] for config in asked]


def _problem(config: dict[str, Any]) -> str:
    try:
        extensions.check_named(config)
    except FtframeError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    found = [_problem(json.loads(line)) for line in sys.stdin.read().splitlines()]
    print(f"\n{_MARK}{json.dumps(found)}")
