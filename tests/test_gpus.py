import pytest

from ftframe.errors import ConfigError
from ftframe.gpus import GPUS, find_gpu, identify, stand_in


@pytest.mark.parametrize("name", ["H100", "h100", "RTX 4090", "rtx 4090", "A100 40gb"])
def test_a_name_is_found_whatever_its_case(name):
    assert find_gpu(name).name.lower() == name.lower()


@pytest.mark.parametrize(
    ("name", "hint"),
    [("H1000", "H100"), ("RTX4090", "RTX 4090"), ("A100 80", "A100 80GB"), ("L40", "L40S")],
)
def test_a_typo_gives_a_hint_and_the_names_that_are_known(name, hint):
    with pytest.raises(ConfigError) as refused:
        find_gpu(name)
    assert f"gpu={name} is unknown. Did you mean '{hint}'?" in str(refused.value)
    assert all(known in str(refused.value) for known in GPUS)


IDENTIFIED = [
    ("NVIDIA H100 80GB HBM3", 79.1, "H100"),
    ("NVIDIA H100 PCIe", 79.1, "H100 PCIe"),
    ("NVIDIA H200", 139.8, "H200"),
    ("NVIDIA B200", 178.4, "B200"),
    ("NVIDIA A100-SXM4-40GB", 39.4, "A100 40GB"),
    ("NVIDIA A100-SXM4-80GB", 79.2, "A100 80GB"),
    ("NVIDIA A100-PCIE-40GB", 39.4, "A100 40GB"),
    ("NVIDIA A40", 44.4, "A40"),
    ("NVIDIA L4", 22.0, "L4"),
    ("NVIDIA L40S", 44.4, "L40S"),
    ("NVIDIA A10G", 22.0, "A10G"),
    ("NVIDIA GeForce RTX 4090", 23.5, "RTX 4090"),
    ("NVIDIA GeForce RTX 3090", 23.6, "RTX 3090"),
]


@pytest.mark.parametrize(("device", "memory", "name"), IDENTIFIED, ids=[device for device, _, _ in IDENTIFIED])
def test_a_driver_names_one_of_the_table(device, memory, name):
    assert identify(device, memory) is GPUS[name]


@pytest.mark.parametrize(
    "device",
    ["Tesla T4", "NVIDIA L40", "NVIDIA A10", "NVIDIA RTX A4000", "NVIDIA GeForce RTX 3060", "AMD Instinct MI300X", ""],
)
def test_others_are_not_taken_for_one_of_the_table(device):
    assert identify(device, 16.0) is None


@pytest.mark.parametrize(
    ("memory", "has_fp8", "like"),
    [(14.6, False, "L4"), (35.0, True, "A100 40GB"), (191.5, True, "B200")],
    ids=["small", "between", "large"],
)
def test_one_that_is_not_in_the_table_has_its_own_memory_and_the_speed_of_the_nearest(memory, has_fp8, like):
    gpu, name = stand_in("Mine", memory, has_fp8=has_fp8)
    known = GPUS[like]
    assert (gpu.name, gpu.memory, name) == ("Mine", memory, like)
    assert (gpu.tflops, gpu.bandwidth) == (known.tflops, known.bandwidth)
    assert gpu.fp8_tflops == (2 * known.tflops if has_fp8 else None)


def test_figures_are_in_the_units_that_they_say():
    for gpu in GPUS.values():
        assert 16 < gpu.memory < 200, gpu.name
        assert 50 < gpu.tflops < 3000, gpu.name
        assert 200 < gpu.bandwidth < 10_000, gpu.name
        assert gpu.fp8_tflops is None or gpu.fp8_tflops == pytest.approx(2 * gpu.tflops, rel=0.02), gpu.name
