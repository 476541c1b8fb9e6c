"""What the values of a composed config must be beyond their types."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ftframe.errors import ConfigError
from ftframe.schema import SCHEMAS, FitConfig


def check_values(cfg: DictConfig) -> None:
    """Refuse values that mean nothing, and combinations that cannot train.

    Raises:
        ConfigError: Naming the first such key.
    """
    _check_libraries_nodes(cfg)
    _check_ranges(cfg)
    if issubclass(SCHEMAS[cfg.command], FitConfig):
        _check_cell(cfg)
        _check_budget(cfg)


_AT_LEAST = {
    **dict.fromkeys(("data.shuffle_buffer", "data.mixing.epoch_size"), 1),
    **dict.fromkeys(("data.batch_size", "data.eval_batch_size", "batch_size"), 1),
    **dict.fromkeys(("data.max_new_tokens", "max_new_tokens", "checkpoint.keep"), 1),
    **dict.fromkeys(
        ("data.num_workers", "data.generate_examples", "examples", "checkpoint.every_n_steps", "temperature"), 0
    ),
    "trainer.accumulate_grad_batches": 1,
    "data.max_length": 2,
}
_SHARES = ("data.validation_fraction", "top_p")
_FROM_0_TO_1 = ("data.max_bad_fraction",)


def _check_ranges(cfg: DictConfig) -> None:
    """Refuse numbers that mean nothing."""
    for key, value in _values(cfg, _AT_LEAST):
        least = _AT_LEAST[_of_all_tasks(key)]
        if not value >= least:
            raise ConfigError(f"{key}={value}: a number of at least {least} is needed.")
    for key, value in _values(cfg, _SHARES):
        if not 0 < value <= 1:
            raise ConfigError(f"{key}={value}: a share above 0 and at most 1 is needed.")
    for key, value in _values(cfg, _FROM_0_TO_1):
        if not 0 <= value <= 1:
            raise ConfigError(f"{key}={value}: a share from 0 to 1 is needed.")
    temperature = OmegaConf.select(cfg, "data.mixing.temperature")
    if temperature is not None and not 0 < temperature < math.inf:
        raise ConfigError(f"data.mixing.temperature={temperature}: a number above 0 is needed.")


def _values(cfg: DictConfig, keys: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The keys that have a value, those of `data` in each of its tasks too."""
    tasks = OmegaConf.select(cfg, "data.tasks") or {}
    for key in keys:
        of_tasks = [key.replace("data.", f"data.tasks.{task}.", 1) for task in tasks if key.startswith("data.")]
        for place in (key, *of_tasks):
            value = OmegaConf.select(cfg, place)
            if value is not None:
                yield place, value


def _of_all_tasks(key: str) -> str:
    """A key of one task as the key of that name in `data`."""
    return re.sub(r"^data\.tasks\.[^.]+\.", "data.", key)


def _check_libraries_nodes(cfg: DictConfig) -> None:
    """Refuse a plain value or a list where a library's node stands.

    Raises:
        ConfigError: If there is one.
    """
    callbacks = OmegaConf.select(cfg, "callbacks") or {}
    for key in ("optim", "trainer", "quant", "peft", "logger", *(f"callbacks.{name}" for name in callbacks)):
        node = OmegaConf.select(cfg, key)
        may_be_absent = node is None and (key not in ("optim", "trainer") or key not in cfg)
        if not OmegaConf.is_dict(node) and not may_be_absent:
            raise ConfigError(
                f"{key}={node}: a node of keys is needed, `_target_` among them, or an option of a group."
            )


def _check_cell(cfg: DictConfig) -> None:
    """Refuse combinations of peft and quant that cannot train."""
    for group in ("peft", "quant"):
        node = cfg[group]
        if node is not None and "_target_" not in node:
            raise ConfigError(
                f"{group}=none, but an experiment or an override sets {', '.join(f'{group}.{key}' for key in node)}. "
                "Choose what they belong to, or leave them out."
            )
    if cfg.require_quant and cfg.quant is None:
        raise ConfigError(
            "peft=qlora is LoRA on a quantised base, and quant=none leaves the base as it is. "
            "Use quant=4bit or quant=8bit, or peft=lora."
        )
    if cfg.peft is None and cfg.quant is not None:
        raise ConfigError(
            "peft=none trains every weight, and quantised weights cannot be trained. "
            "Use quant=none, or an adapter: peft=lora, peft=qlora or peft=dora."
        )


def _check_budget(cfg: DictConfig) -> None:
    """Refuse an `activation_budget` that is no share, or that nothing reads."""
    budget = cfg.activation_budget
    if not 0 < budget < 1:
        raise ConfigError(
            f"activation_budget={budget}: a share above 0 and below 1 is needed. To keep all activations, set "
            "memory=none; to keep the input of each layer, memory=checkpoint."
        )
    may_be_read = {
        f"memory={cfg.memory.name}": cfg.memory.name in ("auto", "budget"),
        "gradient_checkpointing=true": not cfg.gradient_checkpointing,
        "model.compile=false": str(cfg.model.compile).lower() != "false",
    }
    unread = [key for key, may_be in may_be_read.items() if not may_be]
    if budget != FitConfig.activation_budget and unread:
        raise ConfigError(
            f"activation_budget={budget} is the share that memory=budget keeps, and {unread[0]} does without it. "
            "Set memory=budget, or leave activation_budget out."
        )
