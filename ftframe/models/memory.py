"""What becomes of the activations between the forward and the backward pass."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from ftframe.errors import ConfigError
from ftframe.models.compilable_4bit import keep_unpacked
from ftframe.models.compiling import compile_layers, layers_of
from ftframe.models.fp8 import keep_turned
from ftframe.models.lora_stacks import keep_stacks_unpacked
from ftframe.models.probing import base_model

SETTINGS = ("ample", "none", "budget", "checkpoint", "offload")
"""From the fastest to the one that takes the least memory."""

COMPILED = ("ample", "budget")
"""Those that only compiled layers have."""

_RUNNING = 1
"""Copies to the host that may be under way: the next waits for the oldest, or else the device's memory would fill with
states whose copies are still waiting their turn."""


def arrange_memory(model: Any, setting: str, *, compiles: bool, share: float = 0.5) -> None:
    """Have a model keep, recompute or put aside its activations; the numbers stay the same.

    Args:
        model: A model of transformers, with or without an adapter.
        setting: `ample` keeps all of them, and quantised weights as they are multiplied, too; `none` keeps all of them;
            `budget` lets the compiler choose which to recompute; `checkpoint` keeps the input of each layer and
            recomputes the rest; `offload` does too, and keeps these inputs on the host.
        compiles: Whether layers are compiled; `ample` and `budget` need it.
        share: Of the activations that are kept with `budget`.

    Raises:
        ConfigError: If the model has no layers that could be computed again.
    """
    assert setting in SETTINGS and (compiles or setting not in COMPILED), setting
    torch._functorch.config.activation_memory_budget = share if setting == "budget" else 1.0
    if setting == "ample":
        keep_stacks_unpacked(model, base_model(model).get_decoder())
        keep_unpacked(model)
        keep_turned(model)
    if setting in ("checkpoint", "offload"):
        _recompute_layers(model, setting, compiles=compiles)
    elif compiles:
        compile_layers(model)


def _recompute_layers(model: Any, setting: str, *, compiles: bool) -> None:
    layers = layers_of(model)
    if not layers and (setting == "offload" or not model.supports_gradient_checkpointing):
        raise ConfigError(f"memory={setting}: {type(base_model(model)).__name__} has no layers that it could be for.")
    if not layers:  # of transformers' own; the model's code says how
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in layers:
        kind: type = type(layer)
        layer.__class__ = _recomputed(kind, setting == "offload")
    if compiles:
        compile_layers(model)


@cache
def _recomputed(kind: type, on_host: bool) -> type:
    """A layer of which only the input is kept, on the device or on the host, until its turn in the backward pass.

    Compiled as one with its checkpoint, what no gradient needs is not computed again.
    """

    class Recomputed(kind):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return super().forward(*args, **kwargs)
            contexts = _again if torch.compiler.is_compiling() else noop_context_fn
            forward = partial(kind.forward, self, **kwargs)  # type: ignore[attr-defined]
            return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            hidden = next(iter((*args, *kwargs.values())))
            with HostCopies(hidden) if on_host else nullcontext():
                return super().__call__(*args, **kwargs)

    Recomputed.__name__ = Recomputed.__qualname__ = kind.__name__
    return Recomputed


def _again() -> Any:
    """Contexts in which every operation is marked as one to be computed again.

    Without them, the compiler of torch 2.11 leaves out those within an `autograd.Function`, and keeps what they return.
    With them, it warns of operations in place in each model, whether there are any or not; transformers' layers, which
    are made to be computed again, have none.
    """
    logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)
    return create_selective_checkpoint_contexts(lambda *_, **__: CheckpointPolicy.MUST_RECOMPUTE)


class HostCopies(saved_tensors_hooks):
    """A tensor on a GPU goes to the host if it is saved for the backward pass, and comes back one ahead of its turn.

    `torch.autograd.graph.save_on_cpu` does so with every tensor, weights too, and has the device wait for each copy.
    """

    def __init__(self, tensor: Tensor) -> None:
        """One can be made for each block.

        Args:
            tensor: Others that are saved stay where they are.
        """
        storage = tensor.untyped_storage()._cdata

        def pack(saved: Tensor) -> Tensor | _Aside:
            return _put_aside(saved) if saved.untyped_storage()._cdata == storage else saved

        super().__init__(pack, lambda packed: _bring_back(packed) if isinstance(packed, _Aside) else packed)


class _Aside:
    """One tensor that was put aside.

    Attributes:
        host: The copy; on a CPU the tensor itself.
        device: Where it belongs.
        before: The one that was put aside before it, and will be asked for next.
        back: The tensor on the device again, once it was fetched.
    """

    def __init__(self, host: Tensor, device: torch.device, before: _Aside | None) -> None:
        self.host, self.device, self.before = host, device, before
        self.back: Tensor | None = None


class _Traffic:
    """Copies in both directions, beside what the device computes."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.running: deque[torch.cuda.Event] = deque()
        self.last: _Aside | None = None

    def put_aside(self, tensor: Tensor) -> _Aside:
        self.stream.wait_stream(torch.cuda.current_stream(tensor.device))
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        with torch.cuda.stream(self.stream):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self.stream)
        self.running.append(self.stream.record_event())
        if len(self.running) > _RUNNING:
            self.running.popleft().synchronize()
        self.last = _Aside(host, tensor.device, self.last)
        return self.last

    def bring_back(self, aside: _Aside) -> Tensor:
        self.last = None
        self.fetch(aside)
        current = torch.cuda.current_stream(aside.device)
        current.wait_stream(self.stream)
        tensor, aside.back = aside.back, None
        assert tensor is not None
        tensor.record_stream(current)
        if aside.before is not None:
            self.fetch(aside.before)
            aside.before = None
        return tensor

    def fetch(self, aside: _Aside) -> None:
        if aside.back is None:
            with torch.cuda.stream(self.stream):
                aside.back = aside.host.to(aside.device, non_blocking=True)


@cache
def _traffic(device: torch.device) -> _Traffic:
    return _Traffic(device)


def _put_aside(tensor: Tensor) -> _Aside:
    return _traffic(tensor.device).put_aside(tensor) if tensor.is_cuda else _Aside(tensor, tensor.device, None)


def _bring_back(aside: _Aside) -> Tensor:
    return _traffic(aside.device).bring_back(aside) if aside.device.type == "cuda" else aside.host
