"""Sweeps whose trials really train, on the CPU and on tiny stand-ins."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ftframe.sweep.progress import read_progress

from .outcome import leaderboard, records

pytestmark = pytest.mark.slow

QUICK = (
    "trainer=cpu",
    "data.dataset.size=32",
    "data.dataset.validation_size=8",
    "data.generate_examples=0",
    "trainer.max_steps=2",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
    "baseline=false",
    "data.max_length=128",
    "metrics=none",
)

MODEL = """path: pkg://ftframe.embedded/tiny
template: {template}
learning_rate: 3e-3
"""


def run(*overrides: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ftframe", "fit", "-m", *overrides],
        cwd=cwd,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_a_grid_of_models_adapters_and_quantisations(tmp_path: Path) -> None:
    for name, template in (("one", "plain"), ("two", "alpaca")):
        file = tmp_path / "configs" / "model" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(MODEL.format(template=template))
    grid = ("model=one,two", "peft=lora,qlora", "quant=4bit,8bit")
    done = run(f"--config-dir={tmp_path / 'configs'}", *grid, *QUICK, "sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "sweep"
    trials = records(folder)
    assert [tuple(t["overrides"].values()) for t in trials] == [
        (model, peft, quant) for model in ("one", "two") for peft in ("lora", "qlora") for quant in ("4bit", "8bit")
    ]
    configs = [yaml.safe_load((folder / t["folder"] / "config.yaml").read_text()) for t in trials]
    seen = {(c["model"]["template"], c["peft"]["r"], "load_in_8bit" in c["quant"]) for c in configs}
    assert len(seen) == 8
    finals = [json.loads((folder / t["folder"] / "metrics.json").read_text())["final"]["val/loss"] for t in trials]
    assert leaderboard(folder) == {number: ("done", str(loss)) for number, loss in enumerate(finals)}
    assert len(set(finals)) == 8
    typed = yaml.safe_load((folder / "runs/0005/overrides.yaml").read_text())
    assert {"model=two", "peft=lora", "quant=8bit"} <= set(typed)
    progress = read_progress(folder / "runs" / "0000")  # what a run writes is what the table reads
    with (folder / "runs" / "0000" / "metrics.csv").open(newline="") as stream:
        losses = [float(row["train/loss"]) for row in csv.DictReader(stream) if row["train/loss"]]
    assert progress.total == 2 and progress.step in (1, 2) and progress.loss == losses[-1]


RECORD = """
import os, sys

frozen = [a for a in sys.argv if a.startswith("--frozen=")] or [a for a in sys.orig_argv if a.startswith("--frozen=")]
if frozen:
    import torch

    begin = torch.optim.AdamW.__init__

    def tell(self, *args, **kwargs):
        with open(os.environ["RANKS"], "a") as file:
            file.write(f"{frozen[0]} {os.environ.get('LOCAL_RANK', '0')} {kwargs['lr']}\\n")
        begin(self, *args, **kwargs)

    torch.optim.AdamW.__init__ = tell
"""
"""Imported by every Python process at its start: each rank writes the learning rate that its optimizer is made with."""


def test_all_ranks_of_a_trial_train_with_the_same_values(tmp_path: Path) -> None:
    """Hydra's own launcher would start a sweep in each rank; with a sampler, each would draw its own values."""
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "peft=lora")
    space = ("hydra/sweeper=optuna", "optim.lr=tag(log,interval(1e-5,1e-2))", "sweep.n_trials=2")
    quick = [override for override in QUICK if override != "trainer=cpu"]
    (tmp_path / "sitecustomize.py").write_text(RECORD)
    seen = {"PYTHONPATH": str(tmp_path), "RANKS": str(tmp_path / "ranks.txt")}
    done = run(*ddp, *space, *quick, "sweep.dir=sweep", cwd=tmp_path, **seen)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line.split() for line in (tmp_path / "ranks.txt").read_text().splitlines()]
    first, second = records(tmp_path / "sweep")
    for record in (first, second):
        used = {rank: lr for file, rank, lr in told if file.endswith(f"{record['number']:04}.yaml")}
        assert used == dict.fromkeys(("0", "1"), str(record["overrides"]["optim.lr"]))


def test_a_bad_trial_is_pruned_while_it_trains(tmp_path: Path) -> None:
    # With this seed the grid begins with 3e-3; the median of those before is what the second is held against.
    space = ("hydra/sweeper=optuna", "optim.lr=choice(3e-3,1e-9)", "sweep.sampler=grid", "sweep.seed=1")
    pruner = ("sweep.pruner=median", "+sweep.pruner_args.n_startup_trials=1", "peft=lora")
    done = run(*space, *pruner, *QUICK, "trainer.max_steps=4", "sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    good, bad = records(tmp_path / "sweep")
    assert [(t["overrides"]["optim.lr"], t["state"]) for t in (good, bad)] == [(3e-3, "done"), (1e-9, "pruned")]
    assert [t["values"]["optimizer_steps"] for t in (good, bad)] == [4, 2]
    assert bad["values"]["val/loss"] > good["values"]["val/loss"] > 0
    assert (tmp_path / "sweep" / bad["folder"] / "manifest.json").is_file()
