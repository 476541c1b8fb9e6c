"""Proof, on the model as built, that packed examples do not see each other."""

from __future__ import annotations

import inspect
from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor, nn

from ftframe.errors import ConfigError
from ftframe.models.probing import base_model, in_eval_mode
from ftframe.models.varlen_attention import model_inputs

_FIRST, _SECOND = 11, 5
"""Tokens of the two examples. The first is the longer one, so that it would weigh in what the second attends to."""

_ROUNDING = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far two ways to compute the same logits may lie apart, as a share of what a change of the input does to them.

Ten times and more what was seen on small models. Float32 counts with TF32's 10 bits.
"""

_ROW_COUPLING = 4
"""How many times more two examples of a pack may be coupled than two rows of a padded batch."""

_ULPS = 16 * torch.finfo(torch.float32).eps
"""The share of the effect under which a leak cannot be told from rounding, in whatever type."""


def check_isolation(model: nn.Module) -> None:
    """Refuse a model in which one example of a pack changes what is predicted in another.

    Packs two examples of a few tokens, as training does, and changes every token of the first: the logits of the
    second must stay as they are, up to the last bits of float32, and must be those of the example alone. The one
    change that is allowed is what the same two examples do to each other as rows of a padded batch, where they cannot
    see each other: 8-bit layers look for outliers in all tokens at once, experts gather the tokens of all rows, and
    both round otherwise then. Training flags and random state are left as they were. Under autocast, call it in the
    same context.

    Args:
        model: A causal language model of transformers, with or without an adapter, on its device.

    Raises:
        ConfigError: If examples are not isolated, or the model takes no `position_ids` to tell them apart by.
    """
    base = base_model(model)
    if "position_ids" not in inspect.signature(base.forward).parameters:
        raise _refusal(base, "It takes no position_ids, by which packed examples are told apart.")
    embedding = base.get_input_embeddings().weight
    first, changed, second = (ids.to(embedding.device) for ids in _examples(int(embedding.shape[0])))
    with in_eval_mode(model, embedding.device), torch.no_grad():
        try:
            packed, other = (_packed_logits(model, base, [ids, second]) for ids in (first, changed))
        except (TypeError, ValueError) as error:
            raise _refusal(base, str(error)) from error
        padded, beside_other = (_padded_logits(model, [ids, second]) for ids in (first, changed))
    effect = (packed - other)[:_FIRST].abs().max()
    leak = (packed - other)[_FIRST:].abs().max()
    coupling = (padded - beside_other).abs().max()
    if not leak <= torch.maximum(_ROW_COUPLING * coupling, _ULPS * effect):  # a NaN is no proof
        hint = "" if _attention(base) in ("sdpa", "eager") else " Or try model.attn_implementation=sdpa or eager."
        raise _refusal(base, f"A change of one example moves the logits of the next by {leak:.2g}.", hint)
    gap = (packed[_FIRST:] - padded).abs().max()
    if not gap <= _ROUNDING[_coarsest_dtype(base, embedding.device)] * effect:
        raise _refusal(base, f"The logits of an example differ by {gap:.2g} from those that it has alone.")


def _examples(vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first example, the same with every token changed, and the second; from all over the vocabulary."""
    ids = torch.linspace(1, vocabulary - 1, 2 * _FIRST + _SECOND).long()
    first, changed, second = ids.split([_FIRST, _FIRST, _SECOND])
    return first, changed.flip(0), second


def _packed_logits(model: nn.Module, base: Any, examples: list[Tensor]) -> Tensor:
    """Logits of each token of a pack, [tokens, vocabulary]."""
    lengths = torch.tensor([0, *map(len, examples)], device=examples[0].device)
    starts, longest = lengths.cumsum(0).to(torch.int32), max(map(len, examples))
    batch = {
        "input_ids": torch.cat(examples)[None],
        "position_ids": torch.cat([torch.arange(len(ids), device=ids.device) for ids in examples])[None],
        "cu_seq_lens_q": starts,
        "cu_seq_lens_k": starts,
        "max_length_q": longest,
        "max_length_k": longest,
    }
    logits: Tensor = model(**model_inputs(batch, _attention(base))).logits
    return logits[0].float()


def _padded_logits(model: Any, examples: list[Tensor]) -> Tensor:
    """Logits of each token of the last, shorter example as a row of a padded batch, [tokens, vocabulary]."""
    input_ids = nn.utils.rnn.pad_sequence(examples, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in examples], batch_first=True)
    logits: Tensor = model(input_ids=input_ids, attention_mask=mask).logits
    return logits[-1, : len(examples[-1])].float()


def _attention(base: Any) -> str:
    return str(getattr(base.config, "_attn_implementation", None))


def _coarsest_dtype(base: nn.Module, device: torch.device) -> torch.dtype:
    """The least exact type that the model computes in."""
    dtypes = {tensor.dtype for tensor in base.parameters()} & set(_ROUNDING)
    dtypes |= {module.compute_dtype for module in base.modules() if isinstance(module, bnb.nn.Linear4bit)} - {None}
    if any(isinstance(module, bnb.nn.Linear8bitLt) for module in base.modules()):
        dtypes.add(torch.bfloat16)  # its activations have 8 bits
    if torch.is_autocast_enabled(device.type):
        dtypes.add(torch.get_autocast_dtype(device.type))
    return max(dtypes, key=lambda dtype: _ROUNDING[dtype])


def _refusal(base: Any, why: str, hint: str = "") -> ConfigError:
    if getattr(base.config, "use_cache", False):
        hint = " With config.use_cache=true transformers looks for no packs."
    return ConfigError(
        f"data.packing=true cannot be used with model type '{base.config.model_type}' and "
        f"model.attn_implementation={_attention(base)}: its packed examples would see each other. {why}\n"
        f"Set data.packing=false, which pads instead.{hint}"
    )
