"""How fast a training step is expected to be on a known GPU."""

from __future__ import annotations

from dataclasses import dataclass

from ftframe.gpus import Gpu
from ftframe.models.model_size import ModelSize

_EFFICIENCY = {True: 0.56, False: 0.42}
"""Share of the stated TFLOP/s that a whole step reaches on long rows, compiled and not."""

_FP8_GAIN = 1.33
"""Of a step whose frozen products are in FP8, where the rest stays as it is."""

_BANDWIDTH = 0.85
_HOST_SECONDS = {True: 0.0004, False: 0.0016}
"""What the host takes to start one layer's kernels, forward or backward, compiled and not."""

_PASSES = {"ample": 0.0, "none": 0.0, "budget": 0.4, "checkpoint": 1.0, "offload": 1.0}
"""Forward passes that are computed again."""


@dataclass(frozen=True)
class Step:
    """A micro-batch, as far as its time goes by it.

    Attributes:
        tokens: How many, padding included.
        length: Of its examples, in tokens.
        memory: One of `memory.SETTINGS`.
        compiles: Whether layers are compiled.
        fp8: Whether the base is in FP8.
        packed_bits: Whether the base's weights are unpacked before each product, unless memory is ample.
    """

    tokens: int
    length: int
    memory: str
    compiles: bool
    fp8: bool = False
    packed_bits: bool = False


def seconds(size: ModelSize, step: Step, gpu: Gpu) -> float:
    """Of one micro-batch's forward and backward pass.

    The slower one of the device and of the host that starts its work counts.

    Args:
        size: The model.
        step: The micro-batch.
        gpu: Where it runs.
    """
    again = _PASSES[step.memory]
    work = size.operations(step.tokens, float(step.tokens * step.length), passes=again)
    rate = gpu.tflops * 1e12 * _EFFICIENCY[step.compiles]
    if step.fp8 and gpu.fp8_tflops is not None:
        rate *= _FP8_GAIN
    device = work / rate
    if step.packed_bits and step.memory != "ample":
        unpacked = 2.0 * (size.frozen_products - size.vocabulary * size.hidden)
        device += (2 + again) * (size.quantised_bytes + unpacked) / (gpu.bandwidth * 1e9 * _BANDWIDTH)
    host = (2 + again) * size.layers * _HOST_SECONDS[step.compiles]
    return max(device, host)
