"""What became of a trial, from its exit code, its log and its run folder."""

from __future__ import annotations

import math
import re
import signal
from pathlib import Path

from ftframe.sweep.records import State, SweepFolder, Trial

NON_FINITE, OUT_OF_MEMORY = 3, 4
STOPPED_BY_SIGTERM = 128 + signal.SIGTERM
STOPPED = {128 + signal.SIGINT: "stopped by SIGINT", STOPPED_BY_SIGTERM: "stopped by SIGTERM"}
_TAIL_BYTES = 65_536
_ERROR = re.compile(r"^(error: |[\w.]*(Error|Exception|Interrupt)\b)")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def settle(trial: Trial, code: int, folder: SweepFolder, *, needs_manifest: bool, told: str = "") -> None:
    """Write into a trial what became of it.

    Args:
        trial: The trial.
        code: Exit code of its process; below 0 the signal that killed it.
        folder: The sweep's.
        needs_manifest: Whether a complete run has a manifest.
        told: Why it ended, by who ran it; empty where its own exit code says all.
    """
    trial.exit_code, trial.reason = code, None
    trial.values = folder.values(trial.number)
    complete = not needs_manifest or (folder.run(trial.number) / "manifest.json").is_file()
    losses = {name: value for name, value in (trial.values or {}).items() if name.rpartition("/")[2] == "loss"}
    odd = [f"{name}={value}" for name, value in losses.items() if not math.isfinite(value)]
    if code == 0 and complete and odd:
        trial.state, trial.exit_code, trial.reason = State.FAILED, NON_FINITE, f"non-finite: {', '.join(odd)}"
    elif code == 0 and complete:
        trial.state = State.DONE
    elif code in STOPPED:
        trial.state, trial.reason = State.INTERRUPTED, told or STOPPED[code]
    else:
        trial.state, trial.reason = State.FAILED, told or _reason(code, folder.log(trial.number))


def shell_code(code: int) -> int:
    """An exit code as a shell gives it, which has none below 0; 1 for a 0 that was not the end of a run."""
    return 128 - code if code < 0 else code or 1


def _reason(code: int, log: Path) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    said = _last_error(log)
    if code == 0:
        said = "left before its run was complete"
    kind = {NON_FINITE: "non-finite", OUT_OF_MEMORY: "out of memory"}.get(code, "")
    told = kind if kind and kind not in said else ""
    return ": ".join(part for part in (f"exit code {code}", told, said) if part)


def _last_error(log: Path) -> str:
    """The last line of a log that tells of an error; empty if none does."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    lines = [_ESCAPES.sub("", line).strip() for line in text.splitlines()]
    return next((line.removeprefix("error: ")[:500] for line in reversed(lines) if _ERROR.match(line)), "")
