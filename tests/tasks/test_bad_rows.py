"""Every kind of broken row, through the command: refused with the row's name, or skipped and reported."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from ftframe.cli import main

GOOD = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(40)]


def lines(*rows: object) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def chat(*turns: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


TALK = [chat(("user", f"What is {n}?"), ("assistant", f"It is {n}.")) for n in range(40)]
# The broken row stands 41st.
CASES: dict[str, tuple[bytes, str]] = {
    "missing-key": (lines(*GOOD, {"prompt": "a"}), "row 41: column 'completion' is missing; a string is needed"),
    "null": (lines(*GOOD, {"prompt": "a", "completion": None}), "row 41: column 'completion' is null"),
    "wrong-type": (lines(*GOOD, {"prompt": "a", "completion": 7}), "row 41: column 'completion' is a number"),
    "empty-answer": (lines(*GOOD, {"prompt": "a", "completion": ""}), "row 41: column 'completion' is empty"),
    "blank-answer": (lines(*GOOD, {"prompt": "a", "completion": " \n"}), "row 41: column 'completion' is only space"),
    "no-object": (lines(*GOOD, ["a", "b"]), "row 41: the row is a list; an object is needed"),
    "no-json": (lines(*GOOD) + b'{"prompt": "a"', "row 41: "),
    "no-utf8": (lines(*GOOD) + b'{"prompt": "a", "completion": "\xff"}\n', "row 41: "),
    "unknown-role": (lines(*TALK, chat(("user", "a"), ("robot", "b"))), "row 41: "),
    "two-answers": (
        lines(*TALK, chat(("user", "a"), ("assistant", "b"), ("assistant", "c"))),
        "is an assistant's turn after another",
    ),
    "nothing-learnt": (lines(*TALK, chat(("user", "a"))), "row 41: "),
}


def preview(monkeypatch: pytest.MonkeyPatch, folder: Path, content: bytes, *overrides: str) -> int:
    """Run `ftframe preview` on a file with this content; the exit code."""
    (folder / "rows.jsonl").write_bytes(content)
    monkeypatch.chdir(folder)
    command = ["ftframe", "preview", "data=jsonl", "data.dataset.path=rows.jsonl", "examples=1", *overrides]
    monkeypatch.setattr(sys, "argv", command)
    handlers = list(logging.root.handlers)
    with pytest.raises(SystemExit) as left:
        main()
    logging.root.handlers[:] = handlers
    return int(left.value.code or 0)


@pytest.mark.parametrize(("content", "message"), CASES.values(), ids=CASES)
def test_a_broken_row_is_refused_by_its_name(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preview(monkeypatch, tmp_path, content) == 2
    printed = capsys.readouterr().err
    assert "rows.jsonl, row 41: " in printed
    assert message in printed
    assert "data.on_bad_row=skip" in printed
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(("content", "message"), CASES.values(), ids=CASES)
def test_a_broken_row_is_skipped_and_reported(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert preview(monkeypatch, tmp_path, content, "data.on_bad_row=skip") == 0
    (folder,) = (tmp_path / "outputs" / "preview").iterdir()
    (row,) = [json.loads(line) for line in (folder / "rejected_rows.jsonl").read_text().splitlines()]
    assert (row["where"], row["reason"]) == ("rows.jsonl, row 41", "bad_row")
    assert json.loads((folder / "preview.json").read_text())["rows"]["train_bad_row"] == 1


WHOLE = {
    "empty": (b"", "rows.jsonl"),
    "blank-lines": (b"\n\n \n", "rows.jsonl"),
    "nothing-left": (lines(*[{"prompt": "a", "completion": ""}] * 5), "5 of 5 rows are bad"),
    "too-many": (lines(*GOOD, *[{"prompt": "a", "completion": ""}] * 5), "data.max_bad_fraction=0.05"),
    "all-too-long": (lines(*[{"prompt": "a", "completion": "b " * 900}] * 5), "no example is left of"),
}


@pytest.mark.parametrize(("content", "message"), WHOLE.values(), ids=WHOLE)
def test_a_file_of_which_nothing_is_left_is_refused(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    skipping = ("data.on_bad_row=skip", "data.on_too_long=drop", "data.max_length=64", "data.validation_fraction=0.4")
    assert preview(monkeypatch, tmp_path, content, *skipping) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
