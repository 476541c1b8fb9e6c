"""Rows of JSON Lines and JSON, each fault named by its row.

The `datasets` library reads both, but fills missing keys with nulls, turns a text with half of a surrogate pair into an
empty one, and refuses the whole file for one line that is not UTF-8 or no object (seen in 5.2).
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ftframe.api import BadRow
from ftframe.data.files import File, RawRow, opened
from ftframe.errors import ConfigError, DataError


def json_lines(file: File) -> Iterator[RawRow | BadRow]:
    """The values of the lines that are not blank; rows are numbered by line."""
    with opened(file) as stream:
        for number, line in enumerate(stream, start=1):
            raw = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if raw.strip():
                yield read_line(raw.rstrip(b"\r\n"), where=f"{file.name}, row {number}")


def read_line(raw: bytes, *, where: str) -> RawRow | BadRow:
    """The value of one line."""
    try:
        return RawRow(where, json.loads(raw.decode("utf-8")))
    except UnicodeDecodeError as error:
        byte = f"byte 0x{raw[error.start]:02x} at column {error.start + 1}"
        return BadRow(where, "the line", f"is not valid UTF-8 ({byte}); UTF-8 is needed")
    except (ValueError, RecursionError) as error:
        return BadRow(where, "the line", f"is not valid JSON ({reason(error)}); one JSON object is needed")


def reason(error: Exception) -> str:
    """What the parser stumbled over."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    line = f"line {error.lineno}, " if error.lineno > 1 else ""
    return f"{error.msg} at {line}column {error.colno}"


def json_rows(file: File) -> Iterator[RawRow | BadRow]:
    """The values of a list of rows, or of JSON Lines under the name `.json`.

    Raises:
        ConfigError: If a list is to be streamed.
        DataError: If the file is not valid JSON, or holds neither.
    """
    if is_json_lines(file):
        yield from json_lines(file)
        return
    if file.streaming:
        raise ConfigError(
            f"{file.label}: a list in JSON can only be read as a whole. Save it as JSON Lines, one object a line, "
            "or set streaming=false."
        )
    value = parse_whole(file)
    if not isinstance(value, Mapping | list):
        raise DataError(f"{file.label}: the file is neither a list of objects nor JSON Lines.")
    rows = [value] if isinstance(value, Mapping) else value
    yield from (RawRow(f"{file.name}, row {number}", row) for number, row in enumerate(rows, start=1))


def is_json_lines(file: File) -> bool:
    """Whether the first line that is not blank is an object of its own, and not the beginning of a list."""
    with opened(file) as stream:
        for line in stream:
            raw = line.removeprefix(codecs.BOM_UTF8).strip()
            if raw:
                # A list may be one line of the file's whole size; it is not parsed twice.
                return not raw.startswith(b"[") and is_object(read_line(raw, where=""))
    return False


def is_object(row: RawRow | BadRow) -> bool:
    """Whether a row was read, and can have columns."""
    return isinstance(row, RawRow) and isinstance(row.value, Mapping)


def parse_whole(file: File) -> Any:
    """The value that a whole file holds; an empty list if it holds nothing.

    Raises:
        DataError: If it is not valid JSON.
    """
    with opened(file) as stream:
        # A byte that is not UTF-8 is kept as half of a surrogate pair, so that it is the fault of its own row.
        text = stream.read().removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")
    if not text.strip():
        return []
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.label}: the file is not valid JSON: {reason(error)}.") from error
