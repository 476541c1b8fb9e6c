from typing import Any

import pytest
import torch

from ftframe.train import peak_memory as module
from ftframe.train.peak_memory import GIBIBYTE, TrainingPeak, peak_host_memory


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The peak of a GPU that there is not: set by the test, and forgotten at a reset."""
    peak = [0]
    monkeypatch.setattr(module, "_has_gpu", lambda: True)
    monkeypatch.setattr(module, "_peaks", lambda: (peak[0], 2 * peak[0]))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peak.__setitem__(0, 0))
    return peak


def test_training_is_apart_from_what_is_around_it(gpu: Any) -> None:
    peaks = TrainingPeak()
    gpu[0] = 9 * GIBIBYTE  # loading
    peaks.begin()
    gpu[0] = 4 * GIBIBYTE
    peaks.end()
    gpu[0] = 7 * GIBIBYTE  # a validation
    peaks.begin()
    gpu[0] = 5 * GIBIBYTE
    peaks.end()
    assert peaks.figures() == {
        "train_peak_gpu_gib": 5.0,
        "train_peak_gpu_reserved_gib": 10.0,
        "peak_gpu_gib": 9.0,
        "peak_gpu_reserved_gib": 18.0,
    }


def test_beginning_twice_forgets_nothing(gpu: Any) -> None:
    peaks = TrainingPeak()
    peaks.begin()
    gpu[0] = 3 * GIBIBYTE
    peaks.begin()
    peaks.end()
    assert peaks.figures()["train_peak_gpu_gib"] == 3.0


def test_without_a_gpu_there_is_the_host_alone() -> None:
    peaks = TrainingPeak()
    peaks.begin()
    peaks.end()
    assert peaks.figures() == {}
    held = peak_host_memory()["peak_host_gib"]
    assert held is not None and 0.01 < held < 1000
