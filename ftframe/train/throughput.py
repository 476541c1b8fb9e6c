"""Tokens per second and peak memory of a run."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import lightning as L  # noqa: N812 (the library's own abbreviation)
import torch
from lightning.pytorch.callbacks import Callback

GIBIBYTE = 2**30


class Throughput(Callback):
    """Counts tokens and seconds between optimizer steps; validation and the first step, which warms up, are left out.

    Attributes:
        tokens: Non-padding tokens of this rank in the counted time.
        seconds: The counted time.
    """

    def __init__(self) -> None:
        """Start at nothing counted."""
        self.tokens = 0
        self.seconds = 0.0
        self.step_seconds: list[float] = []
        self._window_tokens = 0
        self._step = 0
        self._started: float | None = None
        self._begun = time.perf_counter()
        self._wall_before = 0.0

    @property
    def wall_seconds(self) -> float:
        """Seconds since this was made, and those of the run before it was interrupted, up to its last checkpoint."""
        return self._wall_before + time.perf_counter() - self._begun

    def state_dict(self) -> dict[str, Any]:
        """What was counted so far."""
        counted = {"tokens": self.tokens, "seconds": self.seconds, "step_seconds": list(self.step_seconds)}
        return {**counted, "wall_seconds": self.wall_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.tokens, self.seconds = state_dict["tokens"], state_dict["seconds"]
        self.step_seconds = list(state_dict["step_seconds"])
        self._wall_before = state_dict["wall_seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the step that training begins with."""
        self._step = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch's tokens, a plain number that the collator gives."""
        self._window_tokens += batch["tokens"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the clock where an optimizer step has ended; the loss read in that step has waited for the device."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        now = time.perf_counter()
        if self._started is not None:
            self.step_seconds.append(now - self._started)
            self.seconds += now - self._started
            self.tokens += self._window_tokens
        self._started, self._window_tokens = now, 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._started = None

    def tokens_per_second(self, world_size: int) -> float | None:
        """Over all ranks; None before two steps have ended."""
        return self.tokens * world_size / self.seconds if self.seconds else None

    def summary(self, world_size: int) -> dict[str, float | None]:
        """Tokens per second over all ranks, median step time in seconds, and peak memory of this process in GiB."""
        steps = sorted(self.step_seconds)
        return {
            "tokens_per_second": self.tokens_per_second(world_size),
            "median_step_seconds": steps[len(steps) // 2] if steps else None,
            **peak_memory(),
        }


def peak_memory() -> dict[str, float | None]:
    """Most memory this process has held so far, in GiB: on the host, and on its GPU where it has one."""
    unit = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIBIBYTE
    memory: dict[str, float | None] = {"peak_host_gib": round(host, 3)}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        memory["peak_gpu_gib"] = round(torch.cuda.max_memory_allocated() / GIBIBYTE, 3)
        memory["peak_gpu_reserved_gib"] = round(torch.cuda.max_memory_reserved() / GIBIBYTE, 3)
    return memory
