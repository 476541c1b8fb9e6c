"""The leaderboard's files and its table on the console."""

from __future__ import annotations

import csv
import json
import math
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftframe import console
from ftframe.errors import ConfigError
from ftframe.sweep.board import build_board
from ftframe.sweep.leaderboard import REASON, SHOWN, print_board, print_leaderboard, render_csv, write_leaderboard
from ftframe.sweep.trials import Objective, read_sweep

from .folders import LOSS, SweepFolder, falling

SPEED = {"metric": "tokens_per_second", "direction": "maximize"}


def rows_of(folder):
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_grid_is_ranked(make_sweep):
    sweep = make_sweep(cells=8)
    cells = [(m, p, q) for m in ("a", "b") for p in ("lora", "qlora") for q in ("4bit", "8bit")]
    losses = [0.8, 0.3, 0.5, 0.3, 0.1, 0.9, 0.7, 0.2]
    for (model, peft, quant), loss in zip(cells, losses, strict=True):
        sweep.add({"model": model, "peft": peft, "quant": quant}, {"val/loss": loss}, curve=falling(8, loss))
    write_leaderboard(sweep.path)
    rows = rows_of(sweep.path)
    assert [row["number"] for row in rows] == ["4", "7", "1", "3", "2", "6", "0", "5"]
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 9)]
    assert (rows[0]["model"], rows[0]["peft"], rows[0]["quant"]) == ("b", "lora", "4bit")
    assert {float(row["val/loss"]) for row in rows} == set(losses)


def test_numbers_are_written_in_full_and_values_as_a_config_has_them(make_sweep):
    sweep = make_sweep()
    overrides = {"optim.lr": 0.1 + 0.2, "a": None, "b": True, "c": [1, "x"], "d": 'x, "y"\n', "e": {"k": 1.0}}
    sweep.add(overrides, {"val/loss": math.nan, "val/f1": 1 / 3}, numbers={"peak_gpu_gib": 21.5})
    sweep.add({}, {"val/loss": math.inf})
    write_leaderboard(sweep.path)
    first, second = sorted(rows_of(sweep.path), key=lambda row: row["number"])
    written = {"optim.lr": "0.30000000000000004", "a": "null", "b": "true", "c": '[1, "x"]', "d": 'x, "y"\n'}
    assert {key: first[key] for key in written} == written
    assert (first["val/loss"], float(first["val/f1"]), first["peak_gpu_gib"]) == ("nan", 1 / 3, "21.5")
    assert (second["val/loss"], second["a"], second["rank"], first["rank"]) == ("inf", "", "1", "2")


def test_trials_without_a_rank_are_there_with_their_reason(make_sweep):
    sweep = make_sweep()
    sweep.add({"peft.r": 4}, {"val/loss": 0.5})
    for state in ("failed", "pruned", "interrupted", "running", "waiting"):
        sweep.add({"peft.r": 8}, state=state, reason=f"it was {state}", curve=falling(3, 1.0))
    (sweep.path / "trials" / "0004.json").write_text('{"number": 4, "st')
    write_leaderboard(sweep.path)
    rows = rows_of(sweep.path)
    assert [row["state"] for row in rows] == ["done", "failed", "pruned", "interrupted", "unknown", "waiting"]
    assert [row["rank"] for row in rows] == ["1", "", "", "", "", ""]
    assert rows[1]["reason"] == "it was failed"
    assert "trials/0004.json cannot be read" in rows[4]["reason"]


def test_several_objectives_mark_the_front(make_sweep):
    sweep = make_sweep(objectives=[LOSS, SPEED])
    for loss, speed in ((0.5, 10.0), (0.4, 5.0), (0.6, 9.0)):
        sweep.add({"x": loss}, {"val/loss": loss}, numbers={"tokens_per_second": speed})
    write_leaderboard(sweep.path)
    rows = rows_of(sweep.path)
    assert [(row["number"], row["pareto_front"]) for row in rows] == [("1", "yes"), ("0", "yes"), ("2", "no")]


def test_files_are_replaced_whole(make_sweep, monkeypatch):
    sweep = make_sweep()
    sweep.add({}, {"val/loss": 0.5})
    write_leaderboard(sweep.path)
    before = (sweep.path / "sweep.csv").read_text()
    sweep.add({}, {"val/loss": 0.25})
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        write_leaderboard(sweep.path)
    assert (sweep.path / "sweep.csv").read_text() == before


@pytest.fixture
def printed(monkeypatch):
    """What the console shows from here on."""
    screen = console.Console(width=120, record=True, highlight=False, quiet=False)
    monkeypatch.setattr(console, "console", screen)
    return screen.export_text


def test_the_console_shows_ranks_reasons_and_the_way_to_the_best(make_sweep, printed):
    sweep = make_sweep(cells=5)
    sweep.add({"optim.lr": 1e-4, "peft": "lora"}, {"val/loss": 0.51234567})
    sweep.add({"optim.lr": 1e-3, "peft": "[b]lora"}, {"val/loss": 0.25})
    sweep.add({"optim.lr": 1e-2, "peft": "lora"}, state="failed", exit_code=4, reason="out of [memory]\n" + "x" * 500)
    print_leaderboard(sweep.path)
    lines = printed().splitlines()
    assert lines[0].strip() == "Sweep sweep: by val/loss, minimize"
    ranked = [line.replace("│", " ").split() for line in lines if line.startswith("│")]
    assert [row[:5] for row in ranked] == [
        ["1", "1", "0.001", "[b]lora", "0.25"],
        ["2", "0", "0.0001", "lora", "0.5123"],
    ]
    failed = next(line for line in lines if "trial 2 failed" in line)
    assert failed.startswith("trial 2 failed: out of [memory] xxx")
    assert failed.endswith("... (optim.lr=0.01 peft=lora)")
    assert len(failed) < REASON + 80
    assert "note: 2 of 5 trials have no file yet" in lines
    assert "3 trials: 2 done, 1 failed" in lines
    assert lines[-1] == f"Trial 1 again: ftframe fit --config-dir {sweep.path} experiment=best"


def test_the_console_says_what_it_leaves_out(make_sweep, printed):
    sweep = make_sweep()
    for number in range(SHOWN + 3):
        sweep.add({"x": number}, {"val/loss": float(number)})
    print_leaderboard(sweep.path)
    assert "... and 3 more; sweep.csv and sweep.html have all" in printed()


def test_an_empty_sweep_is_shown(make_sweep, printed):
    sweep = make_sweep()
    write_leaderboard(sweep.path)
    print_leaderboard(sweep.path)
    assert "no trial has finished with val/loss, minimize" in printed()
    assert rows_of(sweep.path) == []


def test_several_sweeps_share_a_board(make_sweep, printed):
    first, second = make_sweep("first"), make_sweep("second")
    first.add({"peft.r": 4}, {"val/loss": 0.5})
    second.add({"optim.lr": 1e-3}, {"val/loss": 0.25})
    board = build_board([read_sweep(first.path), read_sweep(second.path)])
    assert [(entry.sweep, entry.rank) for entry in board.entries] == [("second", 1), ("first", 2)]
    header, *rows = csv.reader(render_csv(board).splitlines())
    assert header[:6] == ["sweep", "number", "state", "rank", "optim.lr", "peft.r"]
    assert [row[0] for row in rows] == ["second", "first"]
    print_board(board)
    assert "2 sweeps: by val/loss, minimize" in printed()


def test_sweeps_of_one_name_are_told_apart(make_sweep):
    sweeps = []
    for place in ("a", "b"):
        sweep = make_sweep(f"{place}/sweep", cells=2)
        sweep.add({}, {"val/loss": 0.5})
        sweeps.append(read_sweep(sweep.path))
    board = build_board(sweeps)
    assert [entry.sweep for entry in board.entries] == [str(sweep.folder) for sweep in sweeps]
    assert board.notes[1] == f"{sweeps[1].folder}: 1 of 2 trials have no file yet"


def test_sweeps_with_other_objectives_need_a_metric(make_sweep):
    first, second = make_sweep("first"), make_sweep("second", objectives=[SPEED])
    first.add({}, {"val/loss": 0.5})
    sweeps = [read_sweep(first.path), read_sweep(second.path)]
    with pytest.raises(ConfigError, match=r"val/loss \(minimize\).*tokens_per_second \(maximize\).*--by"):
        build_board(sweeps)
    assert build_board(sweeps, Objective("val/loss")).entries[0].rank == 1
    with pytest.raises(ConfigError, match=r"Did you mean 'val/loss'") as error:
        build_board(sweeps, Objective("val/los"))
    assert "Known: seconds, val/loss." in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NUMBERS = st.floats() | st.integers() | JSON


@settings(max_examples=25)
@given(
    trials=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "overrides": st.dictionaries(st.text(max_size=8), JSON, max_size=3) | JSON,
                "state": st.sampled_from(["done", "done", "failed", "running"]) | JSON,
                "reason": JSON,
                "seconds": NUMBERS,
                "exit_code": JSON,
                "values": st.fixed_dictionaries({"val/loss": NUMBERS}) | JSON,
            },
        ),
        max_size=4,
    ),
    asked=JSON,
)
def test_whatever_the_files_say_every_trial_is_there(tmp_path_factory, trials, asked):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "trials").mkdir()
    (folder / "sweep.json").write_text(json.dumps(asked))
    for number, told in enumerate(trials):
        (folder / "trials" / f"{number:04d}.json").write_text(json.dumps(told))
    write_leaderboard(folder)
    print_leaderboard(folder)
    assert sorted(int(row["number"]) for row in rows_of(folder)) == list(range(len(trials)))


@pytest.mark.slow
def test_a_thousand_trials(make_sweep):
    rng = random.Random(0)
    sweep = make_sweep()
    for _ in range(1000):
        rate = 10 ** rng.uniform(-5, -2)
        sweep.add({"optim.lr": rate}, {"val/loss": rate}, curve=falling(100, rate))
    write_leaderboard(sweep.path)
    assert len(rows_of(sweep.path)) == 1000
    assert (sweep.path / "sweep.html").stat().st_size < 3_000_000


def test_torch_is_not_imported_and_optuna_only_for_a_page():
    script = (
        "import sys, ftframe.tasks.leaderboard\n"
        "print([name for name in ('torch', 'optuna', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_folders_of_the_tests_are_as_the_launcher_writes_them(tmp_path):
    sweep = SweepFolder(tmp_path / "sweep")
    sweep.add({"x": 1}, {"val/loss": 0.5})
    told = json.loads((sweep.path / "trials" / "0000.json").read_text())
    assert {
        "number",
        "overrides",
        "state",
        "exit_code",
        "reason",
        "folder",
        "started",
        "seconds",
        "attempts",
        "values",
    } == set(told)
