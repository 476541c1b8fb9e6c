"""Signals end training between two steps, with its state saved; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from ftframe.errors import Interrupted
from ftframe.train.checkpoint_io import WholeCheckpointIO, read_checkpoint
from ftframe.train.checkpoint_store import CheckpointStore
from ftframe.train.checkpointing import Checkpoints
from ftframe.train.interruption import Interruption

pytestmark = pytest.mark.filterwarnings("ignore")


class Trivial(L.LightningModule):
    """One weight, which counts steps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return -self.weight.sum()

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val/loss", -self.weight.sum())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.weight], lr=1.0)


class Signal(Callback):
    """Sends this process a signal in a hook."""

    def __init__(self, hook: str, signum: int, at: int) -> None:
        self.left = at
        self.signum = signum
        setattr(self, hook, self.count)

    def count(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.signum)


def train(
    folder: Path, *callbacks: Callback, accumulate: int = 1, ckpt_path: str | None = None, every: int = 100
) -> L.Trainer:
    interruption = Interruption()
    checkpoints = Checkpoints(
        CheckpointStore(folder), interruption, every_n_steps=every, total_steps=8, save_best=True, facts={}
    )
    trainer = L.Trainer(
        accelerator="cpu", max_steps=8, accumulate_grad_batches=accumulate, logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, val_check_interval=4,
        callbacks=[*callbacks, interruption, checkpoints], plugins=[WholeCheckpointIO()],
    )  # fmt: skip
    data = DataLoader(torch.ones(16, 1), batch_size=None)
    with interruption.installed():
        trainer.fit(Trivial(), data, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


KINDS = {
    "SIGTERM": (signal.SIGTERM, 143),
    "SIGINT": (signal.SIGINT, 130),
    "SIGUSR1": (signal.SIGUSR1, 143),
    "SIGUSR2": (signal.SIGUSR2, 143),
}


@pytest.mark.parametrize(("signum", "code"), KINDS.values(), ids=KINDS)
def test_the_step_is_finished_and_saved(signum: int, code: int, tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number, _ in KINDS.values()}
    with pytest.raises(Interrupted, match="interrupted: the state of step 3 is saved") as caught:
        train(tmp_path, Signal("on_before_backward", signum, at=3))
    assert caught.value.exit_code == code
    newest = CheckpointStore(tmp_path).newest()
    assert newest is not None and newest.step == 3
    assert read_checkpoint(tmp_path / newest.file)["state_dict"]["weight"].item() == 3.0
    assert {number: signal.getsignal(number) for number in before} == before


def test_slurm_warns_of_the_end_and_nothing_is_requeued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would save into a folder of its own, and call `scontrol requeue`."""
    job = {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert SLURMEnvironment.detect()
    with pytest.raises(Interrupted, match="step 3 is saved") as caught:
        train(tmp_path, Signal("on_before_backward", signal.SIGUSR1, at=3))
    assert caught.value.exit_code == 143
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "step-00000003.ckpt"]


def test_a_window_of_accumulation_is_finished(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="step 2 is saved"):
        train(tmp_path, Signal("on_before_backward", signal.SIGTERM, at=5), accumulate=4)


def test_within_a_validation_it_ends_at_once_and_the_step_is_saved(tmp_path: Path) -> None:
    validated = Signal("on_validation_batch_end", signal.SIGTERM, at=2)
    with pytest.raises(Interrupted):
        train(tmp_path, validated)
    newest = CheckpointStore(tmp_path).newest()
    assert newest is not None and newest.step == 4
    count = Signal("on_validation_batch_end", signal.SIGTERM, at=10**6)
    train(tmp_path, count, ckpt_path=str(tmp_path / newest.file))
    assert 10**6 - count.left == 2 * 16  # the validation at step 4 is done over, and that at step 8


def test_where_nothing_is_to_be_saved_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="nothing is saved"):
        train(tmp_path / "none", Signal("on_before_backward", signal.SIGTERM, at=3), every=0)
    assert not (tmp_path / "none").exists()


def test_before_training_it_ends_at_once() -> None:
    with Interruption().installed(), pytest.raises(Interrupted) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert caught.value.exit_code == 143


def test_no_library_swallows_or_wraps_an_interruption() -> None:
    with pytest.raises(Interrupted), Interruption().installed():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except Exception:  # as around an optional import
            pytest.fail("swallowed")
    with pytest.raises(Interrupted) as caught, Interruption().installed():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
        except BaseException as error:
            raise RuntimeError("Failed to import") from error
    assert caught.value.exit_code == 130


SECOND = """
import os, signal, sys, time, pathlib
sys.path.insert(0, sys.argv[1])
from test_interruption import Signal, train
from lightning.pytorch.callbacks import Callback
class Slow(Callback):
    def on_before_backward(self, *_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(float(sys.argv[3]))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3)
train(pathlib.Path(sys.argv[2]), Slow())
"""


TWICE = {"a second one ends at once": (1.1, False), "an echo of the first is the first": (0.0, True)}


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "is_saved"), TWICE.values(), ids=TWICE.keys())
def test_two_signals(seconds: float, is_saved: bool, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SECOND, str(Path(__file__).parent), str(tmp_path / "run"), str(seconds)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert "once more ends at once" in done.stdout
    assert (tmp_path / "run").exists() == is_saved, done.stderr
    if not is_saved:
        assert done.returncode == 143, done.stderr
