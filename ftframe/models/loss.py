"""The one training loss, the same without ever holding all logits, and the same by row for validation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
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


_CrossEntropy = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

CHUNK = 2**26
"""Logits that are held at a time: 128 MiB in bfloat16."""


def chunked_causal_lm_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, positions: Tensor, *, compiled: bool = False
) -> Tensor:
    """The same loss as `causal_lm_loss`, from the states that a frozen output embedding turns into logits.

    Only supervised tokens get logits, a chunk of them at a time, and their gradient is taken at once: neither all
    logits nor their gradient ever exist, and nothing is computed twice.

    Args:
        hidden: What goes into the output embedding, [batch, length, hidden].
        weight: The output embedding, [vocab, hidden]; it gets no gradient.
        labels: Token ids, [batch, length].
        positions: The places in `labels`, row after row, of the tokens behind which a supervised one stands, [tokens],
            int64. They come from the collator: to look for them here would wait for the device.
        compiled: Whether the part between the two products is compiled.
    """
    rows = hidden.flatten(0, 1).index_select(0, positions)
    targets = labels.flatten().index_select(0, positions + 1)
    cross_entropy = _compiled_loss() if compiled else _loss_and_gradient
    loss: Tensor = _ChunkedLoss.apply(rows, weight, targets, cross_entropy)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, cross_entropy: _CrossEntropy) -> Tensor:
        size = max(1, CHUNK // weight.shape[0])
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden)
        for some, their_targets, their_gradient in zip(
            hidden.split(size), targets.split(size), gradient.split(size), strict=True
        ):
            part, of_logits = cross_entropy(some @ weight.t(), their_targets)
            loss += part
            torch.mm(of_logits, weight, out=their_gradient)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].to(gradient.dtype), None, None, None


def _loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy in nats, in float32, and its gradient with respect to the logits, in their type.

    Args:
        logits: [tokens, vocab].
        targets: [tokens].
    """
    scores = logits.float()
    log_sum = scores.logsumexp(-1, keepdim=True)
    is_target = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    loss = (log_sum - scores.gather(1, targets[:, None])).sum()
    share = (scores - log_sum).exp()
    return loss, torch.where(is_target, share - 1, share).to(logits.dtype)


@cache
def _compiled_loss() -> _CrossEntropy:
    """The same in one pass over the logits; a chunk may have any number of tokens."""
    return torch.compile(_loss_and_gradient, dynamic=True, fullgraph=True)


def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed next-token cross-entropy of each row in nats, in float32, [batch].

    Args:
        logits: Scores for the next token, [batch, length, vocab].
        labels: Token ids, [batch, length]; `IGNORE_INDEX` where no loss is wanted.
    """
    scores = logits[:, :-1].transpose(1, 2).float()
    return F.cross_entropy(scores, labels[:, 1:], ignore_index=IGNORE_INDEX, reduction="none").sum(1)
