"""Studies from the command line, with trials that train nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from .outcome import leaderboard, records, starts, wait_for

OVER = ("hydra/sweeper=optuna", "optim.lr=tag(log,interval(1e-5,1e-2))", "peft.r=int(interval(2,32))")


def trials_of(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="ftframe", storage=url).get_trials()


def test_a_study_is_searched_and_told(sweep, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    code, output = sweep(*OVER, "sweep.n_trials=5")
    assert code == 0, output
    kept, told = records(folder), trials_of(f"sqlite:///{folder / 'study.db'}")
    assert [t.number for t in told] == [t["number"] for t in kept] == list(range(5))
    for trial, record in zip(told, kept, strict=True):
        assert trial.state.name == "COMPLETE" and record["state"] == "done"
        assert trial.params == record["overrides"]
        assert (
            trial.value
            == record["values"]["val/loss"]
            == record["overrides"]["peft.r"] + 100 * trial.params["optim.lr"]
        )
    assert len({t.params["optim.lr"] for t in told}) == 5
    assert json.loads((folder / "sweep.json").read_text())["sweeper"] == "optuna"
    code, output = sweep(*OVER, "sweep.n_trials=5")  # there is nothing left to do
    assert code == 0 and len(starts(folder)) == 5, output


SAMPLERS = {
    "random": (),
    "cmaes": (),
    "gp": ("+sweep.sampler_args.n_startup_trials=2",),
}


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "further"), SAMPLERS.items(), ids=SAMPLERS)
def test_samplers(sampler: str, further, sweep, tmp_path: Path) -> None:
    code, output = sweep(*OVER, "sweep.n_trials=4", f"sweep.sampler={sampler}", *further)
    assert code == 0, output
    assert Counter(t["state"] for t in records(tmp_path / "sweep")) == {"done": 4}


def test_a_grid_sampler_tries_everything_once(sweep, tmp_path: Path) -> None:
    grid = ("hydra/sweeper=optuna", "peft.r=range(2,5)", "seed=0,1", "sweep.sampler=grid", "sweep.n_trials=50")
    code, output = sweep(*grid)
    assert code == 0, output
    found = {tuple(t["overrides"].values()) for t in records(tmp_path / "sweep")}
    assert found == {(r, seed) for r in (2, 3, 4) for seed in (0, 1)}


def test_several_objectives(sweep, tmp_path: Path) -> None:
    objectives = "sweep.objectives=[{metric:val/loss},{metric:tokens_per_second,direction:maximize}]"
    code, output = sweep(*OVER, objectives, "sweep.n_trials=3")
    assert code == 0, output
    told = trials_of(f"sqlite:///{tmp_path / 'sweep' / 'study.db'}")
    assert [t.values[1] for t in told] == [10.0 * t.params["peft.r"] for t in told]


def test_bad_trials_are_pruned_and_end_cleanly(sweep, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    pruner = ("sweep.pruner=median", "+sweep.pruner_args.n_startup_trials=2")
    code, output = sweep(*OVER, *pruner, "sweep.n_trials=8")
    assert code == 0, output
    kept = records(folder)
    states = Counter(t["state"] for t in kept)
    assert states["pruned"] >= 1 and states["done"] >= 2 and sum(states.values()) == 8
    for record in kept:
        assert (record["values"]["steps"] == 9) or record["state"] == "pruned"
        assert record["exit_code"] == 0 and record["values"]["val/loss"] > 0
    told = trials_of(f"sqlite:///{folder / 'study.db'}")
    assert [t.state.name for t in told] == [{"done": "COMPLETE"}.get(t["state"], "PRUNED") for t in kept]


BAD = {
    "several objectives": (
        ("sweep.objectives=[{metric:val/loss},{metric:seconds}]", "sweep.pruner=asha"),
        "Optuna prunes by one objective",
    ),
    "a sampler's argument": (("+sweep.sampler_args.n_startup=1",), "n_startup"),
    "a pruner's argument": (("sweep.pruner=asha", "+sweep.pruner_args.min_resource=0"), "min_resource"),
    "a sampler": (("sweep.sampler=tpee",), "sampler"),
    "a secret": (("logger=csv", "+logger.api_key=hunter22,hunter33"), "a secret cannot be searched"),
    "a storage": (("sweep.storage=nosuch://ada:hush@host/db",), "sweep.storage=nosuch://<redacted>@host/db"),
    "an unknown key": (("optim.lrr=interval(0,1)",), "Unknown key 'optim.lrr'"),
    "a value": (("data.batch_size=int(interval(0,4))",), "data.batch_size=0"),
}


@pytest.mark.parametrize(("overrides", "message"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_told_before_anything_starts(overrides, message: str, sweep, tmp_path: Path) -> None:
    code, output = sweep(*OVER, *overrides)
    assert code == 2, output
    assert message in output and "hush" not in output
    assert starts(tmp_path / "sweep") == []


def test_a_killed_study_goes_on_with_the_same_trials(start, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    overrides = (*OVER, "seed=1000", "sweep.n_trials=3", "sweep.grace_seconds=0.5")
    process = start(*overrides)
    wait_for(lambda: len(starts(folder)) == 1)
    wait_for(lambda: [t["state"] for t in records(folder)] == ["running"])
    before = records(folder)[0]["overrides"]
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    resumed = start(*overrides)
    wait_for(lambda: len(starts(folder)) == 2)
    (folder / "go").touch()
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, output
    assert records(folder)[0]["overrides"] == before
    assert [t["attempts"] for t in records(folder)] == [2, 1, 1]
    told = trials_of(f"sqlite:///{folder / 'study.db'}")
    assert [(t.number, t.state.name) for t in told] == [(n, "COMPLETE") for n in range(3)]


def run_two(start, url: str, tmp_path: Path, n_trials: int) -> list[optuna.trial.FrozenTrial]:
    """Two sweeps in folders of their own share a study; what it counts of it."""
    shared = (*OVER, f"sweep.storage={url}", f"sweep.n_trials={n_trials}")
    processes = [start(*shared, f"sweep.dir={name}") for name in ("one", "two")]
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    told = [t for t in trials_of(url) if "ftframe:surplus" not in t.user_attrs]
    kept = [record for name in ("one", "two") for record in records(tmp_path / name)]
    assert sorted(t["number"] for t in kept) == [t.number for t in told]
    assert {t["number"]: t["overrides"] for t in kept} == {t.number: t.params for t in told}
    assert len({tuple(t.params.items()) for t in told}) == len(told) == n_trials
    assert {t.state.name for t in told} == {"COMPLETE"}
    assert set(leaderboard(tmp_path / "one")).isdisjoint(leaderboard(tmp_path / "two"))
    return told


def test_two_sweeps_share_a_study(start, tmp_path: Path) -> None:
    run_two(start, f"sqlite:///{tmp_path / 'shared.db'}", tmp_path, n_trials=8)


def test_a_silent_sweeps_trial_is_given_to_another(start, sweep, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    shared = (*OVER, f"sweep.storage={url}", "sweep.n_trials=2", "sweep.heartbeat_seconds=1")
    process = start(*shared, "seed=1000")
    wait_for(lambda: [t["state"] for t in records(tmp_path / "sweep")] == ["running"])
    lost = records(tmp_path / "sweep")[0]["overrides"]
    process.kill()
    process.communicate(timeout=60)
    time.sleep(3)
    code, output = sweep(*shared, "seed=0", "sweep.dir=other")
    assert code == 0, output
    kept = records(tmp_path / "other")
    assert len(kept) == 2 and lost in [t["overrides"] for t in kept]


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of this test's own."""
    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
    if initdb is None:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    as_user: list[str] = []
    if os.getuid() == 0:  # which the server refuses to run as
        if shutil.which("runuser") is None or subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
    pg_ctl = str(Path(os.path.realpath(initdb)).parent / "pg_ctl")
    pg_ctl = pg_ctl if Path(pg_ctl).exists() else "pg_ctl"
    data = str(folder / "data")
    subprocess.run([*as_user, initdb, "-D", data, "-U", "ada", "-A", "trust"], check=True, capture_output=True)
    options = f"-c listen_addresses='' -k {folder} -c fsync=off"
    begin = [*as_user, pg_ctl, "-D", data, "-o", options, "-l", f"{folder}/log", "-w", "start"]
    subprocess.run(begin, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield f"postgresql+psycopg://ada@/postgres?host={folder}"
    subprocess.run([*as_user, pg_ctl, "-D", data, "-m", "immediate", "stop"], check=True, capture_output=True)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_two_sweeps_share_a_study_in_postgresql(start, postgresql: str, tmp_path: Path) -> None:
    run_two(start, postgresql, tmp_path, n_trials=12)


def test_trials_that_a_signal_killed_are_tried_again(sweep, tmp_path: Path) -> None:
    killed = ("hydra/sweeper=optuna", "seed=choice(105)", "sweep.n_trials=1")
    assert sweep(*killed)[0] == 128 + signal.SIGSEGV
    sweep(*killed)
    first, second = records(tmp_path / "sweep")
    assert first["reason"] == "killed by SIGSEGV; its values are tried again"
    assert (second["overrides"], second["reason"]) == (first["overrides"], "killed by SIGSEGV")


def test_a_study_of_something_else_is_refused(sweep, tmp_path: Path) -> None:
    storage = f"sweep.storage=sqlite:///{tmp_path / 'shared.db'}"
    assert sweep(*OVER, storage, "sweep.n_trials=1")[0] == 0
    code, output = sweep("hydra/sweeper=optuna", "peft.r=int(interval(4,8))", storage, "sweep.dir=other")
    assert code == 2 and "the study there searches val/loss over" in output
