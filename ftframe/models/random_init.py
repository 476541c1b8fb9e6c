"""A model of a given shape without weights, quantised layer by layer as it is made.

transformers can only quantise while it loads a checkpoint. Here each layer is drawn on the device and quantised before
the next one exists, so that a 65B shape never needs its 130 GB copy in 16 bits.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ftframe.models.fp8 import Fp8Linear
from ftframe.models.quantisation import is_fp8, kept_layers


def random_model(
    config: Any,
    *,
    dtype: torch.dtype,
    quantization_config: Any,
    device: torch.device,
    attn_implementation: str = "sdpa",
    seed: int = 0,
    trust_remote_code: bool = False,
) -> Any:
    """A causal language model with the weights that its library draws at initialisation.

    The same seed draws the same weights on one kind of device, quantised or not.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attn_implementation, trust_remote_code=trust_remote_code
        )
    kept = kept_layers(model, quantization_config)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.no_grad():
        torch.manual_seed(seed)
        for name in [name for name, _ in model.named_modules()]:  # no list of modules: it would keep what is replaced
            module = model.get_submodule(name)
            if _has_own_tensors(module):
                module.to_empty(device=device, recurse=False)
                model._init_weights(module)
            if quantization_config is not None and isinstance(module, nn.Linear) and name not in kept:
                model.set_submodule(name, quantised_linear(module, quantization_config))
            del module
    model.tie_weights()
    if quantization_config is not None and not is_fp8(quantization_config):
        _mark_quantised(model, quantization_config)
    return model.eval()


def quantised_linear(linear: nn.Linear, quantization_config: Any) -> nn.Module:
    """The quantised layer that holds one linear layer's weights, on the same device."""
    if is_fp8(quantization_config):
        return Fp8Linear.of(linear)
    shape = (linear.in_features, linear.out_features)
    has_bias = linear.bias is not None
    weight = linear.weight.data
    quantised: nn.Module
    if quantization_config.load_in_4bit:
        quantised = bnb.nn.Linear4bit(
            *shape,
            bias=has_bias,
            compute_dtype=quantization_config.bnb_4bit_compute_dtype,
            compress_statistics=quantization_config.bnb_4bit_use_double_quant,
            quant_type=quantization_config.bnb_4bit_quant_type,
            quant_storage=quantization_config.bnb_4bit_quant_storage,
            device="meta",
        )
        options = quantised.weight.__dict__ | {"data": weight, "requires_grad": False, "module": quantised}
        quantised.weight = bnb.nn.Params4bit(**options).to(weight.device)
    else:
        threshold = quantization_config.llm_int8_threshold
        quantised = bnb.nn.Linear8bitLt(
            *shape, bias=has_bias, has_fp16_weights=False, threshold=threshold, device="meta"
        )
        codes, scales, _ = bnb.functional.int8_vectorwise_quant(weight.to(torch.float16))
        quantised.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
    if has_bias:
        quantised.bias = nn.Parameter(linear.bias.data, requires_grad=False)
    return quantised


def _has_own_tensors(module: nn.Module) -> bool:
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return bool(tensors)


def _mark_quantised(model: Any, quantization_config: Any) -> None:
    """Set what transformers sets after loading, which PEFT reads to choose its layers."""
    model.is_quantized = True
    model.is_loaded_in_4bit = bool(quantization_config.load_in_4bit)
    model.is_loaded_in_8bit = bool(quantization_config.load_in_8bit)
    model.quantization_method = quantization_config.quant_method
    model.config.quantization_config = quantization_config
