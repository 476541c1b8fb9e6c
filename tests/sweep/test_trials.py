"""Reading the folder of a sweep, whole or broken."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftframe.errors import ConfigError
from ftframe.sweep.trials import UNKNOWN, Objective, as_number, read_sweep


def test_a_sweep_is_read(make_sweep):
    sweep = make_sweep(overrides=["peft.r=4,8"], cells=2, objectives=[{"metric": "val/f1", "direction": "maximize"}])
    sweep.add({"peft.r": 4}, {"val/loss": 0.5, "val/f1": 0.75}, numbers={"tokens_per_second": 3000, "data": {}})
    sweep.add({"peft.r": 8}, state="failed", exit_code=3, reason="the loss is nan")
    read = read_sweep(sweep.path)
    assert (read.typed, read.cells, read.notes) == (("peft.r=4,8",), 2, ())
    assert read.objectives == (Objective("val/f1", "maximize"),)
    first, second = read.trials
    assert first.metrics == {"seconds": 11.0, "tokens_per_second": 3000.0, "val/loss": 0.5, "val/f1": 0.75}
    assert (first.state, first.reason, first.overrides) == ("done", "", {"peft.r": 4})
    assert (second.state, second.reason, second.metrics) == ("failed", "the loss is nan", {})


def test_values_of_the_trial_file_count_where_the_run_has_none(make_sweep):
    sweep = make_sweep()
    number = sweep.add({}, {}, values={"val/loss": 0.25})
    (sweep.path / "runs" / f"{number:04d}" / "metrics.json").unlink()
    (trial,) = read_sweep(sweep.path).trials
    assert trial.metrics == {"seconds": 12.5, "val/loss": 0.25}
    assert trial.reason == "there is no runs/0000/metrics.json"


BROKEN = {
    "empty": b"",
    "half": b'{"number": 0, "sta',
    "a list": b"[1]",
    "bytes": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "a number too long": b'{"number": ' + b"9" * 5000 + b"}",
    "no state": b"{}",
    "an unknown state": b'{"state": "flying"}',
    "a state of another type": b'{"state": ["done"], "overrides": [1], "values": 3, "folder": 7, "reason": null}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_trial_file_is_told_of_and_costs_nothing_else(make_sweep, content):
    sweep = make_sweep()
    sweep.add({"peft.r": 4}, {"val/loss": 0.5})
    sweep.add({"peft.r": 8}, {"val/loss": 0.25})
    (sweep.path / "trials" / "0001.json").write_bytes(content)
    first, second = read_sweep(sweep.path).trials
    assert first.state == "done"
    assert (second.number, second.state, second.metrics["val/loss"]) == (1, UNKNOWN, 0.25)
    assert "trials/0001.json" in second.reason


@pytest.mark.parametrize("content", [None, b'{"objectives": [', b"[]", b'{"objectives": [3, {"metric": 4}]}'])
def test_a_broken_sweep_file_leaves_the_trials(make_sweep, content):
    sweep = make_sweep()
    sweep.add({}, {"val/loss": 0.5})
    file = sweep.path / "sweep.json"
    file.unlink() if content is None else file.write_bytes(content)
    read = read_sweep(sweep.path)
    assert read.objectives == (Objective("val/loss"),)
    assert len(read.trials) == 1
    assert len(read.notes) == (0 if content and b"metric" in content else 1)


def test_a_run_without_a_trial_file_and_cells_without_anything_are_told_of(make_sweep):
    sweep = make_sweep(cells=5)
    sweep.add({}, {"val/loss": 0.5})
    (sweep.path / "runs" / "0003").mkdir()
    (sweep.path / "trials" / ".0004.json.partial").write_text("{")
    read = read_sweep(sweep.path)
    assert [(trial.number, trial.state) for trial in read.trials] == [(0, "done"), (3, UNKNOWN)]
    assert read.trials[1].reason == "there is no trials/0003.json"
    assert read.notes == ("3 of 5 trials have no file yet",)


@pytest.mark.parametrize("folder", ["../other", "/etc", "runs/../../other", "a\0b", "x" * 5000, "runs/absent", 5, None])
def test_a_run_folder_outside_the_sweep_is_not_followed(make_sweep, tmp_path, folder):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.json").write_text('{"final": {"val/loss": 9.0}}')
    sweep = make_sweep()
    sweep.add({}, {"val/loss": 0.5}, folder=folder)
    (trial,) = read_sweep(sweep.path).trials
    assert trial.metrics["val/loss"] == 0.5
    assert trial.folder == sweep.path / "runs" / "0000"


def test_what_is_no_sweep_is_refused_with_what_to_give(make_sweep, tmp_path):
    sweep = make_sweep("multirun/one")
    run = tmp_path / "fit"
    run.mkdir()
    for name in ("config.yaml", "metrics.csv"):
        (run / name).touch()
    (tmp_path / "empty").mkdir()
    for folder, words in (
        (run, "the folder of a single run"),
        (tmp_path / "absent", "There is no folder"),
        (sweep.path.parent, str(sweep.path)),
        (tmp_path / "empty", "ftframe fit -m"),
    ):
        with pytest.raises(ConfigError, match="sweep") as error:
            read_sweep(folder)
        assert words in str(error.value)


@given(st.one_of(st.floats(), st.integers(), st.sampled_from(["NaN", "Infinity", "-Infinity", "-inf", " nan "])))
def test_numbers_survive_json(value):
    number = as_number(json.loads(json.dumps(value)))
    assert number is not None
    if isinstance(value, float):
        assert number == value or (math.isnan(number) and math.isnan(value))


@pytest.mark.parametrize("value", [True, False, None, "", "0.5", "tokens", [], {}])
def test_what_is_no_number(value):
    assert as_number(value) is None
    assert as_number(10**400) == math.inf
