"""Import what a distribution registers in a process of its own, which nothing that happens there can harm."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from ftframe.errors import PluginError
from ftframe.registry import REGISTRIES

TIMEOUT = 60.0
"""Seconds that one distribution may take."""


@dataclass(frozen=True)
class Probed:
    """What became of importing one registered name.

    Attributes:
        kind: The kind of extension.
        name: Its name.
        trouble: Why it cannot be used; empty if it can.
        seconds: How long its import took.
    """

    kind: str
    name: str
    trouble: str
    seconds: float


def probe(owner: str) -> dict[tuple[str, str], Probed]:
    """What importing each name of a distribution comes to, by kind and name.

    Args:
        owner: The canonical name of the distribution.
    """
    command = [sys.executable, "-P", "-m", "ftframe.probe", owner]  # -P: files in the working folder shadow no library
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        output, ending = done.stdout, f"its import ended the process with exit code {done.returncode}"
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode() if not isinstance(error.stdout, str) else error.stdout
        ending = f"its import took longer than {TIMEOUT:.0f} s"
    found = [Probed(**json.loads(line)) for line in output.splitlines()]
    results = {(one.kind, one.name): one for one in found}
    for kind, name in _registered(owner):
        results.setdefault((kind, name), Probed(kind, name, ending, 0.0))
    return results


def _registered(owner: str) -> list[tuple[str, str]]:
    """Kind and name of what a distribution registers and may be imported."""
    return [
        (registry.kind, name)
        for registry in REGISTRIES.values()
        for name, claims in registry.claims.items()
        if any(claim.owner == owner and not claim.refusal for claim in claims)
    ]


def main() -> None:
    """In the process of its own: one line of JSON for each name."""
    with os.fdopen(os.dup(1), "w") as results:
        os.dup2(2, 1)  # a module may print at import, and even from native code
        for kind, name in _registered(sys.argv[1]):
            if kind == "metric":  # what ftframe itself imports for any metric is not the plugin's time
                importlib.import_module("torchmetrics")
            started = time.perf_counter()
            trouble = _trouble(kind, name)
            line = json.dumps(asdict(Probed(kind, name, trouble, time.perf_counter() - started)))
            results.write(f"{line}\n")
            results.flush()


def _trouble(kind: str, name: str) -> str:
    try:
        REGISTRIES[kind].load(name)
    except PluginError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()
