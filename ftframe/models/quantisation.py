"""What the ways to quantise a base have in common: which layers, how many bytes, and how to say it in a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import BitsAndBytesConfig

from ftframe.models.fp8 import Fp8Config

_BLOCK = 64
"""Weights of 4 bits that share a scale; of these scales 256 share one in float32 where they are quantised too."""


def build_quantisation(options: Mapping[str, Any] | None) -> Any:
    """The config of a quantised base from its recorded options, or None."""
    if options is None:
        return None
    return Fp8Config(**options) if means_fp8(options) else BitsAndBytesConfig(**options)


def means_fp8(options: Any) -> bool:
    """Whether options of a quantised base, as a config or a record has them, are those of ftframe's own FP8 layers."""
    return isinstance(options, Mapping) and "load_in_fp8" in options


def has_ample_form(options: Any) -> bool:
    """Whether weights that are quantised by these options can be kept as they are multiplied, too: `memory=ample`."""
    return means_fp8(options) or (isinstance(options, Mapping) and bool(options.get("load_in_4bit")))


def is_fp8(quantization_config: Any) -> bool:
    """Whether a base is quantised by ftframe's own FP8 layers."""
    return isinstance(quantization_config, Fp8Config)


def kept_layers(model: Any, quantization_config: Any) -> set[str]:
    """Linear layers that stay as they are: transformers keeps the output embedding, and any layer the user names."""
    if quantization_config is None:
        return set()
    skip = quantization_config.llm_int8_skip_modules or []
    output = model.get_output_embeddings()
    return {
        name
        for name, module in model.named_modules()
        if module is output or any(part in name.split(".") for part in skip)
    }


def bytes_per_weight(quantization_config: Any) -> float:
    """What a quantised weight takes, its share of the scales included; scales by row are too few to count."""
    if is_fp8(quantization_config) or quantization_config.load_in_8bit:
        return 1.0
    scales = 1 / _BLOCK + 4 / (256 * _BLOCK) if quantization_config.bnb_4bit_use_double_quant else 4 / _BLOCK
    return 0.5 + scales


def ample_bytes_per_weight(quantization_config: Any) -> float:
    """What a quantised weight takes on top where it is kept as it is multiplied, too, and 0 where it cannot be."""
    if is_fp8(quantization_config):
        return 1.0
    return float(quantization_config.bnb_4bit_compute_dtype.itemsize) if quantization_config.load_in_4bit else 0.0
