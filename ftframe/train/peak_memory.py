"""The most memory that a process has held."""

from __future__ import annotations

import resource
import sys

import torch

from ftframe.gpus import GIBIBYTE


class TrainingPeak:
    """The most memory on this process's GPU in training steps, apart from loading, validation and answers."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.allocated = 0
        self.reserved = 0
        self._outside = (0, 0)
        self._is_training = False

    def begin(self) -> None:
        """From now on memory counts."""
        if _has_gpu() and not self._is_training:
            self._outside = _larger(self._outside, _peaks())
            torch.cuda.reset_peak_memory_stats()
        self._is_training = True

    def end(self) -> None:
        """Until now it did."""
        if _has_gpu() and self._is_training:
            self.allocated, self.reserved = _larger((self.allocated, self.reserved), _peaks())
        self._is_training = False

    def figures(self) -> dict[str, float | None]:
        """In GiB: of training steps, and of the whole process; empty without a GPU."""
        if not _has_gpu():
            return {}
        whole = _larger(self._outside, _larger((self.allocated, self.reserved), _peaks()))
        names = ("train_peak_gpu_gib", "train_peak_gpu_reserved_gib", "peak_gpu_gib", "peak_gpu_reserved_gib")
        values = (self.allocated, self.reserved, *whole)
        return {name: round(value / GIBIBYTE, 3) for name, value in zip(names, values, strict=True)}


def peak_host_memory() -> dict[str, float | None]:
    """Most memory that this process has held on the host so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIBIBYTE
    return {"peak_host_gib": round(host, 3)}


def _has_gpu() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def _peaks() -> tuple[int, int]:
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def _larger(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    return max(first[0], second[0]), max(first[1], second[1])
