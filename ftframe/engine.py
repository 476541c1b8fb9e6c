"""How fast and with how much memory a run computes: what a config leaves to `auto`, decided before a model is built."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ftframe.errors import ConfigError
from ftframe.gpus import GIBIBYTE
from ftframe.models.activations import saved_bytes
from ftframe.models.footprint import STATE_BYTES, Footprint, Layout, Saved, estimate, with_memory
from ftframe.models.memory import COMPILED, SETTINGS
from ftframe.models.model_size import ModelSize, measure_size
from ftframe.models.precision import Precision

WORTH_COMPILING = 500_000_000
"""Parameters from which `model.compile=auto` compiles: below, a step is over before the half minute pays off."""

ROOM = 0.94
"""Share of a device's memory that a plan may fill: the rest is the driver's, and lost between blocks."""

_BY_COMPILER = {
    "ample": ("keeps weights for the compiler's products", "none"),
    "budget": ("lets the compiler choose what to compute twice", "checkpoint"),
}
"""What a setting of memory does that only compiled layers can, and which does without."""

_COMPILE = {"auto": None, "true": True, "false": False}


@dataclass(frozen=True)
class Engine:
    """How the model computes.

    Attributes:
        compiles: Whether layers are compiled.
        chunks_loss: Whether logits are made a chunk at a time while training.
        memory: One of `memory.SETTINGS`.
        share: Of the activations that are kept with `budget`.
        size: The model in figures; None on a CPU.
        planned: The footprint of the largest micro-batch; None on a CPU, and where it cannot be known.
    """

    compiles: bool
    chunks_loss: bool
    memory: str
    share: float
    size: ModelSize | None = None
    planned: Footprint | None = None


@dataclass(frozen=True)
class Workload:
    """What a plan is made for.

    Attributes:
        size: The model.
        config: Its config, of transformers.
        peft_config: The adapter's, or None.
        precision: Number types.
        tokens: Of the largest micro-batch, padding included.
        optimizer: The `_target_` of the optimizer.
        trust_remote_code: Whether the user trusts the code that the model brings along, if any.
        accumulates: Whether an optimizer step takes several micro-batches.
    """

    size: ModelSize
    config: Any
    peft_config: Any
    precision: Precision
    tokens: int
    optimizer: str
    trust_remote_code: bool = False
    accumulates: bool = False

    @property
    def chunks_loss(self) -> bool:
        """Whether logits can be made a chunk at a time; not in float16, whose gradients are scaled."""
        return self.precision.compute_dtype != torch.float16


def workload(
    config: Any,
    peft_config: Any,
    quantization_config: Any,
    precision: Precision,
    *,
    tokens: int,
    optimizer: str,
    trust_remote_code: bool = False,
    accumulates: bool = False,
) -> Workload:
    """The workload of a run's parts, as the objects of the libraries."""
    size = measure_size(
        config,
        peft_config,
        quantization_config,
        dtype=precision.base_dtype,
        adapters_in_float32=precision.adapters_in_float32,
        trust_remote_code=trust_remote_code,
    )
    return Workload(size, config, peft_config, precision, tokens, optimizer, trust_remote_code, accumulates)


def can_compile(*, on_gpu: bool) -> bool:
    """Whether this machine has what the compiler makes its kernels with: triton for a GPU, a C++ compiler for a CPU."""
    if on_gpu:
        return importlib.util.find_spec("triton") is not None
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")  # as torch's own search has it
    return shutil.which(os.environ.get("CXX", usual)) is not None or "TORCH_INDUCTOR_INSTALL_GXX" in os.environ


_NEEDED = {
    True: "triton on a GPU: pip install triton",
    False: "a C++ compiler on a CPU: install g++, let the environment variable CXX name one",
}
"""By whether it computes on a GPU, what compiling needs."""


def choose_compile(value: str, *, on_gpu: bool, possible: bool, deterministic: bool, parameters: int) -> bool:
    """Whether layers are compiled, from `model.compile`.

    Args:
        value: `auto`, `true` or `false`.
        on_gpu: Whether the model computes on a GPU.
        possible: Whether it can be compiled for it.
        deterministic: Whether runs must repeat to the last bit, whatever was compiled before them.
        parameters: Of the model.

    Raises:
        ConfigError: If the value is none of `auto`, `true` and `false`, or there is no compiler.
    """
    word = str(value).lower()
    if word not in _COMPILE:
        raise ConfigError(f"model.compile={value}: auto, true or false is needed.")
    if _COMPILE[word] and not possible:
        raise ConfigError(f"model.compile=true needs {_NEEDED[on_gpu]}, or set model.compile=false.")
    if _COMPILE[word] is not None:
        return bool(_COMPILE[word])
    return on_gpu and possible and not deterministic and parameters >= WORTH_COMPILING


def choose_memory(word: str, *, gradient_checkpointing: bool, compiles: bool, has_ample_form: bool) -> str:
    """The setting that is asked for, or `auto`, from `memory` and its plain word `gradient_checkpointing`.

    Args:
        word: `auto` or one of `memory.SETTINGS`.
        gradient_checkpointing: Whether the plain word is given.
        compiles: Whether layers are compiled.
        has_ample_form: Whether the base is quantised so that it can be kept as it is multiplied, too.

    Raises:
        ConfigError: If the two contradict each other, or what the setting needs is not there.
    """
    if gradient_checkpointing and word not in ("auto", "checkpoint"):
        raise ConfigError(f"gradient_checkpointing=true means memory=checkpoint, and memory={word}. Leave one out.")
    if word == "ample" and not has_ample_form:
        raise ConfigError(
            "memory=ample keeps quantised weights as they are multiplied, too, and there are none of 4 bits or FP8. "
            "Set memory=none, which is as fast, or quant=4bit."
        )
    if word in COMPILED and not compiles:
        does, instead = _BY_COMPILER[word]
        raise ConfigError(
            f"memory={word} {does}, and model.compile is off. Set model.compile=true, or memory={instead}."
        )
    return "checkpoint" if gradient_checkpointing else word


def choose_engine(work: Workload, *, compiles: bool, memory: str, share: float, capacity: float | None) -> Engine:
    """On a GPU, the fastest setting that fits, where `memory` is `auto`; otherwise the one that was asked for.

    Args:
        work: The run.
        compiles: Whether layers are compiled.
        memory: `auto` or one of `memory.SETTINGS`.
        share: Of the activations that are kept with `budget`.
        capacity: Bytes of the device's memory, or None.
    """
    chunks = work.chunks_loss
    footprints = plan_settings(work, compiles=compiles, chunks_loss=chunks, share=share)
    if footprints is None:
        return Engine(compiles, chunks, "checkpoint" if memory == "auto" else memory, share, work.size)
    if memory == "auto":
        memory = fastest(footprints, math.inf if capacity is None else ROOM * capacity)
    return Engine(compiles, chunks, memory, share, work.size, footprints.get(memory))


def usable_settings(size: ModelSize, *, compiles: bool) -> list[str]:
    """Settings of memory that a model has, the fastest first."""
    return [
        name for name in SETTINGS if (compiles or name not in COMPILED) and (name != "ample" or size.ample_bytes > 0)
    ]


def fastest(footprints: Mapping[str, Footprint], room: float) -> str:
    """The first setting that takes no more bytes than there are; if none does, the one that takes the least."""
    fitting = (name for name, footprint in footprints.items() if footprint.total <= room)
    return next(fitting, min(footprints, key=lambda name: footprints[name].total))


def plan_settings(work: Workload, *, compiles: bool, chunks_loss: bool, share: float) -> Mapping[str, Footprint] | None:
    """The footprint with each setting that goes with the rest; None where activations cannot be counted."""
    layout = plan_layout(work, compiles=compiles, chunks_loss=chunks_loss, share=share)
    if layout is None:
        return None
    names = usable_settings(work.size, compiles=compiles)
    return {name: estimate(work.size, with_memory(layout, name)) for name in names}


def plan_layout(work: Workload, *, compiles: bool, chunks_loss: bool, share: float) -> Layout | None:
    """How a micro-batch of the workload lies in memory, with nothing recomputed; None where that cannot be counted."""
    precision = work.precision
    autocast = precision.compute_dtype if precision.trainer.endswith("mixed") else None

    def saved(kept: float) -> Saved | None:
        return saved_bytes(
            work.config,
            work.peft_config,
            dtype=precision.base_dtype,
            autocast=autocast,
            compiles=compiles,
            share=kept,
            tokens=work.tokens,
            trust_remote_code=work.trust_remote_code,
        )

    whole = saved(1.0)
    part = saved(share) if compiles else whole
    if whole is None or part is None:
        return None
    text = work.config.get_text_config()
    return Layout(
        tokens=work.tokens,
        compute_bytes=precision.compute_dtype.itemsize,
        compiles=compiles,
        chunks_loss=chunks_loss,
        memory="none",
        saved=whole,
        saved_by_budget=part,
        state_bytes=STATE_BYTES.get(work.optimizer, 8.0),
        feed_forward=getattr(text, "intermediate_size", None) or 4 * work.size.hidden,
        accumulates=work.accumulates,
    )


def describe(engine: Engine, capacity: float | None) -> str:
    """What was decided, in one line."""
    words = [f"memory={engine.memory}", f"model.compile={str(engine.compiles).lower()}"]
    if engine.planned is not None:
        of = f" of {capacity / GIBIBYTE:.1f}" if capacity else ""
        words.append(f"planned peak {engine.planned.total / GIBIBYTE:.1f}{of} GiB")
    return ", ".join(words)
