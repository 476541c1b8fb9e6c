"""The checks of the device: pretended GPUs and drivers, real arithmetic on whatever device there is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ftframe import device

torch = pytest.importorskip("torch")
H100, A100, T4 = (9, 0), (8, 0), (7, 5)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend a torch build, a driver and GPUs of some compute capabilities."""

    def machine(*, cuda: str | None, driver: str | None, gpus: tuple[tuple[int, int], ...] = ()) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(device, "nvidia_driver", lambda: driver)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: gpus[index])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU number {index}")
        monkeypatch.setattr(device, "product_error", lambda device, dtype: 0.0)

    return machine


INDEX = "--index-url https://download.pytorch.org/whl"


@pytest.mark.parametrize(
    ("cuda", "driver", "gpus", "state", "detail", "remedy"),
    [
        (None, None, (), "ok", "CPU build), no NVIDIA driver", ""),
        ("13.0", None, (), "ok", "CUDA 13.0 build), no NVIDIA driver", ""),
        (None, "580.65.06", (), "warn", "cannot use the GPU of NVIDIA driver 580.65.06", f"{INDEX}/cu130"),
        (None, "550.54", (), "warn", "CPU build", f"{INDEX}/cu126"),
        (None, "470.1", (), "warn", "driver 470.1", "install NVIDIA driver 580 or newer"),
        ("13.0", "550.54", (), "warn", "finds no GPU behind NVIDIA driver 550.54", f"{INDEX}/cu126"),
        ("13.0", "unknown", (), "warn", "driver unknown", "nvidia-smi"),
        ("13.0", "580.65", (H100, A100), "ok", "GPU number 0 (9.0), GPU number 1 (8.0)", ""),
    ],
)
def test_torch_build(
    cuda: str | None,
    driver: str | None,
    gpus: tuple[tuple[int, int], ...],
    state: str,
    detail: str,
    remedy: str,
    pretend: Callable[..., None],
) -> None:
    pretend(cuda=cuda, driver=driver, gpus=gpus)
    check = device.torch_build()
    assert check.state == state
    assert detail in check.detail
    assert remedy in check.remedy
    assert bool(check.remedy) == bool(remedy)


def test_torch_build_names_the_variable_that_hides_the_gpu(
    pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(cuda="13.0", driver="580.65")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.torch_build().remedy == "unset CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("CUDA error: no kernel image is available for execution on the device\nlong advice", f"{INDEX}/cu130"),
        ("CUDA error: out of memory", "nvidia-smi"),
    ],
)
def test_torch_build_fails_on_a_gpu_that_does_not_compute(
    message: str, remedy: str, pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: Any, dtype: Any) -> float:
        raise RuntimeError(message)

    pretend(cuda="13.0", driver="580.65", gpus=(H100,))
    monkeypatch.setattr(device, "product_error", fail)
    check = device.torch_build()
    assert check.state == "fail"
    assert message.partition("\n")[0] in check.detail
    assert "long advice" not in check.detail
    assert remedy in check.remedy


@pytest.mark.parametrize(
    ("driver", "remedy"),
    [
        (None, "pip install --force-reinstall 'torch>=2.10'"),
        ("550.54", f"pip install --force-reinstall {INDEX}/cu126 'torch>=2.10'"),
    ],
)
def test_torch_build_fails_without_torch(
    driver: str | None, remedy: str, pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(cuda=None, driver=driver)
    monkeypatch.setitem(sys.modules, "torch", None)
    check = device.torch_build()
    assert (check.state, check.remedy) == ("fail", remedy)
    assert "torch does not import: ModuleNotFoundError" in check.detail


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (SimpleNamespace(stdout="580.65.06\n580.65.06\n"), "580.65.06"),
        (SimpleNamespace(stdout=""), "unknown"),
        (FileNotFoundError("nvidia-smi"), None),
        (PermissionError("nvidia-smi"), "unknown"),
        (subprocess.TimeoutExpired("nvidia-smi", 20), "unknown"),
        (subprocess.CalledProcessError(9, "nvidia-smi"), "unknown"),
    ],
)
def test_nvidia_driver(answer: Any, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: Any) -> Any:
        assert command[0] == "nvidia-smi"
        assert options["timeout"]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(subprocess, "run", run)
    assert device.nvidia_driver() == expected


def test_bitsandbytes_really_computes() -> None:
    check = device.bitsandbytes()
    assert check.state == "ok", check.detail
    assert f"step on {device.target()}" in check.detail


def packed_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitsandbytes.functional.dequantize_4bit", lambda packed, state: torch.zeros(64, 64))


def multiplied_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitsandbytes.matmul_4bit", lambda batch, packed, quant_state: batch)


def multiplied_to_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitsandbytes.matmul_4bit", lambda batch, packed, quant_state: batch * float("nan"))


def stepped_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitsandbytes.optim.AdamW8bit.step", lambda optimizer: None)


def not_loadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError("libcudart.so.12: cannot open shared object file\nmore")

    monkeypatch.setattr("bitsandbytes.functional.quantize_4bit", fail)


@pytest.mark.parametrize(
    ("breakage", "detail"),
    [
        (packed_wrongly, "NF4 does not restore"),
        (multiplied_wrongly, "4-bit product differs"),
        (multiplied_to_nan, "4-bit product differs"),
        (stepped_wrongly, "8-bit AdamW step does not move"),
        (not_loadable, "OSError: libcudart.so.12: cannot open shared object file;"),
    ],
)
def test_bitsandbytes_warns_and_says_what_still_works(
    breakage: Callable[[pytest.MonkeyPatch], None], detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breakage(monkeypatch)
    check = device.bitsandbytes()
    assert check.state == "warn"
    assert detail in check.detail
    assert "QLoRA needs it, LoRA does not" in check.detail
    assert check.remedy.startswith("pip install --force-reinstall --no-deps 'bitsandbytes<")


def test_product_error_is_that_of_the_format() -> None:
    assert 0 <= device.product_error(device.target(), torch.float32) < 1e-4
    assert 1e-4 < device.product_error(device.target(), torch.bfloat16) < 0.02


def test_samples_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    device.sample(8)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("native", "state"), [(True, "ok"), (False, "warn")])
def test_bf16_on_a_gpu(native: bool, state: str, pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(cuda="13.0", driver="580.65", gpus=(A100,))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    check = device.bf16()
    assert check.state == state
    assert check.remedy == ("" if native else "ftframe fit trainer.precision=16-mixed")


@pytest.mark.parametrize(
    ("error", "capabilities", "state", "detail"),
    [
        (0.001, {"amx_bf16": True, "avx512_bf16": False}, "ok", "native on the CPU (amx_bf16)"),
        (0.001, {"avx2": True}, "ok", "works on the CPU, but slowly"),
        (0.5, {"amx_bf16": True}, "warn", "off by 50%"),
        (float("nan"), {}, "warn", "off by nan%"),
    ],
)
def test_bf16_on_the_cpu(
    error: float,
    capabilities: dict[str, bool],
    state: str,
    detail: str,
    pretend: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(cuda=None, driver=None)
    monkeypatch.setattr(device, "product_error", lambda device, dtype: error)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    check = device.bf16()
    assert check.state == state
    assert detail in check.detail


@pytest.mark.parametrize(
    ("gpus", "detail"),
    [
        ((), "no FP8 on the CPU"),
        ((T4,), "no FP8: compute capability 7.5"),
        ((H100, A100), "no FP8: compute capability 8.0"),
        ((H100,), "float8_e4m3fn, compute capability 9.0"),
        (((8, 9), (12, 0)), "float8_e4m3fn, compute capability 8.9"),
    ],
)
def test_fp8_is_told_but_never_a_fault(
    gpus: tuple[tuple[int, int], ...], detail: str, pretend: Callable[..., None]
) -> None:
    pretend(cuda="13.0", driver="580.65", gpus=gpus)
    check = device.fp8()
    assert (check.state, check.remedy) == ("ok", "")
    assert detail in check.detail


@pytest.mark.parametrize(
    ("host", "gpu", "state", "detail", "remedy"),
    [
        (16, 70, "ok", "host 16.0 of 32.0 GiB free, GPU 0 70.0 of 80.0 GiB free", ""),
        (1, 70, "warn", "little is free on host", "ps aux --sort=-rss | head"),
        (16, 1, "warn", "little is free on GPU 0", "nvidia-smi"),
        (16, None, "ok", "host 16.0 of 32.0 GiB free", ""),
    ],
)
def test_memory(
    host: int,
    gpu: int | None,
    state: str,
    detail: str,
    remedy: str,
    pretend: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(cuda="13.0", driver="580.65", gpus=(H100,) if gpu else ())
    free = SimpleNamespace(available=host * device.GIB, total=32 * device.GIB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: ((gpu or 0) * device.GIB, 80 * device.GIB))
    check = device.memory()
    assert (check.state, check.remedy) == (state, remedy)
    assert detail in check.detail
    assert ("GPU" in check.detail) == bool(gpu)
