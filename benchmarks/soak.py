"""One run of `ftframe fit`, interrupted at random moments by KILL, TERM and INT, against the same run left alone.

    python benchmarks/soak.py --interruptions 20

Both must end with the same weights, optimizer, losses, answers and rows of `metrics.csv`, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import ftframe.tasks.fit  # noqa: F401 (imported once, before the processes are forked)
from ftframe import cli
from ftframe.train.checkpoint_io import read_checkpoint

CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
RUN = (
    *("data.dataset.size=160", "data.dataset.validation_size=16", "data.batch_size=4", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=-1", "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false"),
    *("checkpoint.every_n_steps=5", "data.num_workers=0", "trainer.accumulate_grad_batches=2", "peft.r=8"),
    "data.generate_examples=8",
)


def start(folder: Path, *overrides: str) -> int:
    """Begin or go on with a run in a process of its own; its number."""
    child = os.fork()
    if child == 0:
        log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        torch.set_num_threads(1)
        sys.argv = ["ftframe", "fit", *RUN, *overrides, f"output_dir={folder}", "ckpt_path=last"]
        try:
            cli.main()
        except SystemExit as leaving:
            os._exit(int(leaving.code or 0))
    return child


def wait(child: int) -> int:
    """Its exit code; the negative number of the signal that it died of."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two values differ, bit by bit."""
    if isinstance(a, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    if isinstance(a, dict):
        if set(a) != set(b):
            return [f"{where}: {sorted(map(str, set(a) ^ set(b)))}"]
        return [found for key in a for found in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, (list, tuple)):
        return [f for i, (x, y) in enumerate(zip(a, b, strict=True)) for f in differences(x, y, f"{where}/{i}")]
    return [] if a == b else [f"{where}: {a} {b}"]


def compare(one: Path, other: Path) -> list[str]:
    """Where two finished runs differ."""
    states = []
    for run in (one, other):
        last = json.loads((run / "checkpoints" / "manifest.json").read_text())["checkpoints"][-1]
        states.append(read_checkpoint(run / "checkpoints" / last["file"]))
        states[-1]["callbacks"].pop("Throughput")  # clocks
    found = differences(*states)
    for name in ("metrics.csv", "predictions.jsonl", "adapter/adapter_model.safetensors"):
        if (one / name).read_bytes() != (other / name).read_bytes():
            found.append(name)
    return found


def interrupt(folder: Path, overrides: tuple[str, ...], rng: random.Random, *, longest: float) -> signal.Signals | None:
    """One interruption; the signal, or None if the run ended before it."""
    kind = rng.choice(list(CODES))
    child = start(folder, *overrides)
    ends = time.monotonic() + rng.uniform(0.5, longest)
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            assert code == 0, f"it ended by itself with {code}: see {folder}.log"
            return None
        time.sleep(0.01)
    os.kill(child, kind)
    code = wait(child)
    assert code in (CODES[kind], 0), f"{kind.name} ended with {code} in place of {CODES[kind]}: see {folder}.log"
    return kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interruptions", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--longest", type=float, default=6.0, help="seconds until an interruption, at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, counts = random.Random(options.seed), Counter[str]()
    overrides = (f"trainer.max_steps={options.steps}",)
    with tempfile.TemporaryDirectory() as name:
        straight, soaked = Path(name) / "straight", Path(name) / "soaked"
        assert wait(start(straight, *overrides)) == 0, Path(f"{straight}.log").read_text()
        while counts.total() < options.interruptions:
            kind = interrupt(soaked, overrides, rng, longest=options.longest)
            if kind is None:
                sys.exit(f"the run was over after {counts.total()} interruptions: raise --steps, or lower --longest")
            counts[kind.name] += 1
        assert wait(start(soaked, *overrides)) == 0, Path(f"{soaked}.log").read_text()
        found = compare(straight, soaked)
    told = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
    print(f"{counts.total()} interruptions ({told}) of {options.steps} steps; differences: {found or 'none'}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
