"""Random numbers as a function of the seed and the position in training, and of nothing else."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import lightning as L  # noqa: N812 (the library's own abbreviation)
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


class Randomness(Callback):
    """Seeds the generators of python, numpy and torch, those of its devices included, before each micro-batch.

    The seed is drawn from the run's seed, the rank, the epoch and the micro-batch. So no state of a generator has to be
    saved: a resumed run, one that validates more often, or one whose loader has workers draws the same dropout masks.
    """

    def __init__(self, seed: int) -> None:
        """Keep the run's seed."""
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a micro-batch's own random numbers."""
        seed_everywhere(derive_seed(self.seed, trainer.global_rank, trainer.current_epoch, batch_idx))


def derive_seed(*numbers: int) -> int:
    """A seed of 63 bits, unrelated to that of any other numbers."""
    digest = hashlib.sha256(",".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_everywhere(seed: int) -> None:
    """Seed python's, numpy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)
