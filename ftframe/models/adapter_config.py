"""`adapter_config.json` as plain values, checked before PEFT sees them.

PEFT takes what stands there as arguments of its config classes, and by some of them it imports a module
(`megatron_core`, `auto_mapping`), loads a file from anywhere (`corda_config`) or builds the base anew
(`layer_replication`). An adapter that was downloaded has no say in any of that: only the fields that describe its own
shape are taken.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

from ftframe.errors import ConfigError, FtframeError, did_you_mean
from ftframe.models.weight_files import ADAPTER_CONFIG

KINDS = ("LORA", "ADALORA", "HRA", "IA3", "LOHA", "LOKR", "OFT", "VERA")
"""Kinds of adapters whose config holds nothing but numbers, names and switches, besides what `FIXED` keeps out."""

FIXED = {
    "auto_mapping": None,
    "megatron_config": None,
    "megatron_core": (None, "megatron.core"),
    "runtime_config": None,
    "loftq_config": None,
    "eva_config": None,
    "corda_config": None,
    "lora_ga_config": None,
    "velora_config": None,
    "monteclora_config": None,
    "arrow_config": None,
    "kasa_config": None,
    "layer_replication": None,
    "alora_invocation_tokens": None,
    "use_bdlora": None,
}
"""Fields that import a module, open a file, build other objects or the base anew, and the values that do nothing."""

DRAWN = (True, False, "gaussian", "orthogonal", "olora", "pissa")
"""How a LoRA may begin. The others need data, files or random numbers from the training at every load."""


class Rule(NamedTuple):
    """What a field's value must be, in words and as a test."""

    needed: str
    holds: Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _all_of(holds: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, (list, set, tuple)) and all(map(holds, value))


_SCALAR = Rule("a text, a number, true, false or null", lambda v: v is None or isinstance(v, (str, int, float)))
_NAMES = Rule("a text, a list of texts or null", lambda v: v is None or _is_text(v) or _all_of(_is_text, v))
_NUMBERS = Rule("a number, a list of numbers or null", lambda v: v is None or _is_number(v) or _all_of(_is_number, v))
_PATTERN = Rule(
    "null, or a number for each name",
    lambda v: v is None or (isinstance(v, Mapping) and all(map(_is_text, v)) and all(map(_is_number, v.values()))),
)
_RULES = {
    **dict.fromkeys(("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules"), _NAMES),
    **dict.fromkeys(("target_parameters", "layers_pattern"), _NAMES),
    **dict.fromkeys(("layers_to_transform", "trainable_token_indices"), _NUMBERS),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), _PATTERN),
    "task_type": Rule("CAUSAL_LM or null", lambda v: v in (None, "CAUSAL_LM")),
    "init_lora_weights": Rule(
        ", ".join(map(str, DRAWN)), lambda v: isinstance(v, bool) or (isinstance(v, str) and v in DRAWN)
    ),
}


def read_adapter_config(folder: Path) -> Any:
    """PEFT's config of a saved adapter, for use and not for training.

    Raises:
        ConfigError: If there is none.
        FtframeError: If it is damaged, or holds what an adapter has no say in.
    """
    path = folder / ADAPTER_CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{folder} holds no {ADAPTER_CONFIG}, so it is not an adapter.") from error
    except ValueError as error:
        raise FtframeError(f"{path} is damaged: {error}. Get it again.") from error
    trouble = find_trouble(content)
    if trouble:
        raise FtframeError(f"{path} is refused: {trouble}")
    try:
        return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(content["peft_type"])](**{**content, "inference_mode": True})
    except (TypeError, ValueError) as error:
        raise FtframeError(f"{path} is refused by PEFT: {error}") from error


def find_trouble(content: Any) -> str:
    """Why these fields are not taken; empty where they are."""
    if not isinstance(content, Mapping):
        return "it is no JSON object."
    kind = content.get("peft_type")
    if not isinstance(kind, str) or kind not in KINDS:
        return f"peft_type={kind!r} is none of the kinds of adapters that are loaded: {', '.join(KINDS)}."
    fields = [field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)])]
    for name, value in content.items():
        if name not in fields:
            wrote = f" It was written by PEFT {content.get('peft_version')}." if "peft_version" in content else ""
            return f"it has the unknown key {name!r}.{did_you_mean(name, fields)}{wrote}"
        if name in FIXED:
            if value and value not in (FIXED[name] or ()):
                return f"it sets {name}, by which an adapter would load code, files or another model."
        elif not _RULES.get(name, _SCALAR).holds(value):
            return f"{name}={value!r}: {_RULES.get(name, _SCALAR).needed} is needed."
    return ""
