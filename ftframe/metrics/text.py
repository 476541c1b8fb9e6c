"""Metrics of generated text. Each is a torchmetrics.Metric fed with strings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class ExactMatch(Metric):
    """Share of predictions that equal their reference to the letter, after trimming white space at both ends."""

    kind = "text"
    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    matches: Tensor
    total: Tensor

    def __init__(self, *, ignore_case: bool = False) -> None:
        """Start at nothing counted.

        Args:
            ignore_case: Whether `Rome` matches `rome`.
        """
        super().__init__()
        self.ignore_case = ignore_case
        self.add_state("matches", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:
        """Count one batch.

        Raises:
            ValueError: If there are not as many predictions as references.
        """
        if len(preds) != len(target):
            raise ValueError(f"{len(preds)} predictions for {len(target)} references")
        self.matches += sum(self._plain(p) == self._plain(t) for p, t in zip(preds, target, strict=True))
        self.total += len(target)

    def compute(self) -> Tensor:
        """The share, from 0 to 1; NaN if nothing was counted."""
        return self.matches / self.total

    def _plain(self, text: str) -> str:
        return text.strip().lower() if self.ignore_case else text.strip()
