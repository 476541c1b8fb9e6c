"""What a config leaves to `auto`, chosen from machine, model and data: number types, attention, compiler, memory."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ftframe.engine import (
    WORTH_COMPILING,
    Engine,
    Workload,
    can_compile,
    choose_compile,
    choose_engine,
    choose_memory,
    workload,
)
from ftframe.errors import ConfigError, did_you_mean
from ftframe.gpus import GIBIBYTE, Gpu, identify
from ftframe.models.adapter_compute import is_plain_lora
from ftframe.models.causal_attention import CAUSAL, CUDNN, FEW_SHAPES, gains_from_cudnn, sees_all_before
from ftframe.models.precision import Precision, resolve_precision
from ftframe.models.quantisation import has_ample_form
from ftframe.models.varlen_attention import VARLEN, check_varlen
from ftframe.nodes import build, plain

log = logging.getLogger(__name__)

AUTO = "auto"


def on_gpu(accelerator: str) -> bool:
    """Whether Lightning's `accelerator` flag means a CUDA device on this machine."""
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


def device_of(accelerator: str) -> torch.device:
    """The kind of device that Lightning's `accelerator` flag means on this machine."""
    return torch.device("cuda" if on_gpu(accelerator) else "cpu")


def device_name(accelerator: str) -> str:
    """The kind of device that Lightning's `accelerator` flag means on this machine."""
    return torch.cuda.get_device_name() if on_gpu(accelerator) and torch.cuda.is_available() else "cpu"


def sharpen_attention(
    cfg: Any, attention: str, config: Any, precision: Precision, *, lengths: Collection[int] | None
) -> str:
    """The attention to train with, once the lengths of padded batches are known.

    On a GPU it is one that asks for no mask, where the model's tokens see all before them, and cuDNN's for few lengths.

    Args:
        cfg: The run's config.
        attention: As `choose_attention` gave it.
        config: The base model's, of transformers.
        precision: The run's number types.
        lengths: Of the training batches; None where they are not known.
    """
    device = device_of(cfg.trainer.accelerator)
    automatic = cfg.model.attn_implementation == AUTO and attention == "sdpa" and not cfg.data.packing
    if not automatic or device.type == "cpu" or not sees_all_before(config, cfg.data.max_length):
        return attention
    if cfg.peft is not None and build(cfg.peft, "peft").is_prompt_learning:
        return attention  # whose tokens PEFT adds to the mask
    few = lengths is not None and len(lengths) <= FEW_SHAPES and not cfg.deterministic
    return CUDNN if few and gains_from_cudnn(device, precision.compute_dtype) else CAUSAL


def precision_of(cfg: Any) -> Precision:
    """The number types of a run."""
    return resolve_precision(
        str(cfg.trainer.precision),
        cfg.model.dtype,
        trains_base=cfg.peft is None,
        on_gpu=on_gpu(cfg.trainer.accelerator),
        plain_lora=trains_plain_lora(cfg),
    )


def trains_plain_lora(cfg: Any) -> bool:
    """Whether the adapter is LoRA and none of its variants."""
    return cfg.peft is not None and is_plain_lora(build(cfg.peft, "peft"))


def quant_node(cfg: Any, precision: Precision) -> dict[str, Any] | None:
    """The `quant` node; 4-bit weights are multiplied in the type of the run's precision where theirs is `auto`.

    Few CPUs multiply bfloat16 in hardware: elsewhere it is six times slower there than float32.
    """
    node: dict[str, Any] | None = plain(cfg.quant)
    if node is not None and node.get("bnb_4bit_compute_dtype") == "auto":
        node["bnb_4bit_compute_dtype"] = str(precision.compute_dtype).removeprefix("torch.")
    return node


def choose_attention(cfg: Any, config: Any, precision: Precision) -> str:
    """The attention to train with, from `model.attn_implementation`: `auto` is `varlen` for packs where it can run.

    Args:
        cfg: The run's config.
        config: The base model's, of transformers.
        precision: The run's number types.

    Raises:
        ConfigError: Naming what is missing.
    """
    if cfg.model.attn_implementation == "flex_attention" and not on_gpu(cfg.trainer.accelerator):
        raise ConfigError("model.attn_implementation=flex_attention cannot train on a CPU. Use sdpa or eager.")
    name, known = cfg.model.attn_implementation, sorted({*ALL_ATTENTION_FUNCTIONS.valid_keys(), "eager", AUTO, VARLEN})
    if name not in known and "/" not in name:  # with a slash it is a kernel of the hub
        hint = did_you_mean(name, known)
        raise ConfigError(f"model.attn_implementation={name}: there is none.{hint}\nAllowed: {', '.join(known)}.")
    if name == VARLEN or (name == AUTO and cfg.data.packing):
        device = device_of(cfg.trainer.accelerator)
        try:
            check_varlen(config, device, precision.compute_dtype)
        except ConfigError:
            if name == VARLEN:
                raise
            return "sdpa"
        return VARLEN
    return "sdpa" if name == AUTO else str(name)


def check_engine(cfg: Any, *, on_gpu: bool, possible: bool) -> None:
    """Refuse what contradicts itself in `model.compile`, `memory` and what goes with them, however large the model is.

    Args:
        cfg: The run's config.
        on_gpu: Whether the model computes on a GPU.
        possible: Whether it can be compiled for it.

    Raises:
        ConfigError: If two keys contradict each other, or there is no compiler.
    """
    memory_of(cfg, compiles=compiles_of(cfg, on_gpu=on_gpu, possible=possible, parameters=WORTH_COMPILING))


def compiles_of(cfg: Any, *, on_gpu: bool, possible: bool, parameters: int) -> bool:
    """Whether layers are compiled, as `choose_compile` has it.

    Raises:
        ConfigError: If `model.compile` is unknown, or there is no compiler.
    """
    return choose_compile(
        cfg.model.compile, on_gpu=on_gpu, possible=possible, deterministic=cfg.deterministic, parameters=parameters
    )


def memory_of(cfg: Any, *, compiles: bool) -> str:
    """The setting of `memory` that is asked for, or `auto`.

    Raises:
        ConfigError: If it contradicts another key.
    """
    return choose_memory(
        cfg.memory.name,
        gradient_checkpointing=cfg.gradient_checkpointing,
        compiles=compiles,
        has_ample_form=has_ample_form(plain(cfg.quant)),
    )


def engine_of(cfg: Any, precision: Precision, config: Any, *, tokens: int) -> Engine:
    """How the model computes, from `model.compile`, `memory` and what goes with them.

    Args:
        cfg: The run's config.
        precision: Number types.
        config: The base model's, of transformers.
        tokens: Of the largest micro-batch, padding included.

    Raises:
        ConfigError: If two keys contradict each other.
    """
    gpu = on_gpu(cfg.trainer.accelerator)
    work = _workload_if_known(cfg, precision, config, tokens=tokens) if gpu else None
    parameters = work.size.parameters if work is not None else 0
    compiles = compiles_of(cfg, on_gpu=gpu, possible=can_compile(on_gpu=gpu), parameters=parameters)
    memory = memory_of(cfg, compiles=compiles)
    if work is None:
        return Engine(compiles, False, "none" if memory == "auto" else memory, cfg.activation_budget)
    return choose_engine(
        work, compiles=compiles, memory=memory, share=cfg.activation_budget, capacity=memory_of_device()
    )


def _workload_if_known(cfg: Any, precision: Precision, config: Any, *, tokens: int) -> Workload | None:
    """As `workload_of`; None where model or adapter cannot be made without content, which then trains all the same."""
    try:
        return workload_of(cfg, precision, config, tokens=tokens)
    except Exception:  # whatever a model's own code, or an adapter's, does to tensors without content
        log.warning("neither size nor memory of %s can be planned", config.model_type, exc_info=True)
        return None


def memory_of_device() -> float | None:
    """Bytes of this rank's GPU, or None without one."""
    return float(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None


def gpu_of_device() -> Gpu | None:
    """This rank's GPU, with the memory that it really has; None without one, and where it is not a known one."""
    memory = memory_of_device()
    if memory is None:
        return None
    found = identify(torch.cuda.get_device_name(), memory / GIBIBYTE)
    return replace(found, memory=memory / GIBIBYTE) if found is not None else None


def workload_of(cfg: Any, precision: Precision, config: Any, *, tokens: int) -> Workload:
    """What the memory and time of a run are planned for."""
    quant = quant_node(cfg, precision)
    return workload(
        config,
        build(cfg.peft, "peft") if cfg.peft is not None else None,
        build(quant, "quant") if quant is not None else None,
        precision,
        tokens=tokens,
        optimizer=cfg.optim._target_,
        trust_remote_code=cfg.model.trust_remote_code,
        accumulates=cfg.trainer.accumulate_grad_batches > 1,
    )
