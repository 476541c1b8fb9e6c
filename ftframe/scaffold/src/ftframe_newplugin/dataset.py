"""The dataset `newplugin`: a function from the keys in `data.dataset` to conversations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ftframe.api import BadRow, ConfigError, Message, Row, Splits

EXAMPLES = Path(__file__).parent / "examples.jsonl"


def build(*, path: str | None = None) -> Splits:
    """Questions and answers from a JSON Lines file.

    Every argument is a key of `data.dataset`, and is checked against the type that stands here. ftframe holds out a
    part for validation, since the mapping has no `validation`.

    Args:
        path: The file; each line an object with `question` and `answer`. Null for the examples of this package.

    Raises:
        ConfigError: If there is no such file.
    """
    file = EXAMPLES if path is None else Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"data.dataset.path={path}: there is no such file.")
    return {"train": list(_rows(file))}


def _rows(file: Path) -> Iterator[Row | BadRow]:
    """A row for each line; one that is no question and answer says why, and `data.on_bad_row` what becomes of it."""
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        where = f"{file.name}, row {number}"
        try:
            value = json.loads(line)
        except ValueError as error:  # of the text, or of its encoding
            yield BadRow(where, "the line", f"is no JSON: {error}")
            continue
        row = value if isinstance(value, dict) else {}
        wrong = [key for key in ("question", "answer") if not isinstance(row.get(key), str)]
        if wrong:
            yield BadRow(where, wrong[0], f"is {row.get(wrong[0])!r}; a string is needed")
        else:
            yield Row([Message("user", row["question"]), Message("assistant", row["answer"])], where)
