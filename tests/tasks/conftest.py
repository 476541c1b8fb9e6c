"""One finished run of the embedded default, shared by the tests of the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from processes import run_module


def run_command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, in a process of its own."""
    return run_module("ftframe", *arguments, cwd=cwd, env={**os.environ, **environment})


@pytest.fixture(scope="session")
def ftframe():
    """The command: `ftframe("fit", "peft=lora", cwd=folder)`."""
    return run_command


@pytest.fixture(scope="session")
def quick() -> tuple[str, ...]:
    """Overrides for a run of a few seconds."""
    return (
        "data.dataset.size=64",
        "data.dataset.validation_size=16",
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
    )


@pytest.fixture(scope="session")
def default_run(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run folder and output of `ftframe fit` with nothing else."""
    base = tmp_path_factory.getbasetemp()
    cwd = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "default"  # one run for all processes
    with FileLock(f"{cwd}.lock"):
        if not cwd.exists():
            cwd.mkdir()
            done = subprocess.run(
                [sys.executable, "-m", "ftframe", "fit"],
                cwd=cwd, capture_output=True, text=True, timeout=600, check=False,
            )  # fmt: skip
            said = {"returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
            (cwd / "said.json").write_text(json.dumps(said))
    done = subprocess.CompletedProcess(["ftframe", "fit"], **json.loads((cwd / "said.json").read_text()))
    assert done.returncode == 0, done.stderr
    (run,) = (cwd / "outputs" / "fit").iterdir()
    return run, done
