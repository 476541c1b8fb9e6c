"""The plugin by itself, and what ftframe asks of a plugin."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from ftframe_classification.dataset import classification
from ftframe_classification.metrics import ClassificationAccuracy, ClassificationMacroF1

from ftframe.api import BadRow, ConfigError, DataError, Message, Row
from ftframe.testing import (
    check_configs_compose,
    check_dataset,
    check_import_time,
    check_metric,
    check_prompt_template,
)

DISTRIBUTION = "ftframe-classification"
ROWS = [("good, very good", "positive"), ("bad\nindeed", "negative"), ("so so", "neutral"), ("great", "positive")]
SYSTEM = Message("system", "Classify the text. Answer with one of: negative, neutral, positive.")


@pytest.fixture(params=["csv", "tsv", "jsonl"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same rows in each format."""
    path = tmp_path / f"rows.{request.param}"
    if request.param == "jsonl":
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS))
    else:
        mark = {"csv": ",", "tsv": "\t"}[request.param]
        path.write_text("\n".join(["text" + mark + "label", *(f'"{text}"{mark}{label}' for text, label in ROWS)]))
    return path


def test_every_format_gives_the_same_rows(file: Path) -> None:
    splits = check_dataset("classification", path=str(file))
    assert splits == {"train": [[SYSTEM, Message("user", text), Message("assistant", label)] for text, label in ROWS]}


def test_columns_labels_and_instruction(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"review": "good", "stars": 5}\n{"review": "bad", "stars": 1}\n')
    named = {"columns": {"text": "review", "label": "stars"}, "labels": ["1", "5"], "instruction": "Stars, {labels}?"}
    (first, _) = check_dataset("classification", path=str(file), **named)["train"]
    assert first == [Message("system", "Stars, 1, 5?"), Message("user", "good"), Message("assistant", "5")]


def test_validation_has_the_labels_of_training(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "x", "label": "neutral"}\n{"text": "x", "label": "angry"}\n')
    good, bad = classification(path=str(file), validation_path=str(other))["validation"]
    assert isinstance(good, Row) and good.messages[0] == SYSTEM
    assert isinstance(bad, BadRow)
    assert str(bad) == f"{other}, row 2: label is 'angry'; one of negative, neutral, positive is needed"


@pytest.mark.parametrize(
    ("line", "column", "rule"),
    [
        ("nonsense", "the row", "is no valid JSON"),
        ("3", "the row", "is no object with columns"),
        ('{"text": "", "label": "a"}', "text", "is ''; a text is needed"),
        ('{"text": "x", "label": null}', "label", "is None; a label is needed"),
        ('{"text": "x", "label": true}', "label", "is True; a label is needed"),
    ],
)
def test_bad_row_says_why(line: str, column: str, rule: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"text": "x", "label": "a"}}\n{line}\n')
    _, bad = classification(path=str(file))["train"]
    assert isinstance(bad, BadRow)
    assert (bad.where, bad.column) == (f"{file}, row 2", column)
    assert bad.rule.startswith(rule)


@pytest.mark.parametrize(
    ("name", "content", "more", "error", "message"),
    [
        ("missing.csv", None, {}, ConfigError, r"data\.dataset\.path=.*missing\.csv: there is no such file"),
        ("rows.xls", "x", {}, ConfigError, r"unknown kind of file '\.xls'\. Known: \.csv, \.tsv, \.jsonl, \.ndjson"),
        ("rows.csv", "a,b\n1,2\n", {}, DataError, "no row has a label in the column 'label'"),
        (
            "rows.csv",
            "text,label\nx,y\n",
            {"columns": {"txt": "text"}},
            ConfigError,
            r"columns\.txt'\. Allowed: text, label",
        ),
        ("rows.csv", "text,label\nx,y\n", {"labels": "y"}, ConfigError, r"data\.dataset\.labels=y: a list is needed"),
        ("rows.csv", "text,label\nx,y\n", {"limit": 0}, ConfigError, r"data\.dataset\.limit=0: a number of at least 1"),
    ],
)
def test_what_cannot_be_read(
    name: str, content: str | None, more: dict, error: type[Exception], message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message):
        classification(path=str(tmp_path / name), **more)


def test_what_is_not_utf8(tmp_path: Path) -> None:
    table, lines = tmp_path / "rows.csv", tmp_path / "rows.jsonl"
    table.write_bytes(b"text,label\nx,\xff\n")
    with pytest.raises(DataError, match=r"rows\.csv cannot be read: 'utf-8' codec"):
        classification(path=str(table))
    lines.write_bytes(b'\xef\xbb\xbf{"text": "x", "label": "a"}\n{"text": "\xff", "label": "a"}\n')
    good, bad = classification(path=str(lines))["train"]
    assert isinstance(good, Row)
    assert isinstance(bad, BadRow) and "'utf-8' codec" in bad.rule


PAIRS = [("a", "a"), ("A ", "a"), ("b", "a"), ("b", "b"), ("a", "b"), ("something else", "c"), ("c", "c"), ("c", "c")]


def test_accuracy() -> None:
    assert check_metric("classification_accuracy", PAIRS) == pytest.approx(5 / 8)
    assert check_metric("classification_accuracy", PAIRS, ignore_case=False) == pytest.approx(4 / 8)


def test_macro_f1_by_hand() -> None:
    """Of a: 2 right, 1 given wrongly, 1 missed; of b: 1, 1, 1; of c: 2, 0, 1. `something else` is no class."""
    scores = [2 * 2 / (2 * 2 + 1 + 1), 2 * 1 / (2 * 1 + 1 + 1), 2 * 2 / (2 * 2 + 0 + 1)]
    assert check_metric("classification_macro_f1", PAIRS) == pytest.approx(sum(scores) / 3)


def test_batches_with_other_labels_add_up() -> None:
    whole, parts = ClassificationMacroF1(), ClassificationMacroF1()
    whole.update(*zip(*PAIRS, strict=True))
    for pair in PAIRS:
        parts.update([pair[0]], [pair[1]])
    assert float(parts.compute()) == pytest.approx(float(whole.compute()))


@pytest.mark.parametrize("metric", [ClassificationAccuracy, ClassificationMacroF1])
def test_nothing_counted_is_no_number(metric: type[ClassificationAccuracy]) -> None:
    assert math.isnan(float(metric().compute()))
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        metric().update(["a"], ["a", "b"])


def test_prompt_template(file: Path) -> None:
    check_prompt_template("classification")
    check_prompt_template("classification", check_dataset("classification", path=str(file))["train"])


def test_configs_compose(file: Path) -> None:
    needed = {"data=classification": [f"data.dataset.path={file}"]}
    assert set(check_configs_compose(DISTRIBUTION, needed)) == {"data=classification", "metrics=classification"}


def test_import_is_quick() -> None:
    check_import_time(DISTRIBUTION)
