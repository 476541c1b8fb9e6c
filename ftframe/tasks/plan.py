"""`ftframe plan`: what a run would take, before anything is downloaded or loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import OmegaConf

from ftframe import assembly, choices, console, nodes
from ftframe.engine import ROOM, Workload, choose_compile, choose_memory, plan_layout, workload
from ftframe.errors import ConfigError
from ftframe.gpus import GIBIBYTE, GPUS, Gpu, find_gpu, identify
from ftframe.models.base import is_local_model, load_config
from ftframe.models.footprint import Footprint, Layout, estimate, largest_micro_batch, with_memory
from ftframe.models.memory import SETTINGS
from ftframe.models.pace import Step, seconds
from ftframe.models.precision import Precision, resolve_precision
from ftframe.models.quantisation import build_quantisation

_PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "loss", "workspace")
_LORA = {"_target_": "peft.LoraConfig", "task_type": "CAUSAL_LM", "r": 16, "target_modules": "all-linear"}


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
    def capacity(self) -> float:
        """Bytes of the device that a plan may fill."""
        return self.gpu.memory * GIBIBYTE * ROOM

    def footprint(self, memory: str | None = None, *, rows: int | None = None) -> Footprint:
        """The footprint with another setting or another number of full rows."""
        layout = with_memory(self.layout, memory or self.memory)
        tokens = layout.tokens if rows is None else rows * self.cfg.data.max_length
        return estimate(self.work.size, replace(layout, tokens=tokens))

    def tokens_per_second(self, gpu: Gpu, memory: str) -> float:
        """Expected of a micro-batch of full rows."""
        quant = nodes.plain(self.cfg.quant) or {}
        step = Step(
            tokens=self.work.tokens,
            length=self.cfg.data.max_length,
            memory=memory,
            compiles=self.layout.compiles,
            fp8="load_in_fp8" in quant,
            packed_bits=bool(quant) and "load_in_fp8" not in quant,
        )
        return self.work.tokens / seconds(self.work.size, step, gpu)


def plan(cfg: Any) -> None:
    """Print what `fit` with the same overrides would take: memory by part, the largest micro-batch, tokens per second.

    Rows are taken to be full, `data.max_length` tokens each, and the device to be `gpu`.

    Raises:
        ConfigError: If the config cannot be run, or the model's activations cannot be counted.
    """
    assembly.check_nodes(cfg)
    scene = _scene(cfg)
    console.print_facts(list(_model_facts(scene)), title="Model")
    _print_memory(scene)
    console.print_facts(list(_run_facts(scene)), title="Run")
    _print_gpus(scene)
    if scene.footprint().total > scene.capacity:
        _print_remedies(scene)


def _scene(cfg: Any) -> Scene:
    gpu = _gpu(cfg.gpu)
    precision = _precision(cfg)
    spec = assembly.base_spec(cfg)
    if spec.config and not is_local_model(spec.path):
        spec = replace(spec, init="random")  # the shape is in the config group: nothing has to be asked for
    config = load_config(spec)
    work = choices.workload_of(cfg, precision, config, tokens=cfg.data.batch_size * cfg.data.max_length)
    compiles = choose_compile(
        cfg.model.compile,
        on_gpu=True,
        possible=True,
        deterministic=cfg.deterministic,
        parameters=work.size.parameters,
    )
    memory = choose_memory(cfg.memory.name, gradient_checkpointing=cfg.gradient_checkpointing, compiles=compiles)
    layout = plan_layout(
        work, compiles=compiles, chunks_loss=precision.compute_dtype != torch.float16, share=cfg.activation_budget
    )
    if layout is None:
        raise ConfigError(
            f"The activations of models of type '{config.model_type}' cannot be counted from their shape alone. "
            "`ftframe fit` with trainer.max_steps=2 measures them."
        )
    scene = Scene(cfg, work, layout, gpu, memory)
    return replace(scene, memory=_fastest(scene) if memory == "auto" else memory)


def _gpu(name: str | None) -> Gpu:
    """The GPU to plan for: the one that is named, this machine's, or else an H100."""
    if name is not None:
        return find_gpu(name)
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / GIBIBYTE
        found = identify(torch.cuda.get_device_name(), memory)
        if found is not None:
            return replace(found, memory=memory)
    return GPUS["H100"]


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


def _usable(scene: Scene) -> list[str]:
    return [name for name in SETTINGS if scene.layout.compiles or name != "budget"]


def _fastest(scene: Scene) -> str:
    """The first setting that fits; if none does, the smallest."""
    usable = _usable(scene)
    return next((name for name in usable if scene.footprint(name).total <= scene.capacity), usable[-1])


def _model_facts(scene: Scene) -> Iterator[tuple[str, Any]]:
    size = scene.work.size
    yield "parameters", f"{size.parameters:,}"
    yield "trained", f"{size.trained:,} ({size.trained / (size.parameters + size.trained):.2%})"
    yield "layers, hidden, vocabulary", f"{size.layers}, {size.hidden}, {size.vocabulary}"
    yield "planned for", f"{scene.gpu.name}, {scene.gpu.memory:.1f} GiB, model.compile={scene.layout.compiles}".lower()


def _print_memory(scene: Scene) -> None:
    """The peak by part, for each setting of `memory`."""
    usable = _usable(scene)
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
    capacity = gpu.memory * GIBIBYTE * ROOM
    return largest_micro_batch(lambda rows: scene.footprint(memory, rows=rows).total, capacity)


def _run_facts(scene: Scene) -> Iterator[tuple[str, Any]]:
    """Tokens, time and disk of the whole run."""
    cfg, size = scene.cfg, scene.work.size
    per_step = scene.work.tokens * cfg.trainer.accumulate_grad_batches
    speed = scene.tokens_per_second(scene.gpu, scene.memory)
    yield "tokens per optimizer step", f"{per_step:,} (full rows, one device)"
    if cfg.trainer.max_steps > 0:
        yield "tokens of the run", f"{per_step * cfg.trainer.max_steps:,}"
        yield "hours of training", f"{per_step * cfg.trainer.max_steps / speed / 3600:.2f}"
    else:
        yield "hours per million tokens", f"{1e6 / speed / 3600:.3f}"
    saved = size.trained_bytes + 2 * 4 * size.trained
    kept = (cfg.checkpoint.keep + cfg.checkpoint.save_best) if cfg.checkpoint.every_n_steps else 0
    adapter, checkpoints = size.trained_bytes / GIBIBYTE, kept * saved / GIBIBYTE
    yield "disk, GiB", f"{adapter:.2f} for what is trained, {checkpoints:.2f} for {kept} checkpoints"
    if cfg.model.init.value == "pretrained" and not is_local_model(cfg.model.path):
        yield "download, GiB", f"about {2 * size.parameters / GIBIBYTE:.1f}"


def _print_gpus(scene: Scene) -> None:
    """What the run would be on every GPU that is known."""
    rows = []
    for gpu in GPUS.values():
        settings = [name for name in _usable(scene) if _largest(scene, name, gpu) >= scene.cfg.data.batch_size]
        if settings:
            speed = f"{scene.tokens_per_second(gpu, settings[0]):,.0f}"
            rows.append((gpu.name, settings[0], f"{_largest(scene, settings[0], gpu):,}", speed))
        else:
            rows.append((gpu.name, "too small", f"{_largest(scene, _usable(scene)[-1], gpu):,}", "-"))
    header = ("GPU", "memory=", "largest data.batch_size", "tokens per second")
    console.print_table(header, rows, title="On other GPUs, with memory=auto")


def _print_remedies(scene: Scene) -> None:
    """Overrides with which it would fit."""
    console.print_line(
        f"This does not fit: {scene.footprint().total / GIBIBYTE:.1f} GiB of {scene.gpu.memory:.1f}. What would:"
    )
    found = list(_remedies(scene))
    for line in found or ["a smaller model, a larger GPU, or several (trainer.devices)"]:
        console.print_line(f"  {line}")


def _remedies(scene: Scene) -> Iterator[str]:
    for name in _usable(scene):
        if scene.footprint(name).total <= scene.capacity:
            plain_word = " gradient_checkpointing=false" if scene.cfg.gradient_checkpointing else ""
            yield f"memory={name}{plain_word}"
            break
    rows = _largest(scene, scene.memory, scene.gpu)
    if rows:
        yield f"data.batch_size={rows}"
    length = scene.cfg.data.max_length
    while length > 64 and estimate_of_length(scene, length) > scene.capacity:
        length //= 2
    if length != scene.cfg.data.max_length and estimate_of_length(scene, length) <= scene.capacity:
        yield f"data.max_length={length}"
    if scene.cfg.quant is None and scene.cfg.peft is not None and _fits(_in_4bit(scene)):
        yield "quant=4bit  (a frozen base in 4 bits)"
    if scene.cfg.peft is None and _fits(_with_lora(scene)):
        yield "peft=lora  (an adapter in place of all weights)"


def _fits(scene: Scene) -> bool:
    """Whether a step fits; with `memory=auto`, with the smallest setting."""
    return any(scene.footprint(name).total <= scene.capacity for name in _settings(scene))


def _settings(scene: Scene) -> list[str]:
    asked = scene.cfg.memory.name
    return _usable(scene) if asked == "auto" and not scene.cfg.gradient_checkpointing else [scene.memory]


def _in_4bit(scene: Scene) -> Scene:
    """With `quant=4bit`; a layer saves the same."""
    work = scene.work
    quant = build_quantisation({"load_in_4bit": True, "bnb_4bit_use_double_quant": True})
    changed = workload(
        work.config,
        work.peft_config,
        quant,
        work.precision,
        tokens=work.tokens,
        optimizer=work.optimizer,
        trust_remote_code=work.trust_remote_code,
    )
    return replace(scene, work=changed)


def _with_lora(scene: Scene) -> Scene:
    """With `peft=lora`."""
    cfg = scene.cfg.copy()
    OmegaConf.update(cfg, "peft", _LORA, merge=False, force_add=True)
    return _scene(cfg)


def estimate_of_length(scene: Scene, length: int) -> float:
    """The peak in bytes with rows of another length."""
    layout = with_memory(scene.layout, scene.memory)
    return estimate(scene.work.size, replace(layout, tokens=scene.cfg.data.batch_size * length)).total
