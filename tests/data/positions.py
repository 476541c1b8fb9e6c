"""Trainers that stand somewhere in training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def trainer_at(
    epoch: int = 0, batches: int = 0, *, rank: int = 0, world_size: int = 1, is_last_batch: bool = False
) -> Any:
    """What a datamodule reads of Lightning's trainer, behind so many batches of an epoch."""
    progress = SimpleNamespace(current=SimpleNamespace(processed=batches), is_last_batch=is_last_batch)
    fit_loop = SimpleNamespace(
        epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=epoch)),
        epoch_loop=SimpleNamespace(batch_progress=progress),
    )
    return SimpleNamespace(global_rank=rank, world_size=world_size, fit_loop=fit_loop)
