"""The dataset: texts and their labels, from CSV or JSON Lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ftframe.api import BadRow, ConfigError, DataError, Message, Row, Splits

INSTRUCTION = "Classify the text. Answer with one of: {labels}."
SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
FIELDS = ("text", "label")


def classification(
    *,
    path: str,
    validation_path: str | None = None,
    columns: Mapping[str, str] | None = None,
    labels: Sequence[str] | None = None,
    instruction: str = INSTRUCTION,
    limit: int | None = None,
) -> Splits:
    """Conversations of an instruction, a text and its label.

    Args:
        path: The file of training rows.
        validation_path: The file of validation rows.
        columns: The file's column for `text` and for `label`.
        labels: All labels; those of the training file where it is null.
        instruction: The system text; `{labels}` in it becomes the labels.
        limit: The most rows of either file.

    Raises:
        ConfigError: If a file is missing or of an unknown kind, a key of `columns` is unknown, `labels` is no list, or
            `limit` is not positive.
        DataError: If a table cannot be read, or the training file has no label.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"data.dataset.limit={limit}: a number of at least 1 is needed, or null for all rows.")
    if isinstance(labels, str):
        raise ConfigError(f"data.dataset.labels={labels}: a list is needed, such as [good,bad].")
    wanted = _columns(columns)
    files = {"train": path, **({"validation": validation_path} if validation_path is not None else {})}
    rows = {split: list(islice(_read(file, split), limit)) for split, file in files.items()}
    known = list(labels) if labels is not None else _labels(rows["train"], wanted["label"])
    if not known:
        raise DataError(f"data.dataset.path={path}: no row has a label in the column '{wanted['label']}'.")
    system = Message("system", instruction.replace("{labels}", ", ".join(known)))
    return {
        split: [_row(where, value, wanted, known, system) for where, value in several]
        for split, several in rows.items()
    }


def _columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    unknown = sorted(set(columns or {}) - set(FIELDS))
    if unknown:
        raise ConfigError(f"Unknown key 'data.dataset.columns.{unknown[0]}'. Allowed: {', '.join(FIELDS)}.")
    return {field: (columns or {}).get(field, field) for field in FIELDS}


def _read(path: str, split: str) -> Iterator[tuple[str, Any]]:
    """Each row, with the place that it comes from.

    Raises:
        ConfigError: If there is no such file, or its kind is unknown.
    """
    key = "path" if split == "train" else "validation_path"
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"data.dataset.{key}={path}: there is no such file.")
    if file.suffix in SEPARATORS:
        return _read_table(file, SEPARATORS[file.suffix])
    if file.suffix in JSON_LINES:
        return _read_json_lines(file)
    known = ", ".join([*SEPARATORS, *JSON_LINES])
    raise ConfigError(f"data.dataset.{key}={path}: unknown kind of file '{file.suffix}'. Known: {known}.")


def _read_table(file: Path, separator: str) -> Iterator[tuple[str, Any]]:
    """The rows of a table.

    Raises:
        DataError: If it is not valid UTF-8, or the csv library cannot take it apart.
    """
    with file.open(encoding="utf-8-sig", newline="") as lines:
        try:
            for number, row in enumerate(csv.DictReader(lines, delimiter=separator), start=1):
                yield f"{file}, row {number}", row
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{file} cannot be read: {error}. It must be UTF-8, with a header.") from error


def _read_json_lines(file: Path) -> Iterator[tuple[str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    value = json.loads(line)
                except ValueError as error:  # of the text, or of its encoding
                    value = error
                yield f"{file}, row {number}", value


def _labels(rows: Sequence[tuple[str, Any]], column: str) -> list[str]:
    """The labels that occur, in the order of the alphabet."""
    found = (_text(value.get(column)) for _, value in rows if isinstance(value, dict))
    return sorted({label for label in found if label})


def _text(value: Any) -> str:
    """A cell as text: JSON may hold numbers for labels. Empty for what cannot be one."""
    is_plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return str(value).strip() if is_plain else ""


def _row(where: str, value: Any, columns: Mapping[str, str], labels: Sequence[str], system: Message) -> Row | BadRow:
    """A conversation, or what is wrong with the row."""
    if not isinstance(value, dict):
        rule = f"is no valid JSON: {value}" if isinstance(value, ValueError) else "is no object with columns"
        return BadRow(where, "the row", rule)
    text, label = (_text(value.get(columns[field])) for field in FIELDS)
    for field, content in zip(FIELDS, (text, label), strict=True):
        if not content:
            return BadRow(where, columns[field], f"is {value.get(columns[field])!r}; a {field} is needed")
    if label not in labels:
        return BadRow(where, columns["label"], f"is {label!r}; one of {', '.join(labels)} is needed")
    return Row([system, Message("user", text), Message("assistant", label)], where)
