"""Compiling a model layer by layer: they are alike, so one graph serves all; the whole model would take minutes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo.exc
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ftframe.models.probing import base_model

BACKEND = "inductor"

_RECOMPILES = 64
"""Of one layer's code: for rows of one length and of any, with and without a mask, and whatever differs by layer."""


def layers_of(model: nn.Module) -> list[Any]:
    """The decoder's layers; empty for a model that is not made of transformers' own."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def compile_layers(model: Any) -> None:
    """Have each layer, and the norm behind the last, compiled as a whole when it is first called.

    What cannot be compiled as a whole raises there.

    Args:
        model: Any model of transformers, with or without an adapter.
    """
    _allow_variants()
    layers = layers_of(model)
    norms = [getattr(base_model(model).get_decoder(), "norm", None)] if layers else []
    for part in filter(None, [*layers, *norms]):
        part.compile(backend=BACKEND, fullgraph=True)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, compiled as a whole when it is first called."""
    _allow_variants()
    return torch.compile(function, backend=BACKEND, fullgraph=True)


COMPILER_ERRORS = (torch._dynamo.exc.TorchDynamoException,)
"""What the compiler raises for code that it cannot take, and without the tools that it needs."""


def give_up_compiling() -> None:
    """From now on, whatever was to be compiled runs as it was written."""
    torch.compiler.set_stance("force_eager")


def _allow_variants() -> None:
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _RECOMPILES)
