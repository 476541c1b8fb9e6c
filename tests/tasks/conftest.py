"""One finished run of the embedded default, shared by the tests of the commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run_command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ftframe", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


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
    cwd = tmp_path_factory.mktemp("default")
    done = run_command("fit", cwd=cwd)
    assert done.returncode == 0, done.stderr
    (run,) = (cwd / "outputs" / "fit").iterdir()
    return run, done
