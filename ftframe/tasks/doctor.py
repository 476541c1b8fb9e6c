"""Look over the machine and the installation: what stops training, and the command that mends it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ftframe import device, installation, registry
from ftframe.errors import ConfigError
from ftframe.installation import Check, State, reason

__all__ = ["doctor"]

GIB = 2**30
FULL_DISK = 1 * GIB
LOW_DISK = 20 * GIB  # holds the bf16 weights of a 7B model


def doctor(arguments: Sequence[str] = ()) -> int:
    """Print one line for each check; the exit code, 2 if training cannot work here and 0 otherwise.

    Raises:
        ConfigError: If it is given arguments.
    """
    if arguments:
        raise ConfigError(f"ftframe doctor takes no arguments, and was given {' '.join(arguments)}.")
    console = Console(highlight=False)
    states = set()
    for examine in CHECKS:
        check = outcome(examine)
        console.print(line(check, ascii_only=console.options.ascii_only), soft_wrap=True)
        states.add(check.state)
    return 2 if "fail" in states else 0


def line(check: Check, *, ascii_only: bool) -> Text:
    """The check as one line, whatever line breaks the texts hold."""
    mark, style = {"ok": ("✔", "green"), "warn": ("!", "yellow"), "fail": ("✘", "red")}[check.state]
    if ascii_only:
        mark = {"✔": "+", "✘": "x"}.get(mark, mark)
    text = Text.assemble((mark, f"bold {style}"), f" {check.name:<17} ", " ".join(check.detail.split()))
    return text if check.state == "ok" else text.append(f" -> {check.remedy}", style="bold")


def outcome(examine: Callable[[], Check]) -> Check:
    """The result of a check; one that raises has failed, for what it looks at is broken."""
    try:
        with silence():
            return examine()
    except Exception as error:
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        remedy = f"pip install {missing.partition('.')[0]}" if missing else "pip check"
        return Check(examine.__name__.replace("_", " "), "fail", reason(error), remedy)


@contextmanager
def silence() -> Iterator[None]:
    """Discard what libraries write at import, native code included.

    Only the descriptors are turned away: a log handler made meanwhile keeps a stream that works afterwards.
    """
    kept = {number: os.dup(number) for number in (1, 2)}
    try:
        with Path(os.devnull).open("w") as sink:
            for number in kept:
                os.dup2(sink.fileno(), number)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)


def datasets() -> Check:
    """The installed datasets."""
    return installation.plugins(registry.datasets)


def prompt_templates() -> Check:
    """The installed prompt templates."""
    return installation.plugins(registry.prompt_templates)


def metrics() -> Check:
    """The installed metrics."""
    return installation.plugins(registry.metrics)


def outputs() -> Check:
    """Room for run folders; without it nothing can be trained."""
    folder = Path("outputs").resolve()
    return storage("outputs", folder, worst="fail", remedy="ftframe fit output_dir=FOLDER_ON_A_ROOMY_DISK")


def hub_cache() -> Check:
    """Room for downloads. What is cached already still trains, so this never fails."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE).expanduser().resolve()
    return storage("hub cache", folder, worst="warn", remedy="export HF_HOME=FOLDER_ON_A_ROOMY_DISK")


def storage(name: str, folder: Path, *, worst: State, remedy: str) -> Check:
    """Whether a folder, or the one that it would be made in, takes files.

    Args:
        name: The name of the check.
        folder: The folder, absolute; it need not exist.
        worst: The state where nothing can be written.
        remedy: The command that turns to another folder.
    """
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{folder}, {free / GIB:.1f} GiB free"
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(name, worst, f"{detail}: {existing} cannot be written to", remedy)
    if free < FULL_DISK:
        return Check(name, worst, f"{detail}: the disk is full", remedy)
    if free < LOW_DISK:
        return Check(name, "warn", f"{detail}: too little for the weights of a large model", remedy)
    return Check(name, "ok", detail)


def hub_token() -> Check:
    """Whether gated models can be fetched. The token itself is never shown."""
    from huggingface_hub import constants, get_token

    mode = ", offline (HF_HUB_OFFLINE): only cached models load" if constants.HF_HUB_OFFLINE else ""
    if get_token():
        return Check("hub token", "ok", f"present{mode}")
    if mode:
        return Check("hub token", "ok", f"none{mode}")
    return Check("hub token", "warn", "none: gated models such as Llama 2 cannot be fetched", "hf auth login")


CHECKS: tuple[Callable[[], Check], ...] = (
    installation.python,
    installation.packages,
    installation.known_bad,
    device.torch_build,
    device.bitsandbytes,
    device.bf16,
    device.fp8,
    device.memory,
    outputs,
    hub_cache,
    hub_token,
    datasets,
    prompt_templates,
    metrics,
)
