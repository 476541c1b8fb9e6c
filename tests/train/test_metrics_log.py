"""`metrics.csv`: a resumed run writes the rows that a straight one would have."""

from __future__ import annotations

import csv
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ftframe.train.metrics_log import MetricsLog

ROWS = [{"train/loss": 2.0, "epoch": 0}, {"train/loss": 1.5, "epoch": 0}, {"val/loss": 1.25, "epoch": 0}]


def log_all(folder: Path, rows: list[dict[str, float]], *, first: int = 0, state: dict[str, int] | None = None) -> Path:
    log = MetricsLog(str(folder))
    if state is not None:
        log.load_state_dict(state)
    for step, row in enumerate(rows[first:], start=first):
        log.log_metrics(row, step)
    return folder / "metrics.csv"


def test_each_row_is_in_the_file_at_once(tmp_path: Path) -> None:
    log = MetricsLog(str(tmp_path / "run"))
    for count, row in enumerate(ROWS, start=1):
        log.log_metrics(row, count)
        found = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
        assert len(found) == count
        assert {k: float(v) for k, v in found[-1].items() if v} == {**row, "step": count}
    assert log.state_dict() == {"rows": 3}


def test_rows_behind_the_checkpoint_are_written_again(tmp_path: Path) -> None:
    straight = log_all(tmp_path / "straight", ROWS).read_bytes()
    for kept in range(4):
        log_all(tmp_path / f"cut{kept}", ROWS)  # it went on behind the checkpoint before it was killed
        path = log_all(tmp_path / f"cut{kept}", ROWS, first=kept, state={"rows": kept})
        assert path.read_bytes() == straight


NAMES = st.sampled_from(["train/loss", "val/loss", "a,b", 'q"uote', "line\nbreak"])
TABLES = st.lists(st.dictionaries(NAMES, st.floats(allow_nan=False), min_size=1), min_size=1, max_size=6)


@given(rows=TABLES, data=st.data())
def test_any_rows_and_any_cut(rows: list[dict[str, float]], data: st.DataObject, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("any")
    kept = data.draw(st.integers(0, len(rows)))
    straight = log_all(folder / "straight", rows)
    log_all(folder / "cut", rows)
    cut = log_all(folder / "cut", rows, first=kept, state={"rows": kept})
    assert cut.read_bytes() == straight.read_bytes()
    found = list(csv.DictReader(cut.open(newline="")))
    assert [{k: float(v) for k, v in row.items() if v} for row in found] == [
        {**row, "step": step} for step, row in enumerate(rows)
    ]


def test_without_a_file_there_is_nothing_to_take_back(tmp_path: Path) -> None:
    log = MetricsLog(str(tmp_path))
    log.load_state_dict({"rows": 7})
    assert log.state_dict() == {"rows": 0}
