"""GPUs that people train on: memory, arithmetic and bandwidth, as their vendors state them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ftframe.errors import ConfigError, did_you_mean

GIBIBYTE = 2**30


@dataclass(frozen=True)
class Gpu:
    """One device.

    Attributes:
        name: What it is called.
        memory: What programs can have of its memory, in GiB.
        tflops: Dense matrix products in bfloat16 with float32 sums, TFLOP/s.
        fp8_tflops: The same in FP8; None where it has none.
        bandwidth: Of its memory, in GB/s.
    """

    name: str
    memory: float
    tflops: float
    fp8_tflops: float | None
    bandwidth: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("B200", 178.0, 2250.0, 4500.0, 8000.0),
        Gpu("H200", 139.8, 989.0, 1979.0, 4800.0),
        Gpu("H100", 79.1, 989.0, 1979.0, 3350.0),
        Gpu("H100 PCIe", 79.1, 756.0, 1513.0, 2000.0),
        Gpu("A100 80GB", 79.1, 312.0, None, 2000.0),
        Gpu("A100 40GB", 39.4, 312.0, None, 1555.0),
        Gpu("L40S", 44.4, 362.0, 733.0, 864.0),
        Gpu("A40", 44.4, 150.0, None, 696.0),
        Gpu("L4", 22.0, 121.0, 242.0, 300.0),
        Gpu("A10G", 22.0, 70.0, None, 600.0),
        Gpu("RTX 4090", 23.5, 165.0, 330.0, 1008.0),
        Gpu("RTX 3090", 23.6, 71.0, None, 936.0),
    )
}


def find_gpu(name: str) -> Gpu:
    """A GPU by its name in this table.

    Raises:
        ConfigError: If it has none of that name.
    """
    for known, gpu in GPUS.items():
        if known.lower() == name.lower():
            return gpu
    raise ConfigError(f"gpu={name} is unknown.{did_you_mean(name, GPUS)}\nKnown: {', '.join(GPUS)}.")


def stand_in(device_name: str, memory: float, *, has_fp8: bool) -> tuple[Gpu, str]:
    """A device that is none of this table, as fast as the one whose memory is nearest, and the name of that one.

    Args:
        device_name: As `torch.cuda.get_device_name` gives it.
        memory: Its memory in GiB.
        has_fp8: Whether it multiplies in FP8.
    """
    nearest = min(GPUS.values(), key=lambda gpu: abs(gpu.memory - memory))
    fp8_tflops = 2 * nearest.tflops if has_fp8 else None
    return replace(nearest, name=device_name, memory=memory, fp8_tflops=fp8_tflops), nearest.name


def identify(device_name: str, memory: float) -> Gpu | None:
    """The GPU that a driver names, or None if it is none of this table.

    Args:
        device_name: As `torch.cuda.get_device_name` gives it.
        memory: Its memory in GiB, which tells variants of one name apart.
    """
    words = device_name.lower()
    found = [gpu for gpu in GPUS.values() if gpu.name.lower().split()[0] in re.split(r"[\W_]+", words)]
    if "rtx" in words:
        found = [gpu for gpu in found if gpu.name.split()[-1] in words]
    if "pcie" in words:
        found = [gpu for gpu in found if "PCIe" in gpu.name] or found
    return min(found, key=lambda gpu: abs(gpu.memory - memory), default=None)
