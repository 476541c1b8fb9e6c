"""The launchers of clusters, on this machine."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path

import pytest

from .outcome import leaderboard, records, starts, wait_for

GRID = ("peft.r=4,8", "optim.lr=1e-3,2e-3", "sweep.max_parallel=2")


def needs(package: str):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: pip install 'ftframe[{package}]'")


LAUNCHERS = [
    pytest.param("submitit_local", marks=needs("submitit")),
    pytest.param("ray", marks=[needs("ray"), pytest.mark.slow]),
]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_same_grid_gives_the_same_leaderboard(launcher: str, sweep, tmp_path: Path) -> None:
    assert sweep(*GRID)[0] == 0
    code, output = sweep(*GRID, f"hydra/launcher={launcher}", "sweep.dir=cluster", **RAY)
    assert code == 0, output
    assert leaderboard(tmp_path / "cluster") == leaderboard(tmp_path / "sweep")
    assert (tmp_path / "cluster" / "logs" / "0001.txt").read_text() == "trial 0001\n"
    assert len({group for _, _, group, *_ in starts(tmp_path / "cluster")}) == 4


RAY = {"RAY_DISABLE_IMPORT_WARNING": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@needs("submitit")
def test_a_failed_job_says_why(sweep, tmp_path: Path) -> None:
    code, _ = sweep("seed=0,102,105", "hydra/launcher=submitit_local")
    assert code == 4
    assert [(t["state"], t["exit_code"]) for t in records(tmp_path / "sweep")] == [
        ("done", 0),
        ("failed", 4),
        ("failed", -signal.SIGSEGV),
    ]


@needs("submitit")
def test_a_stopped_sweep_cancels_its_jobs(start, tmp_path: Path) -> None:
    process = start("seed=1000,1", "hydra/launcher=submitit_local", "sweep.grace_seconds=10")
    wait_for(lambda: len(starts(tmp_path / "sweep")) == 1)
    wait_for(lambda: records(tmp_path / "sweep")[0]["state"] == "running")
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert [t["state"] for t in records(tmp_path / "sweep")] == ["interrupted", "waiting"]
    assert records(tmp_path / "sweep")[0]["exit_code"] == -signal.SIGTERM  # and not KILL
    pid = int(starts(tmp_path / "sweep")[0][1])
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])


@needs("submitit")
def test_a_wrong_parameter_is_told(sweep) -> None:
    code, output = sweep("seed=0,1", "hydra/launcher=submitit_local", "+hydra.launcher.parameters.timeout_mins=3")
    assert code == 2
    assert "timeout_mins" in output
