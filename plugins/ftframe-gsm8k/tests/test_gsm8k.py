"""The plugin by itself: made-up problems, and what ftframe asks of a plugin."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path

import pytest
from ftframe_gsm8k.answers import final_number
from ftframe_gsm8k.dataset import gsm8k
from ftframe_gsm8k.metric import Gsm8kAccuracy
from ftframe_gsm8k.prompt_template import Gsm8kTemplate

from ftframe.api import BadRow, ConfigError, DataError, Message, Row
from ftframe.testing import (
    check_configs_compose,
    check_dataset,
    check_import_time,
    check_metric,
    check_prompt_template,
)

DISTRIBUTION = "ftframe-gsm8k"


def problem(number: int) -> dict[str, str]:
    return {
        "question": f"What is {number} times 2?",
        "answer": f"It is <<{number}*2={2 * number}>>x.\n#### {2 * number}",
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as the authors' repository has it."""
    for name, count in (("train.jsonl", 20), ("test.jsonl", 6)):
        (tmp_path / name).write_text("".join(json.dumps(problem(n)) + "\n" for n in range(count)))
    return tmp_path


def test_folder_has_both_splits(folder: Path) -> None:
    splits = check_dataset("gsm8k", path=str(folder))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 20, "validation": 6}
    assert splits["train"][3] == [Message("user", problem(3)["question"]), Message("assistant", problem(3)["answer"])]


def test_file_is_the_training_split(folder: Path) -> None:
    assert list(gsm8k(path=str(folder / "test.jsonl"))) == ["train"]


def test_limits(folder: Path) -> None:
    splits = gsm8k(path=str(folder), limit=3, validation_limit=2)
    assert {split: len(list(rows)) for split, rows in splits.items()} == {"train": 3, "validation": 2}
    with pytest.raises(ConfigError, match=r"data\.dataset\.validation_limit=0: a number of at least 1"):
        gsm8k(path=str(folder), validation_limit=0)


def test_annotations_are_taken_out(folder: Path) -> None:
    row = next(iter(gsm8k(path=str(folder), calculator=False)["train"]))
    assert isinstance(row, Row)
    assert row.messages[1].content == "It is x.\n#### 0"


@pytest.mark.parametrize(
    ("line", "column", "rule"),
    [
        ("nonsense", "the row", "is no valid JSON"),
        ("[1]", "the row", "is no object"),
        ('{"question": "a?"}', "answer", "is None; a text is needed"),
        ('{"question": " ", "answer": "#### 1"}', "question", "is ' '; a text is needed"),
        ('{"question": "a?", "answer": "1"}', "answer", "has no line '#### <number>'"),
    ],
)
def test_bad_row_says_why(line: str, column: str, rule: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{json.dumps(problem(1))}\n\n{line}\n")
    good, bad = gsm8k(path=str(file))["train"]
    assert isinstance(good, Row) and isinstance(bad, BadRow)
    assert (bad.where, bad.column) == (f"{file}, row 3", column)
    assert bad.rule.startswith(rule)


def test_folder_without_training_rows(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the folder has no train\.jsonl"):
        gsm8k(path=str(tmp_path))


def test_what_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(path: str, name: str) -> None:
        raise ConnectionError(f"offline: {path} {name}")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"openai/gsm8k is no local file or folder.*offline: openai/gsm8k main"):
        gsm8k()


def test_hub_splits_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    table = {"train": [problem(1), problem(2)], "test": [problem(3)]}
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name: table)
    splits = gsm8k(path="owner/name")
    assert [row.where for row in splits["train"]] == ["owner/name train, row 1", "owner/name train, row 2"]
    assert len(list(splits["validation"])) == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so\n#### 72", 72),
        ("#### 1,234.50", Decimal("1234.5")),
        ("####-3", -3),
        ("#### $18.", 18),
        ("#### 5\n#### 6", 5),
        ("the answer is 72", None),
        ("#### none", None),
        ("#### 1.2.3", None),
        ("", None),
    ],
)
def test_final_number(text: str, number: Decimal | int | None) -> None:
    assert final_number(text) == number


def test_metric() -> None:
    pairs = [("x #### 4", "#### 4"), ("#### 4.0", "#### 4"), ("4", "#### 4"), ("#### 5", "#### 4"), ("#### 1", "none")]
    assert check_metric("gsm8k_accuracy", pairs) == pytest.approx(2 / 4)
    assert math.isnan(float(Gsm8kAccuracy().compute()))


def test_prompt_template(folder: Path) -> None:
    check_prompt_template("gsm8k")
    check_prompt_template("gsm8k", check_dataset("gsm8k", path=str(folder))["train"])
    turns = [Message("user", "a?"), Message("assistant", "b"), Message("user", "c?"), Message("assistant", "d")]
    text = "".join(
        f"<{segment.text}>" if segment.special else segment.text for segment in Gsm8kTemplate().render(turns)
    )
    assert text == "<bos_token>Question: a?\nAnswer: b<eos_token>\n\nQuestion: c?\nAnswer: d<eos_token>"


def test_configs_compose() -> None:
    assert set(check_configs_compose(DISTRIBUTION)) == {
        "data=gsm8k",
        "metrics=gsm8k_accuracy",
        "experiment=gsm8k",
    }


def test_import_is_quick() -> None:
    check_import_time(DISTRIBUTION)
