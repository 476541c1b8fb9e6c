"""Attention over padded rows without a mask, for models whose tokens see all those before them.

Rows are padded on the right, where no token looks. transformers would read the mask from the device to see whether it
is needed, and without one, the positions, to see whether examples are packed: each time the device is waited for. With
cuDNN, which is the fastest of torch's kernels on Hopper, a plan is made for each new shape, which takes longer than the
attention itself; it is for batches of few shapes, and for training only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

CAUSAL, CUDNN = "causal", "causal_cudnn"
"""The names of these attentions to transformers."""

FEW_SHAPES = 4
"""Lengths of batches up to which cuDNN's plans are worth making."""

_ORDER = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def register_causal_attention() -> None:
    """Let models be built with these attentions; more than one call does no harm."""
    for name in (CAUSAL, CUDNN):
        AttentionInterface.register(name, causal_attention if name == CAUSAL else cudnn_attention)
        AttentionMaskInterface.register(name, sdpa_mask)


def sees_all_before(config: Any, longest: int) -> bool:
    """Whether every token of a row attends to all before it, in each layer, and attention can be exchanged.

    Args:
        config: The model's, of transformers.
        longest: Tokens of the longest row.
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    patterns = set(getattr(text, "layer_types", None) or ["full_attention"])
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return (
        getattr(model_class, "_supports_attention_backend", False)
        and patterns <= {"full_attention", "sliding_attention"}
        and (window is None or window >= longest)
    )


def gains_from_cudnn(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device has kernels of cuDNN that beat the others, and computes attention in their type."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0) and torch.backends.cudnn.is_available()


def without_mask(inputs: Tensor) -> Tensor:
    """In place of the mask of rows that are padded on the right: a 4-D one, which transformers leaves as it is."""
    return inputs.new_empty((1, 1, 0, 0), dtype=torch.bool)


def causal_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """As `sdpa`, and causal without a mask where that is the empty one.

    Args:
        module: The attention layer.
        query: [rows, heads, length, head_dim].
        key: [rows, key heads, length, head_dim].
        value: Shaped as `key`.
        attention_mask: As for `sdpa`, or as of `without_mask`.
        kwargs: As for `sdpa`.

    Returns:
        [rows, length, heads, head_dim], and None for the weights, which are never there as a whole.
    """
    mask = None if attention_mask is not None and attention_mask.numel() == 0 else attention_mask
    attended: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    return attended


def cudnn_attention(module: nn.Module, *states: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """As `causal_attention`, by cuDNN while training, where it has a kernel for these inputs."""
    if not module.training:
        return causal_attention(module, *states, **kwargs)
    with sdpa_kernel(_ORDER, set_priority=True):
        return causal_attention(module, *states, **kwargs)
