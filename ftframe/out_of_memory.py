"""What to say when memory runs out: how much was taken, and which keys take less. Imports no heavy library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf

from ftframe.errors import OutOfMemoryError

GIBIBYTE = 2**30
_TELLTALES = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or a device ran out of memory; libraries say so in several ways."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(sign in str(error) for sign in _TELLTALES)


def explain_out_of_memory(error: BaseException, cfg: Any) -> OutOfMemoryError:
    """The error that a person can act on.

    Args:
        error: What a library raised.
        cfg: The composed config, whose keys are named with their present values.
    """
    keys = "\n".join(f"  {line}" for line in _remedies(cfg)) or "  a smaller model"
    first = str(error).strip().partition("\n")[0]
    return OutOfMemoryError(f"out of memory: {first}\n{_peak()}What takes less:\n{keys}")


def _remedies(cfg: Any) -> Iterator[str]:
    """A line for each key that is not yet at its least, the cheapest first."""

    def value(key: str) -> Any:
        return OmegaConf.select(cfg, key)

    if (value("data.batch_size") or 1) > 1:
        steps = value("trainer.accumulate_grad_batches") or 1
        yield (
            f"data.batch_size={value('data.batch_size') // 2} trainer.accumulate_grad_batches={2 * steps}"
            f"  (now {value('data.batch_size')} and {steps}; the same step in more parts)"
        )
    if value("gradient_checkpointing") is False and getattr(value("memory"), "name", None) in (
        "auto",
        "ample",
        "none",
        "budget",
    ):
        yield "memory=checkpoint  (computes activations twice in place of keeping them)"
    if value("optim") is not None and value("optim._target_") == "torch.optim.AdamW" and value("peft") is None:
        yield "optim=paged_adamw_8bit  (now torch.optim.AdamW, 8 bytes a parameter)"
    if "quant" in cfg and value("quant") is None:
        yield "peft=qlora  (a frozen base in 4 bits)"
    if value("data.max_length") is not None:
        yield f"data.max_length={value('data.max_length') // 2}  (now {value('data.max_length')} tokens)"
    for key in ("data.eval_batch_size", "batch_size"):
        if (value(key) or 1) > 1:
            yield f"{key}={value(key) // 2}  (now {value(key)}, in validation and answers)"


def _peak() -> str:
    """How much memory was held at most, on the device where one was used."""
    lines = []
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        lines.append(
            f"Peak on the GPU: {allocated / GIBIBYTE:.2f} GiB allocated, {reserved / GIBIBYTE:.2f} GiB reserved, of "
            f"{total / GIBIBYTE:.2f} GiB.\n"
        )
    try:
        import resource
    except ImportError:  # not a Unix
        return "".join(lines)
    unit = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIBIBYTE
    return "".join([*lines, f"Peak on the host: {host:.2f} GiB.\n"])
