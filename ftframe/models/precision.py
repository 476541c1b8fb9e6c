"""Which number types a run uses."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ftframe.errors import ConfigError, did_you_mean

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_COMPUTE = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True, slots=True)
class Precision:
    """How a run computes.

    Attributes:
        trainer: Value of Lightning's `precision` flag.
        base_dtype: Type of the base model's weights.
        adapters_in_float32: Whether adapters keep float32 weights over a 16-bit base.
    """

    trainer: str
    base_dtype: torch.dtype
    adapters_in_float32: bool = True

    @property
    def compute_dtype(self) -> torch.dtype:
        """The type that matrices are multiplied in: autocast's, or else the weights'."""
        return _COMPUTE[self.trainer] if self.trainer.endswith("mixed") else self.base_dtype

    def forward_context(self, device: torch.device) -> AbstractContextManager[Any]:
        """What Lightning runs a forward pass in."""
        mixed = self.trainer.endswith("mixed")
        return torch.autocast(device.type, dtype=self.compute_dtype) if mixed else nullcontext()


def resolve_precision(
    precision: str, dtype: str, *, trains_base: bool, on_gpu: bool, plain_lora: bool = False
) -> Precision:
    """Types for a run, from `trainer.precision` and `model.dtype`.

    With mixed precision a frozen base is kept in the 16-bit type, and a base that trains in float32, since its weights
    are then the master copy. Plain LoRA over a base in bfloat16 needs no autocast for `bf16-mixed`: its float32 weights
    are rounded where they are multiplied (`adapter_compute`), and all else is bfloat16 already. `bf16-true` builds
    everything in bfloat16; Lightning is told `32-true`, because its own conversion would also round the rotary
    embedding's frequencies.

    Raises:
        ConfigError: If a name is unknown or the device cannot compute in that type.
    """
    if precision not in PRECISIONS:
        raise ConfigError(
            f"Unknown trainer.precision={precision}.{did_you_mean(precision, PRECISIONS)}\n"
            f"Allowed: {', '.join(PRECISIONS)}."
        )
    if dtype != "auto" and dtype not in DTYPES:
        raise ConfigError(
            f"Unknown model.dtype={dtype}.{did_you_mean(dtype, DTYPES)}\nAllowed: auto, {', '.join(DTYPES)}."
        )
    if precision == "auto":
        precision = _best_precision(on_gpu)
    if precision == "16-mixed" and not on_gpu:
        raise ConfigError("trainer.precision=16-mixed needs a GPU. Use 32-true or bf16-mixed on a CPU.")
    if precision == "bf16-true":
        return Precision("32-true", DTYPES.get(dtype, torch.bfloat16), adapters_in_float32=False)
    automatic = torch.float32 if trains_base else _COMPUTE[precision]
    base_dtype = DTYPES.get(dtype, automatic)
    if precision == "bf16-mixed" and plain_lora and base_dtype == torch.bfloat16:
        return Precision("32-true", base_dtype)
    return Precision(precision, base_dtype)


def _best_precision(on_gpu: bool) -> str:
    if not on_gpu:
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
