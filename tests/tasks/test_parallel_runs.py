"""Many runs that start at once, with one home, one cache and one outputs/: each complete, none in another's way."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from processes import ModuleProcess

RUNS = 10
TINY = (
    "data.dataset.size=16", "data.dataset.validation_size=4", "trainer.max_steps=1", "baseline=false",
    "data.generate_examples=0", "trainer.enable_progress_bar=false",
)  # fmt: skip
COMPLETE = {"config.yaml", "overrides.yaml", "manifest.json", "log.txt", "metrics.csv", "metrics.json", "adapter"}


def start(cwd: Path, *overrides: str) -> ModuleProcess:
    """`ftframe fit`, begun; its home and cache are in the folder."""
    home = {"HOME": str(cwd / "home"), "FTFRAME_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1"}
    return ModuleProcess("ftframe", "fit", *TINY, *overrides, cwd=cwd, env={**os.environ, **home})


def check_complete(run: Path) -> None:
    """Hold a run folder to what a complete one is."""
    assert {path.name for path in run.iterdir()} >= COMPLETE
    assert json.loads((run / "metrics.json").read_text())["optimizer_steps"] == 1
    digests = json.loads((run / "manifest.json").read_text())["sha256"]
    assert "adapter/adapter_model.safetensors" in digests
    for name, digest in digests.items():
        assert hashlib.sha256((run / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.slow
def test_ten_runs_at_once(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    started = [start(tmp_path) for _ in range(RUNS)]
    errors = [process.communicate(timeout=900)[1] for process in started]
    assert [process.returncode for process in started] == [0] * RUNS, errors
    runs = sorted((tmp_path / "outputs" / "fit").iterdir())
    assert len(runs) == RUNS
    for run in runs:
        check_complete(run)
    assert len({(run / "adapter" / "adapter_model.safetensors").read_bytes() for run in runs}) == 1
    assert not list((tmp_path / "cache").rglob("*.partial"))


@pytest.mark.slow
def test_of_two_runs_with_one_folder_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    started = [start(tmp_path, "output_dir=mine") for _ in range(2)]
    errors = [process.communicate(timeout=600)[1] for process in started]
    assert sorted(process.returncode for process in started) == [0, 2], errors
    (refused,) = (error for process, error in zip(started, errors, strict=True) if process.returncode == 2)
    assert "output_dir=mine exists already" in refused or "Another process is at work in" in refused
    check_complete(tmp_path / "mine")
