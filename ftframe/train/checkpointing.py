"""When a run's state is saved."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint


def build_checkpoints(folder: Path, *, every_n_steps: int, total_steps: int, save_best: bool) -> list[ModelCheckpoint]:
    """Callbacks that keep `last.ckpt`, written every so often and at the last step, and `best.ckpt` by `val/loss`.

    The last step is saved as a step, not as the end of an epoch: a run that `max_steps` ended within an epoch then goes
    on within it, where Lightning would otherwise take the epoch for done.

    Args:
        folder: Where the files go.
        every_n_steps: Optimizer steps between two saves; 0 for no `last.ckpt` at all.
        total_steps: Optimizer steps of the run.
        save_best: Whether to keep the best one too.
    """
    checkpoint = partial(ModelCheckpoint, dirpath=folder, enable_version_counter=False)
    saved = []
    if every_n_steps > 0:
        saved = [checkpoint(filename="last", every_n_train_steps=steps) for steps in {every_n_steps, total_steps}]
    if save_best:
        saved.append(checkpoint(filename="best", monitor="val/loss"))
    return saved
