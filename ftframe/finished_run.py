"""The base model of a finished run, for the commands that use one."""

from __future__ import annotations

import logging
from typing import Any

from ftframe.choices import on_gpu
from ftframe.console import print_line
from ftframe.models.artifact import check_base
from ftframe.models.base import BaseSpec
from ftframe.models.record import Record

logger = logging.getLogger(__name__)


def base_of(cfg: Any, record: Record, *, accelerator: str) -> BaseSpec:
    """The base model that an adapter is to be put on, once it is known to be the one of the training.

    Args:
        cfg: The command's config: `base`, `trust_remote_code` and `allow_base_mismatch` are read.
        record: What stands beside the adapter.
        accelerator: Lightning's flag.

    Raises:
        ConfigError: If it cannot be found, or is another base and `allow_base_mismatch` is false.
    """
    base = record.base_spec(path=cfg.base, trust_remote_code=cfg.trust_remote_code)
    device_type = "cuda" if on_gpu(accelerator) else "cpu"
    warning = check_base(record, base, device_type=device_type, allow_mismatch=cfg.allow_base_mismatch)
    if warning:
        logger.warning(warning)
        print_line(f"Warning: {warning}")
    return base
