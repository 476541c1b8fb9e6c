"""Bytes of activations that a layer keeps for the backward pass, counted without a weight or a device.

A layer of the true shape runs on tensors that have shapes and no content, and what autograd saves is added up. Where
layers are compiled, it is compiled likewise, so that the compiler's own choice of what to keep is what is counted.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from ftframe.models.adapter_compute import multiply_in_type_of_input
from ftframe.models.causal_attention import CAUSAL, register_causal_attention, without_mask
from ftframe.models.compiling import layers_of
from ftframe.models.footprint import Saved
from ftframe.models.probing import base_model

log = logging.getLogger(__name__)

_TOKENS = 2048
_TRACING = "aot_eager_decomp_partition"
"""The compiler's choice of what to keep, without the machine code."""


def saved_bytes(
    config: Any,
    peft_config: Any,
    *,
    dtype: torch.dtype,
    autocast: torch.dtype | None = None,
    compiles: bool = False,
    share: float = 1.0,
    tokens: int = _TOKENS,
    trust_remote_code: bool = False,
) -> Saved | None:
    """What one layer saves; None for a model whose layer does not run without content.

    Args:
        config: The base model's, of transformers.
        peft_config: The adapter's, or None where the whole model trains.
        dtype: Type of the base's weights; a quantised base saves what one of that type does.
        autocast: The type of autocast, if it is on.
        compiles: Whether the layer is compiled.
        share: Of the activations, with `compiles`, that the compiler may keep.
        tokens: Of the micro-batch. Below a share of 1 the count is right for it alone: the compiler keeps a tensor or
            does not, so that more tokens may save less.
        trust_remote_code: Whether the user trusts the code that the model brings along, if any.
    """

    def counted(length: int) -> int:
        with torch.device("meta"):
            model = _two_layers(config, peft_config, dtype, trust_remote_code)
        with _patched_budget(share), FakeTensorMode(allow_non_fake_inputs=True):
            _give_fake_weights(model)
            return _count(model, dtype, autocast, tokens=length, compiles=compiles)

    try:
        if share < 1:
            return Saved(counted(tokens) / tokens)
        few = counted(_TOKENS)
        if autocast is None:
            return Saved(few / _TOKENS)
        torch._dynamo.reset()  # or else the other length would be compiled as any length
        per_token = (counted(2 * _TOKENS) - few) / _TOKENS
        return Saved(per_token, few - per_token * _TOKENS)
    except Exception:  # whatever a model's own code does to tensors without content
        log.warning("the activations of %s cannot be counted", config.model_type, exc_info=True)
        return None
    finally:
        torch._dynamo.reset()


def _two_layers(config: Any, peft_config: Any, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    register_causal_attention()
    config = copy.deepcopy(config)
    config.num_hidden_layers, config.use_cache = 2, False
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    model = AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation=CAUSAL, trust_remote_code=trust_remote_code
    )
    if peft_config is not None:
        model = get_peft_model(model, copy.deepcopy(peft_config))
        multiply_in_type_of_input(model)
    return model.train()


def _give_fake_weights(model: nn.Module) -> None:
    """Weights on a device, which the choice of kernels goes by, in place of those that are nowhere."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                fake = torch.empty(weight.shape, dtype=weight.dtype, device="cpu")
                module._parameters[name] = nn.Parameter(fake, requires_grad=weight.requires_grad)
        for name, values in module._buffers.items():
            if values is not None:
                module._buffers[name] = torch.empty(values.shape, dtype=values.dtype, device="cpu")


def _count(model: Any, dtype: torch.dtype, autocast: torch.dtype | None, *, tokens: int, compiles: bool) -> int:
    """Bytes that a layer saves: those of a decoder with two, less those with one, which has what layers share, too."""
    base = base_model(model)
    decoder = base.get_decoder()
    first, second = layers_of(decoder)
    (layers,) = [part for part in decoder.modules() if isinstance(part, nn.ModuleList) and second in list(part)]
    if compiles:
        for layer in (first, second):
            layer.compile(backend=_TRACING, fullgraph=True)
    hidden = torch.empty(1, tokens, base.get_input_embeddings().weight.shape[1], dtype=dtype, requires_grad=True)
    context = torch.autocast("cpu", dtype=autocast) if autocast is not None else nullcontext()
    sums = []
    for _ in range(2):
        with context, _saved(model) as storages:
            decoder(inputs_embeds=hidden, attention_mask=without_mask(hidden))
        sums.append(sum(storages.values()))
        del layers[1:]
    return sums[0] - sums[1]


@contextmanager
def _saved(model: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of each storage, weights apart, that autograd saves in the block."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    storages: dict[int, int] = {}
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage.nbytes()
        kept.append(tensor)  # or else another one could take its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield storages


@contextmanager
def _patched_budget(share: float) -> Iterator[None]:
    with torch._functorch.config.patch(activation_memory_budget=share):
        yield
