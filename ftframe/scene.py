"""What `ftframe plan` knows of a run: its model, a micro-batch in memory, and the device that it is planned for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ftframe import assembly, choices, nodes
from ftframe.engine import ROOM, Workload, fastest, plan_layout, usable_settings
from ftframe.errors import ConfigError
from ftframe.gpus import GIBIBYTE, GPUS, Gpu
from ftframe.models.adapter import check_adapter
from ftframe.models.base import is_local_model, load_config
from ftframe.models.footprint import Footprint, Layout, estimate, largest_micro_batch, with_memory
from ftframe.models.memory import COMPILED
from ftframe.models.pace import Step, seconds
from ftframe.models.precision import Precision, resolve_precision
from ftframe.models.quantisation import means_fp8


@dataclass(frozen=True)
class Scene:
    """What a plan is made of.

    Attributes:
        cfg: The run's config.
        work: The model and a micro-batch of full rows.
        layout: How that micro-batch lies in memory with nothing recomputed.
        gpu: The device it is planned for.
        memory: The setting that the run would have.
    """

    cfg: Any
    work: Workload
    layout: Layout
    gpu: Gpu
    memory: str

    @property
    def usable(self) -> list[str]:
        """Settings of memory that go with the rest, the fastest first."""
        return usable_settings(self.work.size, compiles=self.layout.compiles)

    @property
    def is_fp8(self) -> bool:
        """Whether the base is in FP8."""
        return _is_fp8(self.cfg)

    def footprint(self, memory: str | None = None, *, tokens: int | None = None) -> Footprint:
        """The footprint with another setting or another number of tokens."""
        layout = with_memory(self.layout, memory or self.memory)
        return estimate(self.work.size, layout if tokens is None else replace(layout, tokens=tokens))

    def fits(self, memory: str | None = None, *, tokens: int | None = None) -> bool:
        """Whether that is within what a plan may fill of the device."""
        return self.footprint(memory, tokens=tokens).total <= _room(self.gpu)

    def tokens_per_second(self, gpu: Gpu, memory: str) -> float:
        """Expected of a micro-batch of full rows."""
        step = Step(
            tokens=self.work.tokens,
            length=assembly.longest(self.cfg.data),
            memory=memory,
            compiles=self.layout.compiles,
            fp8=self.is_fp8,
            packed_bits=self.cfg.quant is not None and not self.is_fp8,
        )
        return self.work.tokens / seconds(self.work.size, step, gpu)

    def largest_batch(self, memory: str, gpu: Gpu) -> int:
        """Full rows that fit a device at a time."""
        length = assembly.longest(self.cfg.data)
        return largest_micro_batch(lambda rows: self.footprint(memory, tokens=rows * length).total, _room(gpu))


def scene_of(cfg: Any, gpu: Gpu) -> Scene:
    """What a run's config comes to on a device.

    Raises:
        ConfigError: If the device has no FP8 and the config asks for it, or the activations cannot be counted.
    """
    if _is_fp8(cfg) and gpu.fp8_tflops is None:
        able = ", ".join(other.name for other in GPUS.values() if other.fp8_tflops is not None)
        raise ConfigError(f"quant=fp8: {gpu.name} has no FP8. Use quant=4bit or quant=8bit, or a gpu of: {able}.")
    if cfg.peft is not None:
        check_adapter(nodes.build(cfg.peft, "peft"), None, on_gpu=True)
    precision = _precision(cfg)
    spec = assembly.base_spec(cfg)
    if spec.config and not is_local_model(spec.path):
        spec = replace(spec, init="random")  # the shape is in the config group: nothing has to be asked for
    config = load_config(spec)
    work = choices.workload_of(cfg, precision, config, tokens=cfg.data.batch_size * assembly.longest(cfg.data))
    compiles = choices.compiles_of(cfg, on_gpu=True, possible=True, parameters=work.size.parameters)
    memory = choices.memory_of(cfg, compiles=compiles)
    layout = plan_layout(work, compiles=compiles, chunks_loss=work.chunks_loss, share=cfg.activation_budget)
    if layout is None and compiles and cfg.model.compile == choices.AUTO and memory not in COMPILED:
        layout = plan_layout(work, compiles=False, chunks_loss=work.chunks_loss, share=cfg.activation_budget)
    if layout is None:
        raise ConfigError(
            f"The activations of models of type '{config.model_type}' cannot be counted from their shape alone. "
            "`ftframe fit` with trainer.max_steps=2 measures them."
        )
    scene = Scene(cfg, work, layout, gpu, memory)
    if memory != "auto":
        return scene
    return replace(scene, memory=fastest({name: scene.footprint(name) for name in scene.usable}, _room(gpu)))


def _is_fp8(cfg: Any) -> bool:
    return means_fp8(nodes.plain(cfg.quant))


def _room(gpu: Gpu) -> float:
    """Bytes of a device that a plan may fill."""
    return gpu.memory * GIBIBYTE * ROOM


def _precision(cfg: Any) -> Precision:
    """As `fit` would have it on a GPU with bfloat16."""
    asked = str(cfg.trainer.precision)
    return resolve_precision(
        "bf16-mixed" if asked == "auto" else asked,
        cfg.model.dtype,
        trains_base=cfg.peft is None,
        on_gpu=True,
        plain_lora=choices.trains_plain_lora(cfg),
    )
