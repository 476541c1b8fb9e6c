"""Sweeps in folders of their own, a browser, and a trial that trains nothing."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import ModuleProcess

from .browser import Browser, missing_programs, open_browser
from .folders import SweepFolder
from .outcome import group_lives, starts

MakeSweep = Callable[..., SweepFolder]


@pytest.fixture
def make_sweep(tmp_path: Path) -> MakeSweep:
    """Makes sweeps in folders of their own: `make_sweep("first", objectives=[...])`."""
    return lambda name="sweep", **asked: SweepFolder(tmp_path / name, **asked)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} here (Debian: apt-get install chromium chromium-driver)")
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


FAKE = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
import yaml

file = next(a.partition("=")[2] for a in sys.argv if a.startswith("--frozen="))
config = yaml.safe_load(Path(file).read_text())["config"]
run, seed = Path(config["output_dir"]), config["seed"]
run.mkdir(parents=True, exist_ok=config["ckpt_path"] is not None)
(run / "config.yaml").write_text(yaml.safe_dump({k: config[k] for k in ("seed", "peft", "optim")}))
with open(run.parents[1] / "starts.txt", "a") as starts:
    starts.write(f"{run.name} {os.getpid()} {os.getpgid(0)} {os.environ.get('OMP_NUM_THREADS')} "
                 f"{os.environ.get('CUDA_VISIBLE_DEVICES')!r}\\n")
print(f"trial {run.name}", flush=True)
if seed == 101:
    raise ValueError("a bug in a plugin")
if seed == 102:
    print("error: out of memory. Lower data.batch_size", file=sys.stderr)
    sys.exit(4)
if seed == 103:
    sys.exit(0)
if seed == 104:
    print("error: The loss became nan at step 3.", file=sys.stderr)
    sys.exit(3)
if seed == 105:
    os.kill(os.getpid(), signal.SIGSEGV)
if seed == 106:
    sys.exit(7)
if seed >= 1000:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # another rank
    while not (run.parents[1] / "go").exists():
        time.sleep(0.02)
loss, steps = config["peft"]["r"] + 100 * config["optim"]["lr"], 0
if "ftframe_pruning" in config["callbacks"]:
    verdicts = run / "verdicts.jsonl"
    for steps in range(1, 10):
        with (run / "reports.jsonl").open("a") as reports:
            reports.write(json.dumps({"step": steps, "value": loss + 9 - steps}) + "\\n")
        while not (verdicts.exists() and len(verdicts.read_text().splitlines()) == steps):
            time.sleep(0.01)
        if json.loads(verdicts.read_text().splitlines()[-1])["stop"]:
            break
loss = float("nan") if seed == 107 else loss
results = {"steps": steps, "final": {"val/loss": loss}, "tokens_per_second": 10.0 * config["peft"]["r"]}
(run / "metrics.json").write_text(json.dumps(results))
(run / "manifest.json").write_text("{}")
"""


@pytest.fixture(scope="session")
def fake_trial(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The command of a trial that trains nothing; its seed says how it ends."""
    script = tmp_path_factory.mktemp("fake") / "trial.py"
    script.write_text(FAKE)
    return f"{sys.executable} {script}"


LIGHT = ("metrics=none", "trainer=cpu", "peft=lora")
"""Nothing that makes the check of names import torch."""

Start = Callable[..., ModuleProcess]


@pytest.fixture
def start(fake_trial: str, tmp_path: Path) -> Start:
    """Start `ftframe fit -m` with trials that train nothing; the sweep folder is `sweep`."""

    def begin(*overrides: str, **environment: str) -> ModuleProcess:
        flags = [override for override in overrides if override.startswith("--")]  # which Hydra wants in front
        keys = [override for override in overrides if not override.startswith("--")]
        env = {**os.environ, "FTFRAME_TRIAL_COMMAND": fake_trial, "CUDA_VISIBLE_DEVICES": "", **environment}
        typed = ("fit", "-m", *flags, *LIGHT, "sweep.dir=sweep", *keys)
        return ModuleProcess("ftframe", *typed, cwd=tmp_path, env=env, merged=True)

    return begin


@pytest.fixture
def sweep(start: Start) -> Callable[..., tuple[int, str]]:
    """As `start`, to the end: exit code and output."""

    def run(*overrides: str, **environment: str) -> tuple[int, str]:
        process = start(*overrides, **environment)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    return run


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Any:
    """End whatever a failed test left running."""
    yield
    for _, _, group, *_ in starts(tmp_path / "sweep"):
        if group_lives(int(group)):
            os.killpg(int(group), signal.SIGKILL)
