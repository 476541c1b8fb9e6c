"""When a run's state is saved."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint


def build_checkpoints(folder: Path, *, every_n_steps: int, save_best: bool) -> list[ModelCheckpoint]:
    """Callbacks that keep `last.ckpt`, written every so often and at each epoch's end, and `best.ckpt` by `val/loss`.

    Args:
        folder: Where the files go.
        every_n_steps: Optimizer steps between two saves; 0 for no `last.ckpt` at all.
        save_best: Whether to keep the best one too.
    """
    checkpoint = partial(ModelCheckpoint, dirpath=folder, enable_version_counter=False)
    saved = []
    if every_n_steps > 0:
        saved.append(checkpoint(filename="last", every_n_train_steps=every_n_steps))
        saved.append(checkpoint(filename="last", every_n_epochs=1, save_on_train_epoch_end=True))
    if save_best:
        saved.append(checkpoint(filename="best", monitor="val/loss"))
    return saved
