"""What a sweep costs beside its trials: `python benchmarks/sweeps.py`.

Overhead: the seconds that a sweep of 20 trials takes, each a process that only says it is done, less those of its start
and of 20 such processes alone. Grid: the seconds until 1,000 cells over five groups and keys are composed and checked,
from the command to its first trial.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRIAL = """
import json, sys
from pathlib import Path
import yaml

file = next(argument.partition("=")[2] for argument in sys.argv if argument.startswith("--frozen="))
run = Path(yaml.safe_load(Path(file).read_text())["config"]["output_dir"])
run.mkdir(parents=True)
(run / "metrics.json").write_text(json.dumps({"final": {"val/loss": 1.0}}))
(run / "manifest.json").write_text("{}")
"""
LIGHT = ("metrics=none", "trainer=cpu")
CELLS = ("model=llama2,mistral", "peft=lora,qlora", "quant=4bit,8bit", "optim.lr=1e-5,3e-5,1e-4,3e-4,1e-3")


def begin(*overrides: str, cwd: Path, trial: Path) -> subprocess.Popen[str]:
    """Start a sweep whose trials train nothing."""
    return subprocess.Popen(
        [sys.executable, "-m", "ftframe", "fit", "-m", *LIGHT, *overrides],
        cwd=cwd,
        env={**os.environ, "FTFRAME_TRIAL_COMMAND": f"{sys.executable} {trial}", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
    )


def until_first_trial(process: subprocess.Popen[str]) -> float:
    """Seconds until the grid is checked."""
    started = time.monotonic()
    assert process.stdout is not None
    assert any(line.startswith("sweep folder:") for line in process.stdout), "it ended before"
    return time.monotonic() - started


def main() -> None:
    """Print both figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=25, help="seeds of each of the 40 cells of the grid")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        cwd = Path(name)
        trial = cwd / "trial.py"
        trial.write_text(TRIAL)
        process = begin(f"seed=range(0,{options.trials})", "sweep.dir=many", cwd=cwd, trial=trial)
        until_first_trial(process)
        started = time.monotonic()
        output, _ = process.communicate()
        sweep = time.monotonic() - started
        assert process.returncode == 0, output
        frozen = cwd / "frozen.yaml"
        started = time.monotonic()
        for number in range(options.trials):
            frozen.write_text(f"config: {{output_dir: {cwd}/alone/{number}}}\n")
            subprocess.run([sys.executable, str(trial), f"--frozen={frozen}"], check=True)
        alone = time.monotonic() - started
        print(
            f"{options.trials} trials: {sweep:.1f} s from the first to the leaderboard, {alone:.1f} s as processes "
            f"alone: {1000 * (sweep - alone) / options.trials:.0f} ms of overhead each"
        )
        grid = begin(*CELLS, f"seed=range(0,{options.seeds})", "sweep.dir=grid", cwd=cwd, trial=trial)
        seconds = until_first_trial(grid)
        grid.send_signal(signal.SIGTERM)
        grid.communicate()
        cells = 40 * options.seeds
        print(
            f"{cells} cells: {seconds:.1f} s from the command to the first trial, {1000 * seconds / cells:.0f} ms each"
        )


if __name__ == "__main__":
    main()
