"""Attach, save and load adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open

from ftframe.errors import ConfigError, FtframeError
from ftframe.models.adapter_compute import multiply_in_type_of_input
from ftframe.models.adapter_config import find_trouble, read_adapter_config
from ftframe.models.fp8 import refuse_merges
from ftframe.models.weight_files import refuse_pickles

WEIGHTS = "adapter_model.safetensors"


def attach_adapter(base: Any, peft_config: Any, *, base_path: str, in_float32: bool) -> Any:
    """A PEFT model with a fresh adapter over a frozen base.

    Args:
        base: The base model.
        peft_config: A PEFT config, such as `peft.LoraConfig`.
        base_path: What the saved adapter names as its base.
        in_float32: Whether the adapter's weights are float32 whatever the base's type.
    """
    model = get_peft_model(base, peft_config, autocast_adapter_dtype=in_float32)
    multiply_in_type_of_input(model)
    refuse_merges(model)
    for config in model.peft_config.values():
        config.base_model_name_or_path = base_path  # PEFT leaves None for a base that was made in code
    return model


def check_adapter(peft_config: Any, quantization_config: Any, *, on_gpu: bool) -> None:
    """Refuse what PEFT cannot train, and what could be trained and not be loaded again.

    Raises:
        ConfigError: For a rank below 1, a dropout that is no share or leaves nothing, DoRA on an 8-bit base without a
            GPU, and a config that would be refused in an adapter.
    """
    options = peft_config.to_dict()
    trouble = find_trouble(options)
    if trouble:
        raise ConfigError(f"peft: {trouble}")
    rank = getattr(peft_config, "r", 1)
    if rank < 1:
        raise ConfigError(f"peft.r={rank}: the rank of an adapter is 1 or more. For no adapter: peft=none.")
    for name, value in options.items():
        if name.endswith("dropout") and not 0 <= value < 1:
            raise ConfigError(
                f"peft.{name}={value}: a share of at least 0 and below 1 is needed; with 1 nothing trains."
            )
    is_8bit = quantization_config is not None and quantization_config.load_in_8bit
    if getattr(peft_config, "use_dora", False) and is_8bit and not on_gpu:
        # peft 0.21 moves the weight at each dequantisation, and bitsandbytes 0.50 then forgets its scales.
        raise ConfigError(
            "peft=dora on an 8-bit base fails on a CPU: PEFT loses the scales of the quantised weights. "
            "Use quant=4bit or quant=none, or peft=lora, or a GPU."
        )


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter in PEFT's own format."""
    # Never the embeddings: the vocabulary is never resized, and finding that out would ask the hub.
    model.save_pretrained(folder, save_embedding_layers=False)


def load_adapter(base: Any, folder: Path) -> Any:
    """A PEFT model with a saved adapter over a frozen base.

    Raises:
        ConfigError: If the folder holds no adapter, or a pickle in place of its weights.
        FtframeError: If its config holds what an adapter has no say in, its weights are damaged, or its tensors are not
            exactly those that this base has places for.
    """
    refuse_pickles(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise ConfigError(f"{folder} holds no {WEIGHTS}, so it is not an adapter.")
    config = read_adapter_config(folder)
    origin = config.base_model_name_or_path
    try:
        with safe_open(weights, framework="pt") as file:
            stored = set(file.keys())
        model = PeftModel.from_pretrained(base, str(folder), config=config)
        multiply_in_type_of_input(model)
        refuse_merges(model)
    except SafetensorError as error:
        raise FtframeError(f"{weights} is damaged: {error}. Get it again.") from error
    except RuntimeError as error:  # tensors of the same names and other shapes
        raise FtframeError(
            f"The adapter in {folder} does not fit this base: its tensors have other shapes. "
            f"Give the base it was trained on: {origin}."
        ) from error
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if stored != expected:
        odd = sorted(stored ^ expected)
        raise FtframeError(
            f"The adapter in {folder} does not fit this base: {len(odd)} tensors stand on one side only, "
            f"the first is {odd[0]}. Give the base it was trained on: {origin}."
        )
    return model
