"""How a checkpoint becomes a file, and a file a checkpoint."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ftframe.durable_files import whole_file
from ftframe.errors import ConfigError, FtframeError

PARTS = frozenset({"state_dict", "loops", "optimizer_states", "lr_schedulers"})
"""What a checkpoint must have for training to go on."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and reads nothing but tensors and plain values.

    Lightning's own way goes through `$TMPDIR`, and a kill in the middle left an empty file in place of the good one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a file.

        Raises:
            FtframeError: If it cannot be written, as on a full disk; those written before are as they were.
        """
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError where a write fails
            raise FtframeError(
                f"The checkpoint {target} could not be written: {error}. The one before it is intact. Make room, then "
                f"go on: ftframe fit ckpt_path={target.parents[1]}"
            ) from error

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Read a file."""
        return read_checkpoint(Path(path))


def refuse_damaged(path: Path) -> None:
    """Hold a checkpoint that no manifest speaks for against the checksums in it, which torch does not look at.

    Raises:
        ConfigError: If a part of it has changed since it was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        raise ConfigError(f"ckpt_path: {path} is damaged: {error}") from error
    if part is not None:
        raise ConfigError(f"ckpt_path: {path} is damaged: {part} in it is not what was written.")


def read_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Nothing in it is executed: `weights_only` lets tensors, containers and plain values through and no other object.

    Args:
        path: The file.
        mmap: Whether tensors are only mapped into memory, to look at what there is.

    Raises:
        ConfigError: If it is no checkpoint of a training run, is damaged, or holds other objects.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, KeyError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"ckpt_path: {path} is no checkpoint that can be loaded safely: {reason}") from error
    missing = sorted(PARTS - set(content)) if isinstance(content, dict) else sorted(PARTS)
    if missing:
        raise ConfigError(
            f"ckpt_path: {path} is no checkpoint of a training run: it has no {', '.join(missing)}. "
            "Give a run folder, or a file of its checkpoints/."
        )
    return dict(content)
