"""Accuracy and macro-F1 of generated labels, computed by torchmetrics."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score
from torchmetrics.utilities import dim_zero_cat

from ftframe.api import MetricKind


class GeneratedLabels(Metric):
    """Keeps answers and right labels, each as a number that stands for its text.

    Numbers travel between GPUs and texts do not; 62 bits of a digest make two labels of one number as good as
    impossible. So a metric needs no list of the labels.
    """

    kind: ClassVar[MetricKind] = "text"
    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    preds: Any
    target: Any

    def __init__(self, *, ignore_case: bool = True) -> None:
        """Start with nothing.

        Args:
            ignore_case: Whether `Positive` is the label `positive`.
        """
        super().__init__()
        self.ignore_case = ignore_case
        self.add_state("preds", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:
        """Take in one batch of answers and right labels.

        Raises:
            ValueError: If there are not as many answers as labels.
        """
        if len(preds) != len(target):
            raise ValueError(f"{len(preds)} predictions for {len(target)} references")
        self.preds.append(self._numbers(preds))
        self.target.append(self._numbers(target))

    def classes(self) -> tuple[Tensor, Tensor, int]:
        """Answers and right labels as class indices, and how many classes occur among the right ones.

        An answer that is none of these has the index after the last.
        """
        preds, target = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        known, indices = torch.unique(target, return_inverse=True)
        matches = preds[:, None] == known[None, :]
        found = torch.where(matches.any(-1), matches.int().argmax(-1), len(known))
        return found, indices, len(known)

    def _numbers(self, texts: Sequence[str]) -> Tensor:
        plain = [text.strip().lower() if self.ignore_case else text.strip() for text in texts]
        digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in plain]
        return torch.tensor([int.from_bytes(digest, "big") >> 2 for digest in digests], device=self.device)


class ClassificationAccuracy(GeneratedLabels):
    """Share of answers that are the right label."""

    def compute(self) -> Tensor:
        """The share, from 0 to 1; NaN if nothing was taken in."""
        if not self.target:
            return torch.tensor(torch.nan)
        preds, target, count = self.classes()
        return multiclass_accuracy(preds, target, num_classes=count + 1, average="micro")


class ClassificationMacroF1(GeneratedLabels):
    """Mean of the F1 scores of the labels that occur among the right ones."""

    def compute(self) -> Tensor:
        """The mean, from 0 to 1; NaN if nothing was taken in."""
        if not self.target:
            return torch.tensor(torch.nan)
        preds, target, count = self.classes()
        return multiclass_f1_score(preds, target, num_classes=count + 1, average="none")[:count].mean()
