"""The one training loss, and the same by row for validation."""

import torch.nn.functional as F  # noqa: N812 (the field's own abbreviation)
from torch import Tensor

from ftframe.api import IGNORE_INDEX


def causal_lm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed next-token cross-entropy in nats, in float32.

    A sum, so that the division by the supervised tokens can wait until the whole accumulation window is known.

    Args:
        logits: Scores for the next token, [batch, length, vocab].
        labels: Token ids, [batch, length]; `IGNORE_INDEX` where no loss is wanted.
    """
    scores = logits[:, :-1].flatten(0, 1).float()
    return F.cross_entropy(scores, labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="sum")


def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed next-token cross-entropy of each row in nats, in float32, [batch].

    Args:
        logits: Scores for the next token, [batch, length, vocab].
        labels: Token ids, [batch, length]; `IGNORE_INDEX` where no loss is wanted.
    """
    scores = logits[:, :-1].transpose(1, 2).float()
    return F.cross_entropy(scores, labels[:, 1:], ignore_index=IGNORE_INDEX, reduction="none").sum(1)
