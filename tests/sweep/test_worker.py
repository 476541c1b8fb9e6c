"""The job of a cluster that runs one trial."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .outcome import wait_for

WORKER = """
import sys
from pathlib import Path
from ftframe.sweep.worker import run_trial, where
log, lock, *command = sys.argv[1:]
sys.exit(run_trial(command, log, **where(Path(lock))) % 256)
"""
TRIAL = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (folder / f"told {os.getpid()}").touch())
(folder / f"began {os.getpid()}").touch()
while not (folder / "go").exists():
    time.sleep(0.02)
(folder / f"ended {os.getpid()}").touch()
"""

Work = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    """Start a worker; all of them have one trial."""
    started = []

    def begin() -> subprocess.Popen[bytes]:
        arguments = [str(tmp_path / "log.txt"), str(tmp_path / "0000.lock"), sys.executable, "-c", TRIAL, str(tmp_path)]
        started.append(subprocess.Popen([sys.executable, "-c", WORKER, *arguments]))
        return started[-1]

    yield begin
    (tmp_path / "go").touch()
    for process in started:
        process.kill()
        process.wait()


def seen(folder: Path, what: str) -> list[str]:
    """The processes of trials that said something."""
    return sorted(path.name.split()[1] for path in folder.glob(f"{what} *"))


def test_two_jobs_of_one_trial_run_one_after_the_other(work: Work, tmp_path: Path) -> None:
    first = work()
    wait_for(lambda: seen(tmp_path, "began"))
    second = work()
    time.sleep(1.5)
    assert len(seen(tmp_path, "began")) == 1
    (tmp_path / "go").touch()
    assert (first.wait(30), second.wait(30)) == (0, 0)
    assert len(seen(tmp_path, "ended")) == 2


def test_a_trial_that_outlives_its_job_keeps_the_next_one_out(work: Work, tmp_path: Path) -> None:
    first = work()
    wait_for(lambda: seen(tmp_path, "began"))
    first.kill()
    first.wait()
    second = work()
    time.sleep(1.5)
    assert len(seen(tmp_path, "began")) == 1
    (tmp_path / "go").touch()
    assert second.wait(30) == 0
    assert len(seen(tmp_path, "ended")) == 2


def test_a_job_that_waits_for_another_ends_when_told(work: Work, tmp_path: Path) -> None:
    work()
    wait_for(lambda: seen(tmp_path, "began"))
    second = work()
    time.sleep(1.5)
    second.terminate()
    assert second.wait(30) == 143
    assert len(seen(tmp_path, "began")) == 1 and not seen(tmp_path, "told")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2], ids=lambda number: number.name)
def test_what_ends_a_job_reaches_the_trial_as_sigterm(number: signal.Signals, work: Work, tmp_path: Path) -> None:
    process = work()
    wait_for(lambda: seen(tmp_path, "began"))
    os.kill(process.pid, number)
    wait_for(lambda: seen(tmp_path, "told"))
    (tmp_path / "go").touch()
    assert process.wait(30) == 0
