"""`ftframe plan`: what a run would take, before anything is downloaded or loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ftframe import assembly, choices, console, nodes
from ftframe.gpus import GIBIBYTE, GPUS, Gpu, find_gpu, stand_in
from ftframe.models.base import is_local_model
from ftframe.remedies import remedies
from ftframe.scene import Scene, scene_of

_PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "loss", "workspace")


def plan(cfg: Any) -> None:
    """Print what `fit` with the same overrides would take: memory by part, the largest micro-batch, tokens per second.

    Rows are taken to be full, `data.max_length` tokens each or the most of a task's own, and the device to be `gpu`.

    Raises:
        ConfigError: If the config cannot be run, or the model's activations cannot be counted.
    """
    assembly.check_nodes(cfg)
    choices.check_engine(cfg, on_gpu=True, possible=True)
    scene = scene_of(cfg, _gpu(cfg.gpu))
    assembly.check_length(cfg, scene.work.config)
    console.print_facts(list(_model_facts(scene)), title="Model")
    _print_memory(scene)
    console.print_facts(list(_run_facts(scene)), title="Run")
    _print_gpus(scene)
    if not scene.fits():
        _print_remedies(scene)


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
    rows.append(("largest data.batch_size", *(f"{scene.largest_batch(name, scene.gpu):,}" for name in usable)))
    speeds = (f"{scene.tokens_per_second(scene.gpu, name):,.0f}" for name in usable)
    rows.append(("tokens per second", *speeds))
    console.print_table(header, rows, title=f"Memory with data.batch_size={scene.cfg.data.batch_size}, by memory=")


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
        if scene.is_fp8 and gpu.fp8_tflops is None:
            rows.append((gpu.name, "no FP8", "-", "-"))
            continue
        largest = {name: scene.largest_batch(name, gpu) for name in scene.usable}
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
    for line in remedies(scene) or ["a smaller model, or a larger GPU"]:
        console.print_line(f"  {line}")
