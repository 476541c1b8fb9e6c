"""The accuracy of final numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from ftframe.api import MetricKind
from ftframe_gsm8k.answers import final_number


class Gsm8kAccuracy(Metric):
    """Share of answers whose number after `####` is that of the solution."""

    kind: ClassVar[MetricKind] = "text"
    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    right: Tensor
    counted: Tensor

    def __init__(self) -> None:
        """Start at nothing counted."""
        super().__init__()
        self.add_state("right", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("counted", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:
        """Count one batch; pairs whose solution ends in no number are left out.

        Raises:
            ValueError: If there are not as many answers as solutions.
        """
        for answer, solution in zip(preds, target, strict=True):
            wanted = final_number(solution)
            if wanted is not None:
                self.right += int(final_number(answer) == wanted)
                self.counted += 1

    def compute(self) -> Tensor:
        """The share, from 0 to 1; NaN if nothing was counted."""
        return self.right / self.counted
