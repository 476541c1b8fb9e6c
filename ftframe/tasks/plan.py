"""`ftframe plan`: what a run would take, before anything is downloaded or loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import OmegaConf

from ftframe import assembly, choices, console, nodes
from ftframe.engine import ROOM, Workload, fastest, plan_layout, usable_settings
from ftframe.errors import ConfigError
from ftframe.gpus import GIBIBYTE, GPUS, Gpu, find_gpu, stand_in
from ftframe.models.adapter import check_adapter
from ftframe.models.base import is_local_model, load_config
from ftframe.models.footprint import Footprint, Layout, estimate, largest_micro_batch, with_memory
from ftframe.models.memory import COMPILED
from ftframe.models.pace import Step, seconds
from ftframe.models.precision import Precision, resolve_precision
from ftframe.models.quantisation import means_fp8

_PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "loss", "workspace")
_LORA = {"_target_": "peft.LoraConfig", "task_type": "CAUSAL_LM", "r": 16, "target_modules": "all-linear"}
_4BIT = {"_target_": "transformers.BitsAndBytesConfig", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}


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

    def footprint(self, memory: str | None = None, *, tokens: int | None = None) -> Footprint:
        """The footprint with another setting or another number of tokens."""
        layout = with_memory(self.layout, memory or self.memory)
        return estimate(self.work.size, layout if tokens is None else replace(layout, tokens=tokens))

    def fits(self, memory: str | None = None, *, tokens: int | None = None) -> bool:
        """Whether that is within what a plan may fill of the device."""
        return self.footprint(memory, tokens=tokens).total <= _room(self.gpu)

    def tokens_per_second(self, gpu: Gpu, memory: str) -> float:
        """Expected of a micro-batch of full rows."""
        fp8 = _is_fp8(self.cfg)
        step = Step(
            tokens=self.work.tokens,
            length=assembly.longest(self.cfg.data),
            memory=memory,
            compiles=self.layout.compiles,
            fp8=fp8,
            packed_bits=self.cfg.quant is not None and not fp8,
        )
        return self.work.tokens / seconds(self.work.size, step, gpu)


def plan(cfg: Any) -> None:
    """Print what `fit` with the same overrides would take: memory by part, the largest micro-batch, tokens per second.

    Rows are taken to be full, `data.max_length` tokens each or the most of a task's own, and the device to be `gpu`.

    Raises:
        ConfigError: If the config cannot be run, or the model's activations cannot be counted.
    """
    assembly.check_nodes(cfg)
    choices.check_engine(cfg, on_gpu=True, possible=True)
    scene = _scene(cfg, _gpu(cfg.gpu))
    assembly.check_length(cfg, scene.work.config)
    console.print_facts(list(_model_facts(scene)), title="Model")
    _print_memory(scene)
    console.print_facts(list(_run_facts(scene)), title="Run")
    _print_gpus(scene)
    if not scene.fits():
        _print_remedies(scene)


def _scene(cfg: Any, gpu: Gpu) -> Scene:
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


def _gpu(name: str | None) -> Gpu:
    """The GPU to plan for: the one that is named, this machine's, or else an H100."""
    if name is not None:
        return find_gpu(name)
    memory = choices.memory_of_device()
    if memory is None:
        return GPUS["H100"]
    return choices.gpu_of_device() or _unknown_gpu(memory / GIBIBYTE)


def _unknown_gpu(memory: float) -> Gpu:
    """This machine's GPU, given its memory in GiB, where no one knows how fast it is."""
    has_fp8 = torch.cuda.get_device_capability() >= (8, 9)
    gpu, nearest = stand_in(torch.cuda.get_device_name(), memory, has_fp8=has_fp8)
    console.print_line(
        f"warning: how fast {gpu.name} is, is not known: it is planned with its own memory, and with the speed of the "
        f"{nearest}, the nearest in memory. gpu=<name> plans for another."
    )
    return gpu


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


def _model_facts(scene: Scene) -> Iterator[tuple[str, Any]]:
    size = scene.work.size
    yield "parameters", f"{size.parameters:,}"
    whole = size.parameters + (size.trained if scene.cfg.peft is not None else 0)
    yield "trained", f"{size.trained:,} ({size.trained / whole:.2%})"
    yield "layers, hidden, vocabulary", f"{size.layers}, {size.hidden}, {size.vocabulary}"
    compiles = str(scene.layout.compiles).lower()
    yield "planned for", f"{scene.gpu.name}, {scene.gpu.memory:.1f} GiB, model.compile={compiles}"


def _print_memory(scene: Scene) -> None:
    """The peak by part, for each setting of `memory`."""
    usable = scene.usable
    footprints = {name: scene.footprint(name) for name in usable}
    header = ("GiB", *(f"[{name}]" if name == scene.memory else name for name in usable))
    rows = [(part, *(f"{getattr(footprints[name], part) / GIBIBYTE:.2f}" for name in usable)) for part in _PARTS]
    rows.append(("peak", *(f"{footprints[name].total / GIBIBYTE:.2f}" for name in usable)))
    rows.append(("largest data.batch_size", *(f"{_largest(scene, name, scene.gpu):,}" for name in usable)))
    speeds = (f"{scene.tokens_per_second(scene.gpu, name):,.0f}" for name in usable)
    rows.append(("tokens per second", *speeds))
    console.print_table(header, rows, title=f"Memory with data.batch_size={scene.cfg.data.batch_size}, by memory=")


def _largest(scene: Scene, memory: str, gpu: Gpu) -> int:
    """Full rows that fit at a time."""
    length = assembly.longest(scene.cfg.data)
    return largest_micro_batch(lambda rows: scene.footprint(memory, tokens=rows * length).total, _room(gpu))


def _run_facts(scene: Scene) -> Iterator[tuple[str, Any]]:
    """Tokens, time and disk of the whole run."""
    cfg, size = scene.cfg, scene.work.size
    devices = _devices(cfg.trainer)
    per_step = scene.work.tokens * cfg.trainer.accumulate_grad_batches * devices
    speed = scene.tokens_per_second(scene.gpu, scene.memory) * devices
    shared = "one device" if devices == 1 else f"{devices} devices"
    yield "tokens per optimizer step", f"{per_step:,} (full rows, {shared})"
    if cfg.trainer.max_steps > 0:
        yield "tokens of the run", f"{per_step * cfg.trainer.max_steps:,}"
        yield "hours of training", f"{per_step * cfg.trainer.max_steps / speed / 3600:.3f}"
    else:
        yield "tokens of the run", "known with the data (ftframe preview)"
        yield "hours per million tokens", f"{1e6 / speed / 3600:.3f}"
    saved = size.trained_bytes + 2 * 4 * size.trained
    kept = (cfg.checkpoint.keep + cfg.checkpoint.save_best) if cfg.checkpoint.every_n_steps else 0
    adapter, checkpoints = size.trained_bytes / GIBIBYTE, kept * saved / GIBIBYTE
    yield "disk, GiB", f"{adapter:.2f} for what is trained, {checkpoints:.2f} for {kept} checkpoints"
    if cfg.model.init.value == "pretrained" and not is_local_model(cfg.model.path):
        yield "download, GiB", f"about {2 * size.parameters / GIBIBYTE:.1f}"


def _devices(trainer: Any) -> int:
    """Devices that share a step; one for each machine where their number is left to the machine."""
    devices = nodes.plain(trainer.devices)
    known = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdecimal() else 1
    return known * int(trainer.num_nodes)


def _print_gpus(scene: Scene) -> None:
    """What the run would be on every GPU that is known."""
    rows = []
    for gpu in GPUS.values():
        if _is_fp8(scene.cfg) and gpu.fp8_tflops is None:
            rows.append((gpu.name, "no FP8", "-", "-"))
            continue
        largest = {name: _largest(scene, name, gpu) for name in scene.usable}
        memory = next((name for name in largest if largest[name] >= scene.cfg.data.batch_size), None)
        if memory is not None:
            rows.append((gpu.name, memory, f"{largest[memory]:,}", f"{scene.tokens_per_second(gpu, memory):,.0f}"))
        else:
            rows.append((gpu.name, "too small", f"{largest[scene.usable[-1]]:,}", "-"))
    header = ("GPU", "memory=", "largest data.batch_size", "tokens per second")
    console.print_table(header, rows, title="On other GPUs, with memory=auto")


def _print_remedies(scene: Scene) -> None:
    """Overrides with which it would fit."""
    console.print_line(
        f"This does not fit: {scene.footprint().total / GIBIBYTE:.1f} GiB of {scene.gpu.memory:.1f}. What would:"
    )
    found = list(_remedies(scene)) or list(_pairs(scene))
    for line in found or ["a smaller model, or a larger GPU"]:
        console.print_line(f"  {line}")


def _remedies(scene: Scene) -> Iterator[str]:
    """What would do by itself."""
    memory = next((name for name in scene.usable if scene.fits(name)), None)
    if memory is not None:
        yield _memory_override(scene, memory)
    yield from _fewer_tokens(scene)
    for override, meaning, changed in _smaller_weights(scene):
        if _fits(changed):
            yield f"{override}  ({meaning})"


def _pairs(scene: Scene) -> Iterator[str]:
    """What would do together with another."""
    for override, _, changed in _smaller_weights(scene):
        yield from (f"{override} {second}" for second in _remedies(changed))
    least = scene.usable[-1]
    if least != scene.memory:
        first = _memory_override(scene, least)
        yield from (f"{first} {second}" for second in _fewer_tokens(replace(scene, memory=least)))
    length = _length_that_fits(scene, rows=1)
    if length is not None and scene.cfg.data.batch_size > 1:
        yield f"data.batch_size=1 data.max_length={length}"


def _memory_override(scene: Scene, name: str) -> str:
    plain_word = " gradient_checkpointing=false" if scene.cfg.gradient_checkpointing else ""
    return f"memory={name}{plain_word}"


def _fewer_tokens(scene: Scene) -> Iterator[str]:
    rows = _largest(scene, scene.memory, scene.gpu)
    if rows:
        yield f"data.batch_size={rows}"
    length = _length_that_fits(scene, rows=scene.cfg.data.batch_size)
    if length is not None:
        yield f"data.max_length={length}"


def _length_that_fits(scene: Scene, *, rows: int) -> int | None:
    """The longest of a half, a quarter and so on of `data.max_length` that fits, if there is one."""
    length = scene.cfg.data.max_length
    if assembly.longest(scene.cfg.data) != length:
        return None  # a task has a limit of its own
    while length > 64 and not scene.fits(tokens=rows * length):
        length //= 2
    return length if length != scene.cfg.data.max_length and scene.fits(tokens=rows * length) else None


def _smaller_weights(scene: Scene) -> Iterator[tuple[str, str, Scene]]:
    """Overrides with which the weights take less, what each means, and what it makes of the plan."""
    if scene.cfg.quant is None and scene.cfg.peft is not None:
        yield "quant=4bit", "a frozen base in 4 bits", _in_4bit(scene)
    if scene.cfg.peft is None:
        yield "peft=lora", "an adapter in place of all weights", _with_lora(scene)


def _fits(scene: Scene) -> bool:
    """Whether a step fits; with `memory=auto`, with the smallest setting."""
    is_automatic = scene.cfg.memory.name == "auto" and not scene.cfg.gradient_checkpointing
    return any(scene.fits(name) for name in (scene.usable if is_automatic else [scene.memory]))


def _in_4bit(scene: Scene) -> Scene:
    """With `quant=4bit`; a layer saves the same."""
    work = scene.work
    cfg = _with(scene.cfg, "quant", _4BIT)
    return replace(scene, cfg=cfg, work=choices.workload_of(cfg, work.precision, work.config, tokens=work.tokens))


def _with_lora(scene: Scene) -> Scene:
    """With `peft=lora`."""
    return _scene(_with(scene.cfg, "peft", _LORA), scene.gpu)


def _with(cfg: Any, key: str, node: dict[str, Any]) -> Any:
    """The config with another node."""
    changed = cfg.copy()
    OmegaConf.update(changed, key, node, merge=False, force_add=True)
    return changed
