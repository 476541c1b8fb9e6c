"""Asking a model as built a question, without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn


def base_model(model: Any) -> Any:
    """The model of transformers within an adapter, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def in_eval_mode(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Every part in eval mode for a while, then each in the mode that it was in, and the random state too."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), eagerly():
            yield
    finally:
        for module in training:
            module.training = True


def eagerly() -> AbstractContextManager[None]:
    """A context in which compiled layers run as they were written: lengths that vary are not worth compiling for."""
    context: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return context
