"""`progress.json`: how far a run is, for whoever watches it from outside."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 (the library's own abbreviation)
from lightning.pytorch.callbacks import Callback

from ftframe.durable_files import PARTIAL
from ftframe.train.throughput import Throughput

NAME = "progress.json"
_SECONDS = 1.0


class ProgressFile(Callback):
    """Writes step, total steps, tokens per second and seconds per step, once a second at most."""

    def __init__(self, folder: Path, throughput: Throughput, *, total_steps: int) -> None:
        """Name the run folder, and what counts tokens and seconds."""
        self._path = folder / NAME
        self._throughput = throughput
        self._total_steps = total_steps
        self._next = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Replace the file, if it is time; a disk that is full does not end training here."""
        if not trainer.is_global_zero or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _SECONDS
        counted = self._throughput
        content = {
            "step": trainer.global_step,
            "total_steps": self._total_steps,
            "tokens_per_second": counted.tokens_per_second(trainer.world_size),
            "seconds_per_step": counted.seconds / len(counted.step_seconds) if counted.step_seconds else None,
        }
        partial = self._path.with_name(f"{PARTIAL}{NAME}")
        try:
            partial.write_text(json.dumps(content), encoding="utf-8")
            partial.replace(self._path)
        except OSError:
            return
