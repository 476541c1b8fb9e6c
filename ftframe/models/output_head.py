"""The output embedding apart from the rest, so that a loss can be computed without all logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own abbreviation)
from torch import Tensor, nn

from ftframe.models.probing import base_model, in_eval_mode


@dataclass(frozen=True)
class FrozenHead:
    """A model in two parts: what gives the last hidden states, and the matrix that makes logits of them.

    Attributes:
        decoder: From token ids to hidden states.
        weight: The output embedding, [vocab, hidden].
    """

    decoder: Any
    weight: Tensor

    def hidden_states(self, inputs: Mapping[str, Any]) -> Tensor:
        """What goes into the output embedding, [batch, length, hidden]."""
        states: Tensor = self.decoder(**inputs).last_hidden_state
        return states


def frozen_head(model: Any) -> FrozenHead | None:
    """The two parts of a causal language model; None where its loss needs the whole.

    That is where the output embedding trains, has a bias or an adapter, or where logits are scaled, capped or changed
    otherwise: a few tokens go through both ways, and the logits must be the same.

    Args:
        model: A model of transformers, with or without an adapter, on its device.
    """
    base = base_model(model)
    head = base.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or head.weight.requires_grad:
        return None
    try:
        found = FrozenHead(base.get_decoder(), head.weight)
        ids = torch.arange(4, device=head.weight.device)[None] % head.weight.shape[0]
        with in_eval_mode(model, ids.device), torch.no_grad():
            whole = model(input_ids=ids).logits
            parts = F.linear(found.hidden_states({"input_ids": ids}), found.weight)
    except (AttributeError, NotImplementedError, TypeError, RuntimeError):  # no decoder, or one of another kind
        return None
    return found if torch.equal(whole, parts) else None
