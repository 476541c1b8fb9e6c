"""The base model and its tokenizer: from a hub, a folder, or a shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import CONFIG_NAME

from ftframe.config_folders import find_package
from ftframe.errors import ConfigError, did_you_mean
from ftframe.local_files import expanded
from ftframe.models.causal_attention import register_causal_attention
from ftframe.models.compilable_4bit import check_unpacking
from ftframe.models.fp8 import check_fp8_device, quantise_linear_layers
from ftframe.models.quantisation import is_fp8, kept_layers
from ftframe.models.random_init import random_model
from ftframe.models.tokenizer_files import code_refused, read_tokenizer
from ftframe.models.varlen_attention import register_varlen_attention
from ftframe.models.weight_files import weight_files

PACKAGE_SCHEME = "pkg://"


@dataclass(frozen=True, slots=True)
class BaseSpec:
    """Everything that tells one base model from another."""

    path: str
    tokenizer: str | None = None
    revision: str | None = None
    init: str = "pretrained"
    config: Mapping[str, Any] = field(default_factory=dict)
    attn_implementation: str = "sdpa"
    trust_remote_code: bool = False
    seed: int = 0


def resolve_path(path: str, *, key: str = "model.path") -> str:
    """A hub id as it is, a folder as an absolute path.

    Raises:
        ConfigError: If `path` names a folder that does not exist.
    """
    local = _in_package(path, key) if path.startswith(PACKAGE_SCHEME) else expanded(path, key=key)
    if local.is_dir():
        return str(local.resolve())
    if path.startswith((".", "/", "~", PACKAGE_SCHEME)) or local.exists():
        siblings = [entry.name for entry in local.parent.iterdir()] if local.parent.is_dir() else []
        raise ConfigError(f"{key}={path} is not a folder.{did_you_mean(local.name, siblings)}")
    return path


def is_local_model(path: str) -> bool:
    """Whether a base model's `path` names something on this machine, and no repository of a hub."""
    return path.startswith((".", "/", "~", PACKAGE_SCHEME)) or expanded(path, key="model.path").exists()


def _in_package(path: str, key: str) -> Path:
    """The folder inside an installed package, which is found and never imported: an artifact may name it."""
    package, _, folder = path.removeprefix(PACKAGE_SCHEME).partition("/")
    found = find_package(package) if package else None
    if found is None:
        raise ConfigError(f"{key}={path}: no package '{package}' is installed.")
    if not (found / folder).resolve().is_relative_to(found.resolve()):
        raise ConfigError(f"{key}={path} leads out of the package '{package}'.")
    return found / folder


def load_tokenizer(spec: BaseSpec) -> Any:
    """The tokenizer of a base model.

    Raises:
        ConfigError: If there is none at `model.tokenizer`, or at `model.path` where that is null.
    """
    key = "model.tokenizer" if spec.tokenizer else "model.path"
    path = resolve_path(spec.tokenizer or spec.path, key=key)
    try:
        return read_tokenizer(
            path,
            revision=None if spec.tokenizer else spec.revision,
            trust_remote_code=spec.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"No tokenizer could be loaded from {key}={path}.\n{_first_line(error)}{_HUB_HINT}"
        ) from error


def load_config(spec: BaseSpec) -> Any:
    """The shape of the model, as its library's config object.

    Raises:
        ConfigError: If it cannot be read, `model.config` holds a key or value that this kind of model does not have, it
            differs from the pretrained weights' own shape, or its heads make no groups.
    """
    model_type = spec.config.get("model_type") if spec.init == "random" else None
    config = _default_config(model_type) if model_type else _pretrained_config(spec)
    counts = {*_COUNTS, *(config.attribute_map.get(name, name) for name in _COUNTS)}
    for name, value in spec.config.items():
        if not hasattr(config, name):
            raise ConfigError(f"Unknown key 'model.config.{name}'.{did_you_mean(name, config.to_dict())}")
        if name in counts and isinstance(value, int) and value < 1:
            raise ConfigError(f"model.config.{name}={value}: a number of at least 1 is needed.")
        if spec.init != "random" and getattr(config, name) != value:
            raise ConfigError(
                f"model.config.{name}={value}, but the weights at model.path={spec.path} have {getattr(config, name)}. "
                "Leave it out, or build the shape without weights by model.init=random."
            )
    if spec.init == "random":
        # Built anew from what is given: values that the class derives, such as head_dim, must follow it.
        given = {} if model_type else config.to_dict()
        try:
            config = type(config).from_dict({**given, **spec.config})
        except StrictDataclassError as error:
            raise ConfigError(f"model.config: {' '.join(str(error).split())}") from error
    _refuse_uneven_groups(config)
    return config


def _refuse_uneven_groups(config: Any) -> None:
    """Refuse query heads that cannot share key and value heads evenly: attention fails on them in its first step."""
    text = config.get_text_config()
    heads, shared = (getattr(text, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    if isinstance(heads, int) and isinstance(shared, int) and heads % shared:
        raise ConfigError(
            f"model.config.num_attention_heads={heads} is no multiple of model.config.num_key_value_heads={shared}."
        )


_COUNTS = (
    "vocab_size", "hidden_size", "intermediate_size", "head_dim", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings",
)  # fmt: skip
"""What a model has at least one of, in the words that transformers has for all models."""


def _default_config(model_type: str) -> Any:
    if model_type not in CONFIG_MAPPING:
        raise ConfigError(f"Unknown model.config.model_type={model_type}.{did_you_mean(model_type, CONFIG_MAPPING)}")
    return AutoConfig.for_model(model_type)


def _pretrained_config(spec: BaseSpec) -> Any:
    path = resolve_path(spec.path)
    file = Path(path) / CONFIG_NAME
    if file.is_file():
        _refuse_damaged(file)
    try:
        config = AutoConfig.from_pretrained(path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
    except (OSError, ValueError, TypeError, ArithmeticError, StrictDataclassError) as error:
        if not spec.trust_remote_code and "trust_remote_code" in str(error):
            raise ConfigError(code_refused(path)) from error
        if file.is_file():
            paragraph = " ".join(str(error).partition("\n\n")[0].split())
            raise ConfigError(f"{file} describes no model: {paragraph}") from error
        raise ConfigError(f"No model could be found at model.path={path}.\n{_first_line(error)}{_HUB_HINT}") from error
    kernels = _kernels(config)
    if kernels:
        raise ConfigError(
            f"The config.json at model.path={path} names {kernels[0]} as its attention: a kernel on a hub, which is "
            "code and is not run. Remove the key; the attention is chosen by model.attn_implementation."
        )
    if getattr(config, "transformers_weights", None):
        raise ConfigError(
            f"The config.json at model.path={path} names its weights by `transformers_weights`, which is not followed. "
            "Name them as usual, model.safetensors or model.safetensors.index.json, and remove the key."
        )
    return config


def _refuse_damaged(file: Path) -> None:
    """Refuse a file that is no JSON object, of which transformers does not say what is wrong with it."""
    text = file.read_bytes()
    try:
        is_object = isinstance(json.loads(text), dict)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is damaged: {error if text.strip() else 'it is empty'}.") from error
    if not is_object:
        raise ConfigError(f"{file} is damaged: it is no JSON object.")


def _kernels(config: Any) -> list[str]:
    """The kernels on a hub that a model's config, or a config within it, would have transformers fetch and run."""
    parts = [config, *(part for part in vars(config).values() if isinstance(part, PreTrainedConfig))]
    names = [str(getattr(part, "_attn_implementation", None)) for part in parts]
    return [name for name in names if "/" in name]


def check_vocabulary(config: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer whose ids the model has no embedding for.

    Raises:
        ConfigError: If the tokenizer is larger than the model's vocabulary.
    """
    if len(tokenizer) > config.vocab_size:
        raise ConfigError(
            f"The tokenizer has {len(tokenizer)} tokens and the model embeds {config.vocab_size}. "
            "Choose the tokenizer of this model by model.tokenizer, or model.config.vocab_size with model.init=random."
        )


def build_base_model(spec: BaseSpec, *, dtype: torch.dtype, quantization_config: Any, device: torch.device) -> Any:
    """The base model on its device, in its final number types.

    Args:
        spec: Which model.
        dtype: Type of the weights that are not quantised.
        quantization_config: A `transformers.BitsAndBytesConfig`, an `Fp8Config`, or None.
        device: Where the weights go; only one layer at a time is ever held unquantised.
    """
    if is_fp8(quantization_config):
        check_fp8_device(device)
    config = load_config(spec)
    config.use_cache = False
    register_varlen_attention()
    register_causal_attention()
    model: Any
    if spec.init == "random":
        model = random_model(
            config,
            dtype=dtype,
            quantization_config=quantization_config,
            device=device,
            attn_implementation=spec.attn_implementation,
            seed=spec.seed,
            trust_remote_code=spec.trust_remote_code,
        )
    else:
        weight_files(resolve_path(spec.path), revision=spec.revision)  # refuses pickles, and adapters
        in_fp8 = is_fp8(quantization_config)
        model = AutoModelForCausalLM.from_pretrained(
            resolve_path(spec.path),
            config=config,
            revision=spec.revision,
            dtype=dtype,
            quantization_config=None if in_fp8 else quantization_config,
            attn_implementation=spec.attn_implementation,
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=True,
            device_map={"": "cpu" if in_fp8 else device},
        )
        if in_fp8:
            quantise_linear_layers(model, kept_layers(model, quantization_config), device)
            model.to(device=device)
    keep_weights_trainable_through(model)
    check_unpacking(model)
    return model


def keep_weights_trainable_through(model: Any) -> None:
    """Forbid bitsandbytes to repack 4-bit weights on a CPU with AVX512-BF16.

    Its first forward pass in eval mode would turn them into a lossy layout for inference, through which no gradient
    flows: training after a validation would go on, without an error, with wrong gradients.
    Source: `Linear4bit.forward` and `matmul_4bit` of bitsandbytes 0.50; related:
    https://github.com/bitsandbytes-foundation/bitsandbytes/issues/2078
    """
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


_HUB_HINT = (
    "\nGive a local folder, or the id of a repository on the model hub that this machine can reach "
    "(a gated one also needs a token: `hf auth login`)."
)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
