"""Kills a training process with SIGKILL at random moments around its saves, and loads what is left, again and again.

    python benchmarks/kill_saves.py --runs 100

Each run goes on with the folder of the one before, writes a checkpoint of some megabytes every other step, and notes
each that it believes to be on the disk. Whatever the moment, the newest whole checkpoint must load, hold the weights of
its step, and be no older than the newest that was noted. `--tmpdir` is set as TMPDIR; give one on another filesystem.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from ftframe.train.checkpoint_io import WholeCheckpointIO, read_checkpoint
from ftframe.train.checkpoint_store import CheckpointStore
from ftframe.train.checkpointing import Checkpoints
from ftframe.train.interruption import Interruption

SIZE = 500_000
STEPS = 100_000


class Counter(L.LightningModule):
    """Its weights are the number of steps that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(SIZE))

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return -self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Note(Callback):
    """Writes down each step whose checkpoint is in the manifest."""

    def __init__(self, store: CheckpointStore, notes: Path) -> None:
        self.store = store
        self.notes = notes

    def on_train_batch_end(self, *_: Any) -> None:
        entries = self.store.entries()
        if entries:
            with self.notes.open("a") as file:
                file.write(f"{max(entry.step for entry in entries)}\n")


def train(folder: Path, notes: Path) -> None:
    """Count on from the newest checkpoint, until killed."""
    torch.set_num_threads(1)
    store = CheckpointStore(folder, keep=2)
    newest = store.newest()
    checkpoints = Checkpoints(
        store, Interruption(), every_n_steps=2, total_steps=STEPS, save_best=False, facts={"world_size": 1}
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Note(store, notes), checkpoints],
        plugins=[WholeCheckpointIO()],
    )
    path = str(folder / newest.file) if newest else None
    trainer.fit(Counter(), DataLoader(torch.ones(STEPS, 1), batch_size=None), ckpt_path=path, weights_only=True)


def check(folder: Path, notes: Path) -> int:
    """The step of the newest whole checkpoint, known to be right."""
    newest = CheckpointStore(folder).newest()
    lines = notes.read_text().split("\n")[:-1] if notes.exists() else []
    noted = int(lines[-1]) if lines else 0
    if newest is None:
        assert noted == 0, f"step {noted} was saved, and nothing is left"
        return 0
    assert newest.step >= noted, f"step {noted} was saved, and the newest that is left is {newest.step}"
    content = read_checkpoint(folder / newest.file)
    assert content["global_step"] == newest.step
    assert torch.equal(content["state_dict"]["weight"], torch.full((SIZE,), float(newest.step)))
    return newest.step


def kill_one(folder: Path, notes: Path, seconds: float) -> None:
    """Train in a process of its own, and kill it some time after it has begun to save."""
    before = len(notes.read_text()) if notes.exists() else 0
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        train(folder, notes)
        os._exit(0)
    deadline = time.monotonic() + 120
    while not notes.exists() or len(notes.read_text()) == before:
        assert time.monotonic() < deadline, "no checkpoint within two minutes"
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the training process ended by itself"
        time.sleep(0.002)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--tmpdir", default="/dev/shm")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["TMPDIR"] = options.tmpdir
    rng = random.Random(options.seed)
    strays, step = 0, 0
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder, notes = Path(name) / "checkpoints", Path(name) / "notes.txt"
        for _ in range(options.runs):
            kill_one(folder, notes, rng.uniform(0.0, 0.1))
            strays += len(list(folder.glob(".partial-*")))
            after = check(folder, notes)
            assert after >= step
            step = after
    print(
        f"{options.runs} runs killed, {strays} of them within a write; each time a whole checkpoint loaded and none was"
    )
    print(f"lost; step {step} at the end")


if __name__ == "__main__":
    main()
