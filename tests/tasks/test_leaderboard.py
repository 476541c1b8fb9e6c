"""`ftframe leaderboard`: as it is typed."""

from __future__ import annotations

import csv

import pytest

from ftframe import console
from ftframe.errors import ConfigError
from ftframe.tasks.leaderboard import leaderboard

from ..sweep.folders import SweepFolder
from .conftest import run_command

F1 = {"metric": "val/f1", "direction": "maximize"}


@pytest.fixture
def sweeps(tmp_path):
    """Two sweeps, of which the one is better by loss and the other by f1."""
    made = [SweepFolder(tmp_path / name) for name in ("first", "second")]
    for number, sweep in enumerate(made):
        for loss in (0.5, 0.25):
            final = {"val/loss": loss + number, "val/f1": 0.1 + loss + number, "val/words": 3}
            sweep.add({"optim.lr": loss / 1000}, final, numbers={"tokens_per_second": 100.0})
    return made


@pytest.fixture
def printed(monkeypatch):
    screen = console.Console(width=140, record=True, highlight=False, quiet=False)
    monkeypatch.setattr(console, "console", screen)
    return screen.export_text


def read(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        return [(row.get("sweep", ""), row["number"], row["rank"]) for row in csv.DictReader(file)]


def test_one_sweep_is_shown_and_its_files_written(sweeps, printed):
    assert leaderboard([str(sweeps[0].path)]) == 0
    assert read(sweeps[0].path) == [("", "1", "1"), ("", "0", "2")]
    assert {"sweep.html", "experiment"} <= {path.name for path in sweeps[0].path.iterdir()}
    assert "experiment=best" in printed()


def test_several_sweeps_are_ranked_together(sweeps, printed, tmp_path):
    output = tmp_path / "new" / "joint"
    assert leaderboard([*(str(sweep.path) for sweep in sweeps), "--output", str(output)]) == 0
    joint = [("first", "1", "1"), ("first", "0", "2"), ("second", "1", "3"), ("second", "0", "4")]
    assert read(output) == joint
    assert sorted(path.name for path in output.iterdir()) == ["sweep.csv", "sweep.html"]
    assert all(read(sweep.path) == [("", "1", "1"), ("", "0", "2")] for sweep in sweeps)
    assert leaderboard([*(str(sweep.path) for sweep in sweeps), "--output", str(output)]) == 0, "it may be written anew"
    assert "2 sweeps: by val/loss, minimize" in printed()


@pytest.mark.parametrize(
    ("asked", "title", "order"),
    [
        (["--by", "val/f1"], "by val/f1, maximize", ["0", "1"]),
        (["--by", "tokens_per_second"], "by tokens_per_second, maximize", ["0", "1"]),
        (["--by", "val/words", "--direction", "minimize"], "by val/words, minimize", ["0", "1"]),
        (["--by", "val/loss", "--direction", "maximize"], "by val/loss, maximize", ["0", "1"]),
        (["--by", "val/loss"], "by val/loss, minimize", ["1", "0"]),
    ],
)
def test_another_metric_ranks_the_table_and_not_the_sweeps_files(sweeps, printed, tmp_path, asked, title, order):
    output = tmp_path / "joint"
    assert leaderboard([str(sweeps[0].path), *asked, "--output", str(output)]) == 0
    assert title in printed()
    assert [number for _, number, _ in read(output)] == order
    assert read(sweeps[0].path) == [("", "1", "1"), ("", "0", "2")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["first", "--by", "val/words"], "--direction minimize or --direction maximize"),
        (["first", "--by", "val/lossy", "--direction", "minimize"], "Did you mean 'val/loss'"),
        (["first", "--direction", "minimize"], "Add --by METRIC"),
        (["first", "second/../first"], "given twice"),
        (["first", "--output", "second"], "is the folder of a sweep"),
        (["first", "--output", "first/sweep.json"], "is a file"),
        (["first/runs/0000"], "is not the folder of a sweep"),
        (["absent"], "There is no folder absent"),
        (["."], "Give what lies in it: first second"),
    ],
)
def test_what_cannot_be_ranked_is_refused_before_anything_is_written(sweeps, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        leaderboard(arguments)
    assert message in str(error.value)
    assert not list(tmp_path.rglob("sweep.csv"))


def test_the_command_shows_it_and_leaves_with_0_or_2(sweeps, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "metrics.csv"):
        (run / name).touch()
    done = run_command("leaderboard", "first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Trial 1 again: ftframe fit --config-dir first experiment=best" in done.stdout
    refused = run_command("leaderboard", "run", cwd=tmp_path)
    assert refused.returncode == 2
    assert "It is the folder of a single run. Give the folder of a sweep, outputs/multirun/<name>." in refused.stderr
    assert run_command("leaderboard", cwd=tmp_path).returncode == 2
