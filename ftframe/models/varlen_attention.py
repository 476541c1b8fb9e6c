"""Attention over packed examples without a mask: `model.attn_implementation=varlen`.

Each example of a pack is a sequence of its own to the kernel, which is told where they begin (`cu_seq_lens`). No score
between two examples is ever computed, and no [length, length] mask is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own abbreviation)
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ftframe.errors import ConfigError
from ftframe.models.causal_attention import CAUSAL, CUDNN, without_mask

VARLEN = "varlen"
"""The name of this attention in `model.attn_implementation`."""

PACK_KEYS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
"""Keys of a batch that say where its examples begin; transformers hands them on to the attention."""

_HAS_WINDOW, _HAS_GROUPS = (name in inspect.signature(varlen_attn).parameters for name in ("window_size", "enable_gqa"))
_HALF = (torch.bfloat16, torch.float16)
_GIVEN = f"model.attn_implementation={VARLEN}"
_INSTEAD = "Use model.attn_implementation=sdpa (or eager, for models without sdpa), which packs with a mask."
_UNSUPPORTED = {
    "dropout": "attention dropout",
    "softcap": "soft-capped scores",
    "s_aux": "attention sinks",
    "position_bias": "a bias by position",
    "cache": "a paged cache",
}


def register_varlen_attention() -> None:
    """Let models be built with `attn_implementation="varlen"`; more than one call does no harm.

    A call that says where examples begin runs the kernel. Any other, such as generation and padded validation, gets
    the mask and the kernels of `sdpa`, a packed batch included.
    """
    AttentionInterface.register(VARLEN, varlen_attention)
    AttentionMaskInterface.register(VARLEN, sdpa_mask)


def check_varlen(config: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse what the kernel cannot run, before the model is built.

    What only a call shows, such as soft-capped scores, is refused at the first call, which `check_isolation` makes.

    Args:
        config: The model's, of transformers.
        device: Where the model is going to be.
        dtype: The type in which attention is computed: autocast's, or else the weights'.

    Raises:
        ConfigError: Without a CUDA device of compute capability 8.0, in float32, with a torch before 2.11, and for a
            model that drops attention scores or does not let its attention be exchanged.
    """
    _check_device(device, dtype)
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if not getattr(model_class, "_supports_attention_backend", True):
        raise ConfigError(f"{_GIVEN}: models of type '{config.model_type}' take no other attention. {_INSTEAD}")
    if getattr(config, "attention_dropout", 0.0) > 0:
        raise ConfigError(
            f"{_GIVEN} has no attention dropout, and this model asks for {config.attention_dropout}. "
            f"Set model.config.attention_dropout=0, or: {_INSTEAD}"
        )


def _check_device(device: torch.device, dtype: torch.dtype) -> None:
    if not _HAS_WINDOW:
        raise ConfigError(f"{_GIVEN} needs torch 2.11 or later; this is {torch.__version__}. {_INSTEAD}")
    if device.type != "cuda":
        raise ConfigError(f"{_GIVEN} needs a CUDA device; the model is on '{device.type}'. {_INSTEAD}")
    if torch.cuda.get_device_capability(device) < (8, 0):
        raise ConfigError(f"{_GIVEN} needs a GPU of compute capability 8.0 (Ampere) or later. {_INSTEAD}")
    if dtype not in _HALF:
        raise ConfigError(
            f"{_GIVEN} computes in bfloat16 or float16, not in {dtype}. Set trainer.precision=bf16-mixed, or: "
            f"{_INSTEAD}"
        )


def model_inputs(batch: Mapping[str, Any], attn_implementation: str) -> dict[str, Any]:
    """What a model is called with for one batch, packed or padded.

    Args:
        batch: `input_ids`, with `attention_mask` if padded, or `position_ids` that restart at 0 for each example if
            packed. Packed for `varlen`, also `PACK_KEYS`: `cu_seq_lens_*` count the tokens of `input_ids` row after
            row and end at their number, padding being a sequence of its own; `max_length_*` may be any upper bound.
        attn_implementation: The model's.
    """
    inputs = {key: batch[key] for key in ("input_ids", "position_ids", "attention_mask") if key in batch}
    if attn_implementation in (CAUSAL, CUDNN) and "attention_mask" in inputs:
        inputs["attention_mask"] = without_mask(batch["input_ids"])
    if attn_implementation != VARLEN or PACK_KEYS[0] not in batch:
        return inputs
    return {**inputs, "attention_mask": without_mask(batch["input_ids"]), **{key: batch[key] for key in PACK_KEYS}}


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each example, in transformers' attention interface.

    Args:
        module: The attention layer.
        query: [rows, heads, length, head_dim].
        key: [rows, key heads, length, head_dim].
        value: Shaped as `key`.
        attention_mask: What `sdpa` would take; not read where `kwargs` say where examples begin.
        dropout: The share of scores that is dropped; the kernel takes 0 only.
        scaling: Factor of the scores; by default `head_dim ** -0.5`.
        sliding_window: How many tokens one sees, itself included; None for all before it.
        kwargs: `PACK_KEYS` where the batch is packed.

    Returns:
        [rows, length, heads, head_dim], and None for the weights, which are never there as a whole.

    Raises:
        ConfigError: If a packed call asks for what the kernel does not have.
    """
    if kwargs.get(PACK_KEYS[0]) is None:
        if attention_mask is not None and attention_mask.numel() == 0:
            name = type(module).__name__
            raise ConfigError(f"{name} does not pass on where packed examples begin. {_INSTEAD}")
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if not torch.compiler.is_compiling():  # what it reads of a layer would make the compiler do each layer anew
        _check_call(module, query, value, {"dropout": dropout or None, "sliding_window": sliding_window, **kwargs})
    rows, _, length, _ = query.shape
    query, key, value = (_tokens_first(states) for states in _in_one_type(query, key, value))
    starts, longest = kwargs["cu_seq_lens_q"], int(kwargs["max_length_q"])
    window = sliding_window if sliding_window is not None and sliding_window < longest else None
    attend = _kernel if query.is_cuda else _reference
    attended = attend(query, key, value, starts, longest, scaling, window)
    return attended.unflatten(0, (rows, length)), None


def _check_call(module: nn.Module, query: Tensor, value: Tensor, options: Mapping[str, Any]) -> None:
    asked = [words for name, words in _UNSUPPORTED.items() if options.get(name) is not None]
    causal = options.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        asked.append("attention in both directions")
    if value.shape[-1] != query.shape[-1]:
        asked.append("values of another width than the keys")
    pattern = _pattern(module)
    if pattern not in ("full_attention", "sliding_attention"):
        asked.append(f"'{pattern}', which is written in the mask alone")
    if pattern == "sliding_attention" and options["sliding_window"] is None:
        asked.append("a sliding window, which is written in the mask alone")
    if asked:
        name = type(module).__name__
        raise ConfigError(f"{name} needs {' and '.join(asked)}, which attn_implementation={VARLEN} has not. {_INSTEAD}")


def _pattern(module: nn.Module) -> str:
    """Which tokens this layer lets see each other, in the words of transformers' `config.layer_types`."""
    patterns = getattr(getattr(module, "config", None), "layer_types", None)
    layer = getattr(module, "layer_idx", None)
    return str(patterns[layer]) if patterns and layer is not None else "full_attention"


def _in_one_type(*states: Tensor) -> tuple[Tensor, ...]:
    """The states as autocast would cast them for `sdpa`: a norm of query and key may have left float32 behind."""
    device_type = states[0].device.type
    if not torch.is_autocast_enabled(device_type):
        return states
    return tuple(state.to(torch.get_autocast_dtype(device_type)) for state in states)


def _tokens_first(states: Tensor) -> Tensor:
    """[rows, heads, length, head_dim] as [rows x length, heads, head_dim], as the output projection wants it later."""
    return states.transpose(1, 2).flatten(0, 1).contiguous()


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scaling: float | None, window: int | None
) -> Tensor:
    """Attention by torch's variable-length kernel."""
    if query.dtype not in _HALF:
        _check_device(query.device, query.dtype)
    options: dict[str, Any] = {}
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and _HAS_GROUPS:
        options["enable_gqa"] = True
    elif groups > 1:  # torch 2.11 asks for as many key heads as query heads
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    # The kernel counts the tokens to the left of one's own.
    left = -1 if window is None else window - 1
    attended = varlen_attn(
        query, key, value, starts, starts, longest, longest, scale=scaling, window_size=(left, 0), **options
    )
    assert isinstance(attended, Tensor)
    return attended


def _reference(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scaling: float | None, window: int | None
) -> Tensor:
    """The same one example after another, for devices that the kernel does not run on; slow."""
    groups = query.shape[1] // key.shape[1]
    lengths = starts.diff().tolist()
    attended = []
    for q, k, v in zip(*(states.transpose(0, 1).split(lengths, 1) for states in (query, key, value)), strict=True):
        if not q.shape[1]:
            continue
        mask = _sees(q.shape[1], window, query.device)
        attended.append(
            F.scaled_dot_product_attention(
                q[None], k[None], v[None], attn_mask=mask, scale=scaling, enable_gqa=groups > 1
            )
        )
    return torch.cat(attended, dim=2)[0].transpose(0, 1)


def _sees(length: int, window: int | None, device: torch.device) -> Tensor:
    """Which tokens of one example see which, [length, length]."""
    sees = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return sees if window is None else sees.triu(1 - window)
