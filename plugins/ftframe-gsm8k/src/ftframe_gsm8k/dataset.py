"""The dataset: questions and worked solutions, from local files or from the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ftframe.api import BadRow, ConfigError, DataError, Message, Row, Splits
from ftframe_gsm8k.answers import final_number, without_annotations

HUB_CONFIG = "main"
FILES = {"train": "train.jsonl", "validation": "test.jsonl"}
"""The file of each of our splits, in a folder."""

Numbered = Iterable[tuple[str, Any]]
"""Where a row comes from, and the row."""


def gsm8k(
    *,
    path: str = "openai/gsm8k",
    calculator: bool = True,
    limit: int | None = None,
    validation_limit: int | None = None,
) -> Splits:
    """Questions with their solutions; the test problems are the validation split.

    Args:
        path: A folder with `train.jsonl` and perhaps `test.jsonl`, one JSON Lines file, or a hub id.
        calculator: Whether the solutions keep annotations such as `<<48/2=24>>`.
        limit: The most rows of `train`.
        validation_limit: The most rows of `validation`.

    Raises:
        ConfigError: If a limit is not positive, or a folder has no `train.jsonl`.
        DataError: If the path is neither a file nor a folder, and the hub cannot be read.
    """
    limits = {"train": ("limit", limit), "validation": ("validation_limit", validation_limit)}
    for key, value in limits.values():
        if value is not None and value < 1:
            raise ConfigError(f"data.dataset.{key}={value}: a number of at least 1 is needed, or null for all rows.")
    return {
        split: [_row(where, value, calculator=calculator) for where, value in islice(rows, limits[split][1])]
        for split, rows in _sources(path).items()
    }


def _sources(path: str) -> dict[str, Numbered]:
    """The rows of each split."""
    place = Path(path).expanduser()
    if place.is_file():
        return {"train": _json_lines(place)}
    if not place.is_dir():
        return _hub(path)
    found = {split: place / name for split, name in FILES.items() if (place / name).is_file()}
    if "train" not in found:
        raise ConfigError(f"data.dataset.path={path}: the folder has no {FILES['train']}.")
    return {split: _json_lines(file) for split, file in found.items()}


def _json_lines(file: Path) -> Iterator[tuple[str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    value = json.loads(line)
                except ValueError as error:  # of the text, or of its encoding
                    value = error
                yield f"{file}, row {number}", value


def _hub(path: str) -> dict[str, Numbered]:
    """The hub's splits.

    Raises:
        DataError: If they cannot be loaded.
    """
    import datasets

    try:
        table = datasets.load_dataset(path, HUB_CONFIG)
    except Exception as error:  # the hub's client raises its own kinds
        raise DataError(
            f"data.dataset.path={path} is no local file or folder, and could not be loaded from the hub "
            f"({type(error).__name__}: {error}). Give a folder with {' and '.join(FILES.values())}."
        ) from error
    names = {"train": "train", "validation": "test"}
    return {split: _numbered(f"{path} {name}", table[name]) for split, name in names.items() if name in table}


def _numbered(source: str, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{source}, row {number}", value) for number, value in enumerate(rows, start=1))


def _row(where: str, value: Any, *, calculator: bool) -> Row | BadRow:
    """A conversation, or what is wrong with the row."""
    if not isinstance(value, dict):
        rule = f"is no valid JSON: {value}" if isinstance(value, ValueError) else "is no object with columns"
        return BadRow(where, "the row", rule)
    for column in ("question", "answer"):
        if not isinstance(value.get(column), str) or not value[column].strip():
            return BadRow(where, column, f"is {value.get(column)!r}; a text is needed")
    if final_number(value["answer"]) is None:
        return BadRow(where, "answer", "has no line '#### <number>'")
    solution = value["answer"] if calculator else without_annotations(value["answer"])
    return Row([Message("user", value["question"]), Message("assistant", solution)], where)
