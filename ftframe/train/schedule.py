"""How many optimizer steps a run takes, and the learning rate's course over them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from transformers import get_scheduler
from transformers.trainer_utils import SchedulerType

from ftframe.errors import ConfigError, did_you_mean


def total_optimizer_steps(
    batches: int,
    *,
    max_epochs: int | None,
    max_steps: int,
    accumulate_grad_batches: int = 1,
    limit_train_batches: int | float | None = None,
) -> int:
    """Optimizer steps of the whole run.

    Lightning's own `estimated_stepping_batches` is not asked: reading it loses the dataloader's position on resume.
    Source: https://github.com/Lightning-AI/pytorch-lightning/issues/20550

    Args:
        batches: Micro-batches of one epoch on one rank.
        max_epochs: Lightning's flag; None or -1 for no bound.
        max_steps: Lightning's flag; -1 for no bound.
        accumulate_grad_batches: Micro-batches of one optimizer step; the last step of an epoch may have fewer.
        limit_train_batches: Lightning's flag: a count, or a share if it is a float.

    Raises:
        ConfigError: If neither bound is set.
    """
    if isinstance(limit_train_batches, float):
        batches = int(batches * limit_train_batches)
    elif limit_train_batches is not None:
        batches = min(batches, limit_train_batches)
    bounds = []
    if max_epochs is not None and max_epochs >= 0:
        bounds.append(math.ceil(batches / accumulate_grad_batches) * max_epochs)
    if max_steps >= 0:
        bounds.append(max_steps)
    if not bounds:
        raise ConfigError("The run has no end: set trainer.max_epochs or trainer.max_steps.")
    return min(bounds)


def build_scheduler(
    optimizer: Optimizer, *, name: str, warmup_ratio: float, total_steps: int, specific: Mapping[str, Any]
) -> Any:
    """A schedule of transformers by name, one step per optimizer step.

    Args:
        optimizer: Whose learning rate follows the schedule.
        name: A name of `transformers.get_scheduler`.
        warmup_ratio: Share of all steps over which the rate rises from 0, rounded up to whole steps.
        total_steps: Optimizer steps of the run.
        specific: `scheduler_specific_kwargs`.
    """
    warmup = math.ceil(total_steps * warmup_ratio)
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=total_steps,
        scheduler_specific_kwargs=dict(specific),
    )


def check_scheduler(name: str, warmup_ratio: float) -> None:
    """Refuse a schedule that `build_scheduler` could not build.

    Raises:
        ConfigError: If the name is unknown or the ratio is no share.
    """
    allowed = [kind.value for kind in SchedulerType]
    if name not in allowed:
        raise ConfigError(
            f"Unknown scheduler.name={name}.{did_you_mean(name, allowed)}\nAllowed: {', '.join(allowed)}."
        )
    if not 0.0 <= warmup_ratio <= 1.0:
        raise ConfigError(f"scheduler.warmup_ratio={warmup_ratio} is no share of the run: give 0 to 1.")
