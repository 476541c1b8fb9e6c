"""The figures of an optimizer step, read from the device without keeping it waiting."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer


class Figures(NamedTuple):
    """What one step comes to over its window and all ranks: summed loss, supervised tokens, square of the norm."""

    loss: float
    tokens: float
    squared_norm: float


@dataclass
class Step:
    """An optimizer step that the device may still be at work on.

    Attributes:
        number: Which one.
        rows: What the examples of each micro-batch are known by.
        waited_seconds: How long the host has waited for its figures.
    """

    number: int
    rows: list[list[Any]]
    _sums: Tensor
    _copied: torch.cuda.Event | None
    waited_seconds: float = 0.0

    @classmethod
    def begin(cls, number: int, sums: Tensor, rows: list[list[Any]]) -> Step:
        """Have the sums of the step copied to the host as soon as they are there.

        Args:
            number: Which step.
            sums: As `Figures`, [3], on the device.
            rows: What the examples of each micro-batch are known by.
        """
        if sums.device.type != "cuda":
            return cls(number, rows, sums, None)
        host = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True)
        host.copy_(sums, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        return cls(number, rows, host, copied)

    def figures(self) -> Figures:
        """The sums, once the device has come that far."""
        begun = time.perf_counter()
        if self._copied is not None:
            self._copied.synchronize()
        figures = Figures(*self._sums.tolist())
        self.waited_seconds = time.perf_counter() - begun
        return figures


def can_skip_on_device(optimizer: Optimizer, groups: Sequence[Any]) -> bool:
    """Whether an optimizer's step can be left out by a flag on the device, without the host having read it.

    The fused optimizers of torch can, for the sake of loss scaling.
    """
    return isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)) and all(group.get("fused") for group in groups)


def skip_if_not_finite(optimizer: Any, sums: Tensor) -> None:
    """Leave out this step and all that follow it if its figures are no numbers, or no token was supervised.

    Args:
        optimizer: One that `can_skip_on_device`.
        sums: As `Figures`, [3], on the device.
    """
    bad = ~torch.isfinite(sums).all() | (sums[1] == 0)
    before = getattr(optimizer, "found_inf", None)
    flag = bad.float()
    optimizer.found_inf = flag if before is None else torch.maximum(flag, before)
