"""A search with ASHA on the embedded task: does it beat the defaults, and for what part of the cost of all trials?

    python benchmarks/asha.py --trials 30

Trains the defaults once, then searches learning rate, rank, alpha and dropout, and prints the best `val/loss` of both
and the optimizer steps of the search as a share of those that all its trials would have taken unpruned. The cost counts
every step of every trial, pruned ones up to where they ended. Exit code 1 if the search does not win at half the cost.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMON = (
    *("trainer=cpu", "trainer.enable_progress_bar=false", "data.generate_examples=0", "metrics=none", "baseline=false"),
    "checkpoint.save_best=false",
)
SPACE = (
    *("optim.lr=tag(log,interval(3e-4,3e-2))", "peft.r=int(interval(4,64))"),
    *("peft.lora_alpha=choice(8,16,32,64)", "peft.lora_dropout=interval(0.0,0.2)"),
)


def ftframe(*arguments: str, cwd: Path) -> float:
    """Run the command; its seconds."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "ftframe", *arguments], cwd=cwd, env=os.environ, check=False)
    assert done.returncode == 0, arguments
    return time.monotonic() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--interval", type=int, default=24, help="optimizer steps between two validations")
    options = parser.parse_args()
    search = (
        *("-m", "hydra/sweeper=optuna", f"sweep.n_trials={options.trials}", f"sweep.seed={options.seed}"),
        *(f"sweep.max_parallel={options.parallel}", "sweep.dir=sweep", *SPACE, "sweep.pruner=asha"),
        *(f"trainer.val_check_interval={options.interval}", f"+sweep.pruner_args.min_resource={options.interval}"),
    )
    with tempfile.TemporaryDirectory() as name:
        cwd = Path(name)
        alone = ftframe("fit", *COMMON, "output_dir=default", cwd=cwd)
        default = json.loads((cwd / "default" / "metrics.json").read_text())
        seconds = ftframe("fit", *search, *COMMON, cwd=cwd)
        trials = [json.loads(file.read_text()) for file in sorted((cwd / "sweep" / "trials").glob("*.json"))]
    states = {state: sum(trial["state"] == state for trial in trials) for state in ("done", "pruned")}
    assert sum(states.values()) == len(trials) == options.trials, states
    best = min((trial for trial in trials if trial["state"] == "done"), key=lambda trial: trial["values"]["val/loss"])
    steps = sum(trial["values"]["optimizer_steps"] for trial in trials)
    share = steps / (default["optimizer_steps"] * len(trials))
    print(f"default     val/loss {default['final']['val/loss']:.4f}  {default['optimizer_steps']} steps, {alone:.0f} s")
    print(f"the search  val/loss {best['values']['val/loss']:.4f}  trial {best['number']}: {best['overrides']}")
    print(f"cost        {steps} steps, {100 * share:.0f} % of all trials to the end; {states}; {seconds:.0f} s")
    sys.exit(not (best["values"]["val/loss"] < default["final"]["val/loss"] and share < 0.5))


if __name__ == "__main__":
    main()
