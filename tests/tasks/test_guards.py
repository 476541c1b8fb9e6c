"""What ends a run early: its exit code, its message, and what it leaves."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ftframe.cli import main
from ftframe.models.module import CausalLMModule
from ftframe.train.checkpoint_store import CheckpointStore

pytestmark = pytest.mark.slow

TINY = (
    *("data.dataset.size=24", "data.dataset.validation_size=4", "data.batch_size=4", "peft=lora", "peft.r=2"),
    *("data.generate_examples=0", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu", "output_dir=run"),
    *("scheduler=constant", "scheduler.warmup_ratio=0", "trainer.max_steps=5", "checkpoint.every_n_steps=1"),
)


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs `ftframe fit` in this process; the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FTFRAME_RUN_DIR", raising=False)

    def run(*overrides: str) -> int:
        monkeypatch.setattr(sys, "argv", ["ftframe", "fit", *TINY, *overrides])
        handlers = list(logging.root.handlers)
        with pytest.raises(SystemExit) as left:
            main()
        logging.root.handlers[:] = handlers
        return int(left.value.code or 0)

    yield run
    monkeypatch.undo()


def weights(run: Path) -> dict[str, torch.Tensor]:
    store = CheckpointStore(run / "checkpoints")
    newest = store.newest()
    assert newest is not None
    return dict(torch.load(store.folder / newest.file, weights_only=True)["state_dict"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_no_number_stops_before_the_update(accumulate: int, fit, capsys, tmp_path: Path) -> None:
    assert fit("optim.lr=1e30", f"trainer.accumulate_grad_batches={accumulate}", "trainer.gradient_clip_val=null") == 3
    err = capsys.readouterr().err
    assert "The loss of step " in err and "Lower optim.lr" in err and "Traceback" not in err
    report = json.loads((tmp_path / "run" / "non_finite_rank0.json").read_text())
    assert report["loss"] in ("nan", "inf")
    assert len(report["rows"]) == accumulate and all(len(rows) == 4 for rows in report["rows"])
    assert all(row.startswith("train row ") for rows in report["rows"] for row in rows)
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_gradient_that_is_no_number_stops_although_the_loss_is_one(fit, capsys, monkeypatch, tmp_path: Path) -> None:
    step = CausalLMModule.training_step

    def poisoned(self: CausalLMModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        if self.global_step == 2:
            loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    monkeypatch.setattr(CausalLMModule, "training_step", poisoned)
    assert fit() == 3
    assert "and the norm of its gradients nan" in capsys.readouterr().err
    report = json.loads((tmp_path / "run" / "non_finite_rank0.json").read_text())
    assert report["step"] == 2 and float(report["loss"]) > 0
    newest = CheckpointStore(tmp_path / "run" / "checkpoints").newest()
    assert newest is not None and newest.step == 2


MEMORY = {
    "device": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "host": lambda: torch.empty(10**17),
    "python": MemoryError,
}


@pytest.mark.parametrize("exhaust", MEMORY.values(), ids=MEMORY)
def test_out_of_memory_names_the_peak_and_the_keys(exhaust: Any, fit, capsys, monkeypatch) -> None:
    def step(self: CausalLMModule, batch: Any, batch_idx: int) -> torch.Tensor:
        error = exhaust()
        raise error

    monkeypatch.setattr(CausalLMModule, "training_step", step)
    assert fit() == 4
    err = capsys.readouterr().err
    assert "error: out of memory: " in err and "Traceback" not in err
    assert "Peak on the host: " in err
    assert "data.batch_size=2 trainer.accumulate_grad_batches=2  (now 4 and 1" in err
    assert "memory=checkpoint" in err and "peft=qlora" in err and "data.max_length=32  (now 64 tokens)" in err


def test_a_logger_that_fails_ends_no_training(fit, capsys, monkeypatch, tmp_path: Path) -> None:
    from ftframe.train.metrics_log import MetricsLog

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(MetricsLog, "log_metrics", full)
    assert fit() == 0
    assert capsys.readouterr().out.count("MetricsLog failed and is switched off") == 1
    assert (tmp_path / "run" / "manifest.json").is_file()


def test_a_new_run_begins_with_the_state_of_a_file_or_a_run(fit, capsys, tmp_path: Path) -> None:
    assert fit() == 0
    first = tmp_path / "run" / "checkpoints" / "step-00000003.ckpt"
    assert not first.exists()  # two are kept
    kept = tmp_path / "run" / "checkpoints" / "step-00000004.ckpt"
    for source, steps in ((f"ckpt_path={kept}", 6), ("ckpt_path=run", 7)):
        assert fit(source, f"output_dir=new{steps}", f"trainer.max_steps={steps}", "baseline=false") == 0
        results = json.loads((tmp_path / f"new{steps}" / "metrics.json").read_text())
        assert results["optimizer_steps"] == steps and results["baseline"] is None
    assert fit("ckpt_path=run", "output_dir=other", "peft=dora") == 1
    assert "does not fit this configuration" in capsys.readouterr().err


def test_a_new_run_begins_with_a_state_from_before_a_validation(fit, tmp_path: Path) -> None:
    validated = ("trainer.val_check_interval=2", "checkpoint.keep=9", "baseline=false")
    assert fit(*validated) == 0
    cut = tmp_path / "run" / "checkpoints" / "step-00000002.ckpt"
    assert fit(*validated, f"ckpt_path={cut}", "output_dir=new") == 0
    manifests = [json.loads((tmp_path / run / "checkpoints" / "manifest.json").read_text()) for run in ("run", "new")]
    assert [[entry["step"] for entry in manifest["checkpoints"]][-1] for manifest in manifests] == [5, 5]
    assert manifests[1]["facts"] == manifests[0]["facts"]
    assert manifests[1]["best"] in [entry["step"] for entry in manifests[1]["checkpoints"]]


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x04."], ids=["empty", "zip", "pickle"])
def test_a_file_that_is_no_checkpoint_is_refused_before_anything_is_made(content: bytes, fit, capsys, tmp_path) -> None:
    (tmp_path / "bad.ckpt").write_bytes(content)
    assert fit("ckpt_path=bad.ckpt") == 2
    err = capsys.readouterr().err
    assert "bad.ckpt is no checkpoint that can be loaded safely" in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()
