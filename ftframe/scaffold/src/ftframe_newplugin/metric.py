"""The metric `newplugin_f1`: how an answer is held against its reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from ftframe.api import MetricKind


class NewpluginF1(Metric):
    """Mean F1 of the words of an answer and of its reference, from 0 to 1."""

    kind: ClassVar[MetricKind] = "text"  # "tokens" to be fed with lists of token ids
    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, *, ignore_case: bool = True) -> None:
        """Start at nothing counted; what stands beside `name` in the config is passed here.

        Args:
            ignore_case: Whether `Rome` matches `rome`.
        """
        super().__init__()
        self.ignore_case = ignore_case
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:
        """Take in one batch of answers and their references."""
        self.total += sum(map(self._f1, preds, target))
        self.count += len(target)

    def compute(self) -> Tensor:
        """The mean over all that was taken in."""
        return self.total / self.count

    def _f1(self, prediction: str, reference: str) -> float:
        given, wanted = Counter(self._words(prediction)), Counter(self._words(reference))
        shared = (given & wanted).total()
        return 2 * shared / (given.total() + wanted.total()) if shared else float(given == wanted)

    def _words(self, text: str) -> list[str]:
        return (text.lower() if self.ignore_case else text).split()
