"""What `sweep.html` holds; what it does is tested in a browser."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from ftframe.sweep import curves
from ftframe.sweep.board import build_board
from ftframe.sweep.leaderboard import write_leaderboard
from ftframe.sweep.page import SCRIPTS, render
from ftframe.sweep.trials import read_sweep

from .folders import falling

DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
EVIL = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>"


def page_of(sweep):
    write_leaderboard(sweep.path)
    return (sweep.path / "sweep.html").read_text(encoding="utf-8")


def data_of(page):
    (block,) = DATA.findall(page)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(block, parse_constant=refuse)


def test_the_page_has_everything_and_asks_for_nothing(make_sweep):
    sweep = make_sweep()
    for rank in (4, 8, 64):
        sweep.add({"peft.r": rank, "peft": "lora"}, {"val/loss": 1 / rank}, curve=falling(12, 1 / rank))
    page = page_of(sweep)
    data = data_of(page)
    assert [axis["name"] for axis in data["axes"]] == ["peft.r", "val/loss"], "peft has one value"
    assert [axis["kind"] for axis in data["axes"]] == ["log", "linear"]
    assert [(chart["metric"], len(chart["lines"])) for chart in data["curves"]] == [("train/loss", 3), ("val/loss", 3)]
    assert data["ranks"] == [1, 2, 3]
    assert data["links"] == ["./runs/0002/", "./runs/0001/", "./runs/0000/"]
    assert "8 finished trials; there are 3" in data["importances"]["how"]
    assert re.findall(r"(?:src|href)\s*=|@import|url\(|https?://(?!www\.w3\.org/2000/svg)", page) == []
    assert page.count("<script") == 2


def test_the_page_says_what_was_typed_as_a_shell_takes_it(make_sweep):
    sweep = make_sweep(command="preview", overrides=["hydra.mode=MULTIRUN", "optim.lr=tag(log, interval(1e-5, 1e-3))"])
    (told,) = data_of(page_of(sweep))["sweeps"]
    assert told["command"] == "ftframe preview -m 'optim.lr=tag(log, interval(1e-5, 1e-3))'"


def test_nothing_from_trials_becomes_markup(make_sweep):
    sweep = make_sweep(f"</title>{EVIL.replace('/', '')}", overrides=[f"a={EVIL}"])
    sweep.add({"peft": EVIL, EVIL: 1}, {"val/loss": 1.0, f"val/{EVIL}": 2.0})
    sweep.add({"peft": "lora"}, state="failed", reason=EVIL, folder=f"javascript:{EVIL}")
    page = page_of(sweep)
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert page.count("<!--") == 0
    assert "<img" not in page
    data = data_of(page)
    assert EVIL in data["rows"][0]
    assert EVIL in data["rows"][1]
    assert data["links"] == ["./runs/0000/", "./runs/0001/"]


def test_scripts_never_write_markup():
    folder = Path(curves.__file__).with_name("html")
    for name in SCRIPTS:
        text = (folder / name).read_text(encoding="utf-8")
        assert len(text) > 500
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", text), name


def test_what_is_not_finite_is_spelt_and_not_drawn(make_sweep):
    sweep = make_sweep()
    for value in (0.5, math.nan, math.inf, 0.25):
        sweep.add({"x": value}, {"val/loss": value})
    data = data_of(page_of(sweep))
    index = [column["name"] for column in data["columns"]].index("val/loss")
    assert [row[index] for row in data["rows"]] == [0.25, 0.5, "Infinity", "NaN"]
    assert [len(axis["places"]) for axis in data["axes"]] == [2, 2]


def test_curves_are_thinned_together(make_sweep, monkeypatch):
    monkeypatch.setattr(curves, "POINTS", 240)
    sweep = make_sweep()
    for number in range(6):
        sweep.add({"x": number}, {"val/loss": 1.0 + number}, curve=falling(200, number))
    charts = data_of(page_of(sweep))["curves"]
    lines = [line for chart in charts for line in chart["lines"]]
    assert len(lines) == 12
    assert all(len(steps) == len(values) <= 20 for _, steps, values in lines)
    assert all((steps[0], steps[-1]) in ((0, 199), (3, 199)) for _, steps, _ in lines)


def test_a_joint_page_links_from_where_it_lies(make_sweep, tmp_path):
    sweeps = [make_sweep(name) for name in ("a b", "c")]
    for sweep in sweeps:
        sweep.add({"x": 1}, {"val/loss": 0.5})
    board = build_board([read_sweep(sweep.path) for sweep in sweeps])
    data = data_of(render(board, tmp_path / "joint"))
    assert data["links"] == ["./../a%20b/runs/0000/", "./../c/runs/0000/"]
    assert data["names"] == ["a b 0", "c 0"]
    assert data["again"] is None


@pytest.mark.parametrize("text", ["\ud800", "\u2028", "\0", "é漢🙂"])
def test_odd_texts_are_kept(make_sweep, text):
    sweep = make_sweep()
    sweep.add({"x": text}, {"val/loss": 0.5})
    assert text in data_of(page_of(sweep))["rows"][0]
