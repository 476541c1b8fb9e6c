"""Tokens per second, share of the hardware's arithmetic that is used, and peak memory of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import lightning as L  # noqa: N812 (the library's own abbreviation)
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from ftframe.train.peak_memory import TrainingPeak, peak_host_memory

_COUNTED = ("tokens", "supervised_tokens", "squared_lengths")


class Mark(NamedTuple):
    """The end of an optimizer step: when the host had started its work, and on a GPU, when the device had done it."""

    host: float
    event: torch.cuda.Event | None


class Span(NamedTuple):
    """An optimizer step that the device may still be at work on, with what its window held."""

    begin: Mark
    end: Mark
    waited: float
    counts: dict[str, int]


class Throughput(Callback):
    """Counts tokens and seconds between optimizer steps; validation and the first step, which warms up, are left out.

    On a GPU seconds are those of the device's own clock, which is read when it has come that far: nothing waits for it.

    Attributes:
        counts: Of this rank in the counted time: non-padding and supervised tokens, and squared lengths of examples.
        seconds: The counted time.
        step_seconds: That of each step.
        operations: The floating-point operations that a number of tokens takes whose examples' squared lengths add up
            to another; None where that is not known. What is computed twice does not count.
        peak_flops: Operations a second that the device could do at most; None where that is not known.
    """

    def __init__(self) -> None:
        """Start at nothing counted."""
        self.counts = dict.fromkeys(_COUNTED, 0)
        self.seconds = 0.0
        self.step_seconds: list[float] = []
        self.operations: Callable[[int, float], float] | None = None
        self.peak_flops: float | None = None
        self._step_tokens: list[int] = []
        self._host_seconds: list[float] = []
        self._window = dict.fromkeys(_COUNTED, 0)
        self._step = 0
        self._last: Mark | None = None
        self._waited = 0.0
        self._open: list[Span] = []
        self._begun = time.perf_counter()
        self._wall_before = 0.0
        self._peak = TrainingPeak()

    @property
    def tokens(self) -> int:
        """Non-padding tokens of this rank in the counted time."""
        return self.counts["tokens"]

    @property
    def wall_seconds(self) -> float:
        """Seconds since this was made, and those of the run before it was interrupted, up to its last checkpoint."""
        return self._wall_before + time.perf_counter() - self._begun

    def state_dict(self) -> dict[str, Any]:
        """What was counted so far."""
        self._settle(wait=True)
        return {
            **self.counts,
            "seconds": self.seconds,
            "step_seconds": list(self.step_seconds),
            "step_tokens": list(self._step_tokens),
            "host": list(self._host_seconds),
            "wall_seconds": self.wall_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.counts = {name: state_dict[name] for name in _COUNTED}
        self.seconds = state_dict["seconds"]
        self.step_seconds = list(state_dict["step_seconds"])
        self._step_tokens, self._host_seconds = list(state_dict["step_tokens"]), list(state_dict["host"])
        self._wall_before = state_dict["wall_seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the step that training begins with."""
        self._step = trainer.global_step
        self._peak.begin()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count what the batch holds, plain numbers that the collator gives."""
        for name in _COUNTED:
            self._window[name] += batch[name]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Mark the time where an optimizer step has ended."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        mark = _mark(pl_module.device)
        waited = getattr(pl_module, "waited_seconds", 0.0)
        if self._last is not None:
            self._open.append(Span(self._last, mark, waited - self._waited, self._window))
        self._last, self._waited, self._window = mark, waited, dict.fromkeys(_COUNTED, 0)
        self._settle(wait=False)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._settle(wait=True)
        self._last = None
        self._peak.end()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Training may go on."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._peak.begin()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the last steps."""
        self._settle(wait=True)
        self._peak.end()

    def _settle(self, *, wait: bool) -> None:
        """Count the steps that the device has done, or all."""
        while self._open and (wait or _is_over(self._open[0].end)):
            span = self._open.pop(0)
            seconds = _seconds(span.begin, span.end)
            self.seconds += seconds
            self.step_seconds.append(seconds)
            self._host_seconds.append(span.end.host - span.begin.host - span.waited)
            self._step_tokens.append(span.counts["tokens"])
            for name, count in span.counts.items():
                self.counts[name] += count

    def tokens_per_second(self, world_size: int) -> float | None:
        """Over all ranks; None before two steps have ended."""
        return self.tokens * world_size / self.seconds if self.seconds else None

    def summary(self, world_size: int) -> dict[str, float | None]:
        """Speed over all ranks and peak memory of this process.

        `tokens_per_second` counts no padding, and `supervised_tokens_per_second` only what is learnt from, both over
        the whole run; `median_tokens_per_second` is that of the median step, which no compilation slows down; `mfu` is
        the share of the arithmetic that the device could do in bfloat16; `median_host_seconds` is what the host was
        busy in a step, or had to queue; memory is in GiB.
        """
        steps = sorted(self.step_seconds)
        speeds = [count / seconds for count, seconds in zip(self._step_tokens, self.step_seconds, strict=True)]
        learnt = self.counts["supervised_tokens"] * world_size / self.seconds if self.seconds else None
        return {
            "tokens_per_second": self.tokens_per_second(world_size),
            "supervised_tokens_per_second": learnt,
            "median_tokens_per_second": median(speeds) * world_size if speeds else None,
            "mfu": self._mfu(),
            "median_step_seconds": steps[len(steps) // 2] if steps else None,
            "median_host_seconds": median(self._host_seconds) if self._host_seconds else None,
            **self._peak.figures(),
            **peak_host_memory(),
        }

    def _mfu(self) -> float | None:
        """Of this rank, whose device has `peak_flops`."""
        if self.operations is None or self.peak_flops is None or not self.seconds:
            return None
        done = self.operations(self.tokens, float(self.counts["squared_lengths"]))
        return done / self.seconds / self.peak_flops


def _mark(device: torch.device) -> Mark:
    event = None
    if device.type == "cuda":
        event = torch.cuda.Event(enable_timing=True)
        event.record()
    return Mark(time.perf_counter(), event)


def _is_over(mark: Mark) -> bool:
    return mark.event is None or mark.event.query()


def _seconds(begin: Mark, end: Mark) -> float:
    if begin.event is None or end.event is None:
        return end.host - begin.host
    end.event.synchronize()
    return float(begin.event.elapsed_time(end.event)) / 1000
