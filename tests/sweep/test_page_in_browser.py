"""`sweep.html` in a headless Chromium: it draws, sorts, hides and lights up, and its console stays empty."""

from __future__ import annotations

import pytest

from ftframe.sweep.leaderboard import write_leaderboard

from .folders import LOSS, falling

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
RANKED = [(9, 0.5), (100, 0.25), (10, 0.125), (9, 0.0625)]

CELLS = """
const index = [...document.querySelectorAll('#leaderboard th')].findIndex((th) => th.textContent === arguments[0]);
return [...document.querySelectorAll('#leaderboard tbody tr')].map((tr) => tr.cells[index].textContent)
"""
HEADING = (
    "return [...document.querySelectorAll('#leaderboard th')].findIndex((th) => th.textContent === arguments[0]) + 1"
)
PLACE_ON_LINE = """
const element = document.querySelector(arguments[0]);
element.scrollIntoView({block: 'center'});
const at = element.getPointAtLength(element.getTotalLength() * arguments[1]).matrixTransform(element.getScreenCTM());
return [at.x, at.y]
"""


@pytest.fixture
def opened(browser, make_sweep):
    """The page of a sweep with ties, odd texts, a NaN, trials that failed and one that was pruned."""
    sweep = make_sweep(overrides=["peft.r=9,100,10"], cells=9)
    for number, (rank, loss) in enumerate(RANKED):
        overrides = {"peft.r": rank, "optim.lr": 10.0 ** -(number + 2), "peft": EVIL if number == 1 else "lora"}
        sweep.add(overrides, {"val/loss": loss}, curve=falling(40, loss))
    sweep.add({"peft.r": 11}, {"val/loss": float("nan")})
    sweep.add({"peft.r": 8, "peft": "qlora"}, state="failed", reason=EVIL)
    sweep.add({"peft.r": 8}, state="pruned", reason="pruned at step 8", curve=falling(8, 1.0))
    write_leaderboard(sweep.path)
    browser.complaints()
    browser.open(sweep.path / "sweep.html")
    yield browser
    assert browser.complaints() == []


def sort_by(browser, heading):
    place = browser.run(HEADING, heading)
    assert place > 0
    browser.click(f"#leaderboard th:nth-child({place}) button")
    return browser.run("return document.querySelectorAll('#leaderboard th')[arguments[0]].ariaSort", place - 1)


def test_the_page_draws_all_parts(opened):
    count = "return document.querySelectorAll(arguments[0]).length"
    assert opened.run("return document.title") == "Sweep sweep"
    assert opened.run(count, "#leaderboard tbody tr") == 7
    assert opened.run(count, "#coordinates .line") == 4
    assert opened.run(count, "#coordinates .axes") == 4
    assert opened.run(count, "#curves svg") == 2
    assert opened.run(count, "#curves svg[data-metric='val/loss'] .line") == 5
    assert "8 finished trials" in opened.run("return document.querySelector('#importances').textContent")


def test_texts_of_trials_stay_texts(opened):
    assert opened.run("return window.hacked ?? null") is None
    assert opened.run("return document.querySelectorAll('img').length") == 0
    assert EVIL in opened.run(CELLS, "peft")
    assert EVIL in opened.run(CELLS, "reason")


def test_a_click_on_a_heading_sorts_numbers_by_value_and_again_turns_it_round(opened):
    assert opened.run(CELLS, "trial") == ["3", "2", "1", "0", "4", "5", "6"]
    assert sort_by(opened, "peft.r") == "ascending"
    assert opened.run(CELLS, "peft.r") == ["8", "8", "9", "9", "10", "11", "100"]
    assert opened.run(CELLS, "trial") == ["5", "6", "3", "0", "2", "4", "1"], "equal ones keep their order"
    assert sort_by(opened, "peft.r") == "descending"
    assert opened.run(CELLS, "peft.r") == ["100", "11", "10", "9", "9", "8", "8"]
    assert opened.run(CELLS, "trial") == ["1", "4", "2", "3", "0", "5", "6"], "equal ones keep their order"
    assert opened.run("return document.querySelectorAll('th[aria-sort=none]').length") == opened.run(
        "return document.querySelectorAll('th').length - 1"
    )


def test_what_is_missing_or_not_finite_is_last_in_both_directions(opened):
    for expected in (["0.0625", "0.125", "0.25", "0.5"], ["0.5", "0.25", "0.125", "0.0625"]):
        sort_by(opened, "val/loss")
        assert opened.run(CELLS, "val/loss") == [*expected, "NaN", "", ""]


def test_texts_sort_as_texts(opened):
    assert sort_by(opened, "state") == "ascending"
    assert opened.run(CELLS, "state") == ["done"] * 5 + ["failed", "pruned"]


def test_the_legend_hides_and_shows_a_curve(opened):
    count = "return document.querySelectorAll(`#curves g[data-row='0'] .line`).length"
    assert opened.run(count) == 2
    opened.click(".legend button[data-row='0']")
    assert opened.run(count) == 0
    assert opened.run("return document.querySelector('.legend button').ariaPressed") == "false"
    opened.click(".legend button[data-row='0']")
    assert opened.run(count) == 2
    opened.click(".choices button:nth-of-type(3)")
    assert opened.run("return document.querySelectorAll('#curves .line').length") == 0
    opened.click(".choices button:nth-of-type(2)")
    assert opened.run("return document.querySelectorAll('#curves .line').length") == 10


def test_a_logarithmic_axis_draws_the_same_curves(opened):
    shape = "return document.querySelector(`#curves g[data-row='0'] .line`).getAttribute('points')"
    before = opened.run(shape)
    opened.click(".choices input")
    assert opened.run(shape) != before
    assert "NaN" not in opened.run(shape)
    assert opened.run("return document.querySelectorAll('#curves .line').length") == 10


@pytest.mark.parametrize(
    ("line", "row", "along"),
    [("#coordinates .line[data-row='0']", 0, 0.15), ("#curves g[data-row='3'] .line", 3, 0.05)],
    ids=["coordinates", "curves"],
)
def test_pointing_at_a_line_lights_its_trial_up_everywhere(opened, line, row, along):
    opened.point_at(*opened.run(PLACE_ON_LINE, line, along))
    lit = "return [...document.querySelectorAll('.lit')].map((found) => found.closest('[data-row]').dataset.row)"
    assert set(opened.run(lit)) == {str(row)}
    assert len(opened.run(lit)) >= 4, "the row of the table, its line, its curves and its place in the legend"
    tip = opened.run("const tip = document.querySelector('#tip'); return tip.hidden ? null : tip.textContent")
    assert f"rank {row + 1}" in tip
    assert "val/loss" in tip
    opened.point_at(5, 5)
    assert opened.run(lit) == []
    assert opened.run("return document.querySelector('#tip').hidden") is True


def test_an_empty_sweep_and_one_with_several_objectives_draw_too(browser, make_sweep):
    empty = make_sweep("empty")
    several = make_sweep("several", objectives=[LOSS, {"metric": "tokens_per_second", "direction": "maximize"}])
    for number in range(3):
        several.add({"x": number}, {"val/loss": 1.0 - number}, numbers={"tokens_per_second": 100 - number})
    for sweep in (empty, several):
        write_leaderboard(sweep.path)
        browser.open(sweep.path / "sweep.html")
        assert browser.complaints() == []
    assert browser.run(CELLS, "pareto front") == ["yes", "yes", "yes"]
    assert "3 trials are on the Pareto front" in browser.run("return document.querySelector('.best').textContent")
