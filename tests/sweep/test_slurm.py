"""The launcher `submitit_slurm` in a real SLURM, which this machine is the one node of."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
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
    with pytest.MonkeyPatch.context():
        context = slurm.one_node(tmp_path_factory.mktemp("slurm"))
        try:
            conf = context.__enter__()
        except slurm.NotHere as error:
            pytest.skip(str(error))
        try:
            yield conf
        finally:
            context.__exit__(None, None, None)


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
