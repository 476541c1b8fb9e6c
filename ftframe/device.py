"""Try what training asks of this machine's device: torch, bitsandbytes, bf16, FP8 and memory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ftframe.installation import Check, pip_install, reason

if TYPE_CHECKING:
    import torch

GIB = 2**30
LOW_MEMORY = 2 * GIB

# The oldest driver branch that runs each wheel. Source: NVIDIA, "CUDA Compatibility", minor version compatibility.
CUDA_WHEELS = ((580, "cu130"), (525, "cu126"))
WHEELS = "https://download.pytorch.org/whl"

# Names in torch.cpu.get_capabilities() of x86 and Arm processors that multiply bf16 in hardware.
CPU_BF16 = ("amx_bf16", "avx512_bf16", "bf16")


def torch_build() -> Check:
    """Whether torch imports, and computes on every GPU that the driver offers."""
    driver = nvidia_driver()
    try:
        import torch
    except Exception as error:  # missing, or a native library of it does not load
        remedy = cuda_install(driver) if driver else pip_install("torch", options="--force-reinstall")
        return Check("torch build", "fail", f"torch does not import: {reason(error)}", remedy)
    kind = (
        f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {hip}" if (hip := torch.version.hip) else "CPU"
    )
    build = f"{torch.__version__} ({kind} build)"
    if torch.cuda.is_available():
        return gpus(build, driver)
    if driver is None:
        return Check("torch build", "ok", f"{build}, no NVIDIA driver: training runs on the CPU")
    if torch.version.cuda is None:
        return Check(
            "torch build", "warn", f"{build} cannot use the GPU of NVIDIA driver {driver}", cuda_install(driver)
        )
    detail = f"{build} finds no GPU behind NVIDIA driver {driver}"
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return Check("torch build", "warn", f"{detail}: CUDA_VISIBLE_DEVICES hides it", "unset CUDA_VISIBLE_DEVICES")
    return Check("torch build", "warn", detail, "nvidia-smi" if driver == "unknown" else cuda_install(driver))


def gpus(build: str, driver: str | None) -> Check:
    """Compute on each GPU: a wheel without kernels for it is found only then."""
    import torch

    shown = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        shown.append(f"{torch.cuda.get_device_name(index)} ({major}.{minor})")
        try:
            product_error(torch.device("cuda", index), torch.float32)
        except RuntimeError as error:
            remedy = "nvidia-smi" if "out of memory" in str(error) else cuda_install(driver)
            return Check("torch build", "fail", f"{build} does not compute on {shown[-1]}: {reason(error)}", remedy)
    return Check("torch build", "ok", f"{build}, driver {driver or 'unknown'}, {', '.join(shown)}")


def nvidia_driver() -> str | None:
    """The version of the NVIDIA driver, `unknown` where it does not answer, None where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except FileNotFoundError:
        return None
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return next(iter(answer.stdout.split()), "unknown")


def cuda_install(driver: str | None) -> str:
    """The command that installs a torch which this driver runs."""
    branch = int(driver.partition(".")[0]) if driver and driver[0].isdigit() else CUDA_WHEELS[0][0]
    for oldest, wheel in CUDA_WHEELS:
        if branch >= oldest:
            return pip_install("torch", options=f"--force-reinstall --index-url {WHEELS}/{wheel}")
    return f"install NVIDIA driver {CUDA_WHEELS[0][0]} or newer: https://www.nvidia.com/drivers"


def target() -> torch.device:
    """The device that training would use."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sample(rows: int) -> torch.Tensor:
    """Normal numbers on the target device, [rows, 64]; the global generator is left alone."""
    import torch

    return torch.randn(rows, 64, generator=torch.Generator().manual_seed(rows)).to(target())


def product_error(device: torch.device, dtype: torch.dtype) -> float:
    """The error of a matrix product on a device, relative to the product in 64 bits on the CPU."""
    left, right = sample(32).cpu(), sample(64).cpu()
    exact = left.double() @ right.double()
    found = (left.to(device, dtype) @ right.to(device, dtype)).cpu().double()
    return float((found - exact).norm() / exact.norm())


def bitsandbytes() -> Check:
    """A 4-bit product and an 8-bit optimizer step. Without them LoRA still trains, so this never fails."""
    remedy = pip_install("bitsandbytes", options="--force-reinstall --no-deps")
    try:
        import bitsandbytes as library

        trouble = nf4_trouble() or adamw_trouble()
    except Exception as error:  # a native library that does not load raises anything
        return Check("bitsandbytes", "warn", f"{reason(error)}; QLoRA needs it, LoRA does not", remedy)
    if trouble:
        return Check("bitsandbytes", "warn", f"{trouble}; QLoRA needs it, LoRA does not", remedy)
    detail = f"{library.__version__}, 4-bit NF4 product and 8-bit AdamW step on {target()}"
    return Check("bitsandbytes", "ok", detail)


def nf4_trouble() -> str:
    """What is wrong with 4-bit weights here, or an empty string."""
    from bitsandbytes import functional, matmul_4bit

    weight, batch = sample(64), sample(8)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4")
    restored = functional.dequantize_4bit(packed, state)
    product = matmul_4bit(batch, packed.t(), quant_state=state)
    # NF4 moves normal numbers by 0.07 on average. Source: QLoRA, arXiv 2305.14314, section 3.
    if not float((restored - weight).abs().mean()) < 0.15:
        return "NF4 does not restore what it packed"
    if not float((product - batch @ restored.t()).norm() / product.norm()) < 0.02:
        return "the 4-bit product differs from the product with the restored weight"
    return ""


def adamw_trouble() -> str:
    """What is wrong with the 8-bit optimizer here, or an empty string."""
    import torch
    from bitsandbytes.optim import AdamW8bit

    weight = torch.nn.Parameter(sample(64))
    before = weight.detach().clone()
    weight.grad = torch.ones_like(weight)
    AdamW8bit([weight], lr=0.1, weight_decay=0.0, min_8bit_size=1).step()
    # The first step of Adam is the learning rate, against the sign of the gradient.
    moved = (before - weight.detach() - 0.1).abs().max()
    return "" if float(moved) < 0.01 else "an 8-bit AdamW step does not move the weights by the learning rate"


def bf16() -> Check:
    """Whether the device multiplies in bf16, and natively."""
    import torch

    device = target()
    wrong = product_error(device, torch.bfloat16)
    if not wrong < 0.02:
        remedy = "ftframe fit trainer.precision=32-true"
        return Check("bf16", "warn", f"a bf16 product on {device} is off by {wrong:.0%}", remedy)
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Check("bf16", "ok", "native on the GPU")
        return Check("bf16", "warn", "only emulated on this GPU", "ftframe fit trainer.precision=16-mixed")
    capabilities: Mapping[str, object] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # newer than the torch that ftframe needs
    native = [name for name in CPU_BF16 if capabilities.get(name)]
    return Check("bf16", "ok", f"native on the CPU ({', '.join(native)})" if native else "works on the CPU, but slowly")


def fp8() -> Check:
    """Whether the device has FP8. Few do and nothing needs it, so its absence is no fault."""
    import torch

    if not torch.cuda.is_available():
        return Check("fp8", "ok", "no FP8 on the CPU; quant=fp8 needs a GPU")
    capability = min(torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count()))
    shown = ".".join(str(part) for part in capability)
    if capability < (8, 9):
        return Check("fp8", "ok", f"no FP8: compute capability {shown}, 8.9 is needed")
    if not hasattr(torch, "float8_e4m3fn"):
        return Check(
            "fp8", "warn", "the GPU has FP8, torch has no float8_e4m3fn", pip_install("torch", options="--upgrade")
        )
    return Check("fp8", "ok", f"float8_e4m3fn, compute capability {shown}")


def memory() -> Check:
    """Free memory of the host and of each GPU."""
    import psutil
    import torch

    host = psutil.virtual_memory()
    pools = {"host": (host.available, host.total)}
    if torch.cuda.is_available():
        pools |= {f"GPU {index}": torch.cuda.mem_get_info(index) for index in range(torch.cuda.device_count())}
    detail = ", ".join(
        f"{name} {free / GIB:.1f} of {total / GIB:.1f} GiB free" for name, (free, total) in pools.items()
    )
    short = [name for name, (free, _) in pools.items() if free < LOW_MEMORY]
    if not short:
        return Check("memory", "ok", detail)
    remedy = "ps aux --sort=-rss | head" if "host" in short else "nvidia-smi"
    return Check("memory", "warn", f"{detail}: little is free on {', '.join(short)}", remedy)
