"""Holds a plan of memory against what the first step took."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L  # noqa: N812 (the library's own abbreviation)
import torch
from lightning.pytorch.callbacks import Callback

from ftframe.gpus import GIBIBYTE

log = logging.getLogger(__name__)

TOLERANCE = 1.03
"""How far a step may go beyond its plan before it is worth a warning."""


class PlannedPeak(Callback):
    """Warns if the first optimizer step, which begins with the largest batch, took more memory than was planned."""

    def __init__(self, planned: float) -> None:
        """Keep the planned peak in bytes."""
        self._planned = planned
        self._is_checked = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare, when the first step is done."""
        if self._is_checked or pl_module.device.type != "cuda" or not trainer.global_step:
            return
        self._is_checked = True
        taken = torch.cuda.max_memory_allocated(pl_module.device)
        figures = f"{taken / GIBIBYTE:.2f} GiB, and {self._planned / GIBIBYTE:.2f} were planned"
        log.info("the first step took %s", figures)
        if taken > TOLERANCE * self._planned:
            log.warning("the first step took %s: memory=budget, checkpoint or offload take less", figures)
