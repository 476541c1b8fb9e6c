"""Overrides with which a run that does not fit a device would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from ftframe import assembly, choices
from ftframe.scene import Scene, scene_of

_LORA = {"_target_": "peft.LoraConfig", "task_type": "CAUSAL_LM", "r": 16, "target_modules": "all-linear"}
_4BIT = {
    "_target_": "transformers.BitsAndBytesConfig",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "auto",
}


def remedies(scene: Scene) -> list[str]:
    """What would do by itself, or else with another; empty if nothing would."""
    return list(_singles(scene)) or list(_pairs(scene))


def _singles(scene: Scene) -> Iterator[str]:
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
        yield from (f"{override} {second}" for second in _singles(changed))
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
    rows = scene.largest_batch(scene.memory, scene.gpu)
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
    return scene_of(_with(scene.cfg, "peft", _LORA), scene.gpu)


def _with(cfg: Any, key: str, node: dict[str, Any]) -> Any:
    """The config with another node."""
    changed = cfg.copy()
    OmegaConf.update(changed, key, node, merge=False, force_add=True)
    return changed
