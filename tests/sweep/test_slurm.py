"""The launcher `submitit_slurm` in a real SLURM, which this machine is the one node of."""

from __future__ import annotations

import csv
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from . import one_node_slurm as slurm
from .outcome import leaderboard, records, starts, wait_for

pytest.importorskip("submitit", reason="submitit is not installed: pip install 'ftframe[submitit]'")
pytestmark = pytest.mark.slow

SLURM = "hydra/launcher=submitit_slurm"
GRID = ("peft.r=4,8", "optim.lr=1e-3,2e-3")


@pytest.fixture(scope="session")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The `slurm.conf` of daemons that live as long as these tests."""
    with ExitStack() as stack:
        try:
            conf = stack.enter_context(slurm.one_node(tmp_path_factory.mktemp("slurm")))
        except slurm.NotHereError as error:
            pytest.skip(str(error))
        yield conf


@pytest.fixture
def conf(daemons: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The `slurm.conf`, for all that the test starts; no job is left behind."""
    monkeypatch.setenv("SLURM_CONF", str(daemons))
    yield daemons
    slurm.run(daemons, "scancel", f"--user={os.getuid()}")


def jobs(conf: Path) -> list[str]:
    """Number and state of each job that waits or runs."""
    return slurm.run(conf, "squeue", "--noheader", "--format=%i %T").splitlines()


def states(folder: Path) -> list[str]:
    """The state of each trial."""
    return [trial["state"] for trial in records(folder)]


def test_the_same_grid_gives_the_same_leaderboard(conf: Path, sweep, tmp_path: Path) -> None:
    assert sweep(*GRID)[0] == 0
    code, output = sweep(*GRID, SLURM, "sweep.dir=cluster")
    assert code == 0, output
    assert leaderboard(tmp_path / "cluster") == leaderboard(tmp_path / "sweep")
    assert (tmp_path / "cluster" / "logs" / "0001.txt").read_text() == "trial 0001\n"
    assert len({group for _, _, group, *_ in starts(tmp_path / "cluster")}) == 4
    assert not [*(tmp_path / "cluster" / ".private").glob("*.job")]


def test_a_failed_job_says_why(conf: Path, sweep, tmp_path: Path) -> None:
    code, output = sweep("seed=101,102,0,105", SLURM)
    assert code == 1, output
    assert [(t["state"], t["exit_code"], t["reason"]) for t in records(tmp_path / "sweep")] == [
        ("failed", 1, "exit code 1: ValueError: a bug in a plugin"),
        ("failed", 4, "exit code 4: out of memory. Lower data.batch_size"),
        ("done", 0, None),
        ("failed", -signal.SIGSEGV, "killed by SIGSEGV"),
    ]


def test_a_stopped_sweep_cancels_its_jobs_and_goes_on_later(conf: Path, start, sweep, tmp_path: Path) -> None:
    process = start("seed=1000,1001,1002", SLURM)  # two have a core each, the third waits for one
    wait_for(lambda: len(starts(tmp_path / "sweep")) == 2 and len(jobs(conf)) == 3)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert states(tmp_path / "sweep") == ["interrupted"] * 3
    wait_for(lambda: not jobs(conf), seconds=10)
    (tmp_path / "sweep" / "go").touch()
    code, output = sweep("seed=1000,1001,1002", SLURM)
    assert code == 0, output
    assert [(t["state"], t["attempts"]) for t in records(tmp_path / "sweep")] == [("done", 2)] * 3


@pytest.mark.parametrize("waits", [False, True], ids=["running", "waiting"])
def test_a_job_that_others_cancel_is_recorded_and_the_rest_goes_on(
    waits: bool, conf: Path, start, sweep, tmp_path: Path
) -> None:
    process = start("seed=1000,1001,1002", SLURM)
    wait_for(lambda: len(starts(tmp_path / "sweep")) == 2 and len(jobs(conf)) == 3)
    number = next(job.split()[0] for job in jobs(conf) if job.endswith("PENDING" if waits else "RUNNING"))
    trial = next(int(file.stem) for file in notes(tmp_path / "sweep") if file.read_text() == number)
    slurm.run(conf, "scancel", number)
    wait_for(lambda: states(tmp_path / "sweep")[trial] in ("failed", "interrupted"), seconds=60)
    (tmp_path / "sweep" / "go").touch()
    output, _ = process.communicate(timeout=60)
    cancelled = records(tmp_path / "sweep")[trial]
    assert process.returncode == 143, output
    expected = ("interrupted", f"its job {number}: CANCELLED") if waits else ("failed", "killed by SIGTERM")
    assert (cancelled["state"], cancelled["reason"]) == expected
    assert sorted(states(tmp_path / "sweep")) == sorted(["done", "done", expected[0]])
    assert sweep("seed=1000,1001,1002", SLURM)[0] == 0
    assert states(tmp_path / "sweep") == ["done"] * 3


def test_the_job_of_a_killed_sweep_is_ended_before_its_trial_starts_again(
    conf: Path, start, sweep, tmp_path: Path
) -> None:
    process = start("seed=1000", SLURM)
    wait_for(lambda: len(starts(tmp_path / "sweep")) == 1)
    process.kill()
    process.communicate(timeout=60)
    assert len(jobs(conf)) == 1
    (_, first, *_), *_ = starts(tmp_path / "sweep")
    again = start("seed=1000", SLURM)
    wait_for(lambda: len(starts(tmp_path / "sweep")) == 2)
    assert not Path(f"/proc/{first}").exists()
    (tmp_path / "sweep" / "go").touch()
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output


WRONG = {
    "partition": ("+hydra.launcher.parameters.slurm_partition=none_of_these", "invalid partition"),
    "nodes": ("+hydra.launcher.parameters.nodes=2", "one task on one node"),
    "requeue": ("+hydra.launcher.parameters.slurm_additional_parameters={requeue:true}", "start a trial anew"),
}


@pytest.mark.parametrize(("override", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_the_cluster_or_ftframe_refuses_is_told(override: str, said: str, conf: Path, sweep) -> None:
    code, output = sweep("seed=0", SLURM, override)
    assert code == 2, output
    assert said in output


def test_no_job_is_started_again_by_slurm_nor_has_a_limit_of_submitits(conf: Path, start, tmp_path: Path) -> None:
    process = start("seed=1000", SLURM)
    wait_for(lambda: notes(tmp_path / "sweep") and jobs(conf))
    shown = slurm.run(conf, "scontrol", "show", "job").split()
    assert {"Requeue=0", "TimeLimit=UNLIMITED", "JobName=ftframe", "NumTasks=1"} <= set(shown)
    process.terminate()
    process.communicate(timeout=60)


DEALT = {
    "those of the trial": (("trainer.accelerator=auto", "sweep.gpus_per_trial=2"), "gres:gpu:2"),
    "none on the CPU": (("trainer.accelerator=cpu", "sweep.gpus_per_trial=2"), None),
    "as the parameters say": (
        ("trainer.accelerator=auto", "+hydra.launcher.parameters.slurm_gres='gpu:2'"),
        "gres:gpu:2",
    ),
}


@pytest.mark.parametrize(("overrides", "gpus"), DEALT.values(), ids=DEALT.keys())
def test_a_job_gets_its_gpus(overrides: tuple[str, ...], gpus: str | None, conf: Path, start, tmp_path: Path) -> None:
    process = start("seed=1000", SLURM, *overrides)
    wait_for(lambda: starts(tmp_path / "sweep"))
    (number, _), *_ = map(str.split, jobs(conf))
    shown = slurm.run(conf, "scontrol", "show", "job", number).split()
    assert next((word.partition("=")[2] for word in shown if word.startswith("TresPerNode=")), None) == gpus
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output


def test_a_controller_that_restarts_costs_no_trial(daemons: Path, conf: Path, start, tmp_path: Path) -> None:
    process = start("seed=1000", SLURM)
    wait_for(lambda: starts(tmp_path / "sweep"))
    with slurm.controller_stopped(daemons):
        assert not jobs(conf)  # no answer
        time.sleep(15)  # more than one look into the queue
        assert states(tmp_path / "sweep") == ["running"]
    (tmp_path / "sweep" / "go").touch()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


REAL = (
    *("data.dataset.size=64", "data.dataset.validation_size=8", "data.batch_size=4", "trainer.max_epochs=-1"),
    *("trainer.max_steps=80", "trainer.log_every_n_steps=1", "peft.r=4", "checkpoint.every_n_steps=1000"),
)
ENDS = {
    "preempted": ("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"),
    "cancelled": ("scancel", "{job}"),
    "near its time limit": ("scancel", "--signal=USR2", "{job}"),
    "told by --signal=USR1@60": ("scancel", "--signal=USR1", "{job}"),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_a_trial_saves_its_state_and_goes_on(end: tuple[str, ...], conf: Path, start, tmp_path: Path) -> None:
    run = tmp_path / "sweep" / "runs" / "0000"
    first = start(*REAL, "seed=0", SLURM, FTFRAME_TRIAL_COMMAND="")
    wait_for(lambda: len(steps(run)) >= 3)
    slurm.run(conf, *(word.format(job=jobs(conf)[0].split()[0]) for word in end))
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 143, output
    (trial,) = records(tmp_path / "sweep")
    assert (trial["state"], trial["exit_code"], trial["reason"]) == ("interrupted", 143, "stopped by SIGTERM")
    reached = len(steps(run))
    assert f"the state of step {reached} " in (tmp_path / "sweep" / "logs" / "0000.txt").read_text()
    second = start(*REAL, "seed=0", SLURM, FTFRAME_TRIAL_COMMAND="")
    output, _ = second.communicate(timeout=240)
    assert second.returncode == 0, output
    assert steps(run) == list(range(80))  # each once: none was done again
    assert [(t["state"], t["attempts"]) for t in records(tmp_path / "sweep")] == [("done", 2)]


def steps(run: Path) -> list[int]:
    """The steps of training in a run's `metrics.csv`."""
    if not (run / "metrics.csv").is_file():
        return []
    with (run / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row.get("train/loss")]


def notes(folder: Path) -> list[Path]:
    """The files with the numbers of the trials' jobs."""
    return [*(folder / ".private").glob("*.job")]
