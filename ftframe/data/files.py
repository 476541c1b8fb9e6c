"""Local files, read so that every error names the config key, the file and the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ftframe.errors import ConfigError, DataError, did_you_mean

PATH_KEY = "data.dataset.path"


class NumberedRow(NamedTuple):
    """A row and where it stands: file and number, counted from 1."""

    where: str
    value: Any


def existing_file(path: str, *, key: str = PATH_KEY) -> Path:
    """The file at a path.

    Args:
        path: As the config gives it.
        key: The key that gives it, for messages.

    Raises:
        ConfigError: If there is no file; the message tells the nearest name in that folder.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise ConfigError(f"{key}={path} is a folder; a file is needed.{examples_in(file)}")
    if file.is_file():
        return file
    if not file.parent.is_dir():
        raise ConfigError(f"{key}={path}: there is no folder '{file.parent}'.")
    names = sorted(entry.name for entry in file.parent.iterdir())
    raise ConfigError(f"{key}={path}: there is no such file in '{file.parent}'.{did_you_mean(file.name, names)}")


def examples_in(folder: Path) -> str:
    """` It holds a, b, c.`, to choose from."""
    names = sorted(entry.name for entry in folder.iterdir())[:5]
    return f" It holds {', '.join(names)}." if names else " It is empty."


def read_json_lines(path: str, *, key: str = PATH_KEY, limit: int | None = None) -> list[NumberedRow]:
    """The values in a JSON Lines file; blank lines are skipped, and counted.

    Args:
        path: The file.
        key: The key that gives it, for messages.
        limit: The most rows to read.

    Raises:
        ConfigError: If there is no such file, or `limit` is not positive.
        DataError: If it holds no rows, or a line is not valid UTF-8 or JSON.
    """
    check_limit(limit)
    file = existing_file(path, key=key)
    rows = list(islice(json_lines(file, name=path, key=key), limit))
    if not rows:
        raise DataError(f"{key}={path}: the file holds no rows.")
    return rows


def json_lines(file: Path, *, name: str, key: str) -> Iterator[NumberedRow]:
    """The values of the lines that are not blank.

    Raises:
        DataError: If a line is not valid UTF-8 or JSON.
    """
    for number, raw in enumerate(read_bytes(file, key=key).split(b"\n"), start=1):
        line = decode_utf8(raw, where=f"{key}={name}: line {number}").strip()
        if not line:
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(
                f"{key}={name}: line {number} is not valid JSON: {reason}. Each line must hold one JSON object."
            ) from error
        yield NumberedRow(f"{name}, row {number}", value)


def read_text(path: str, *, key: str = PATH_KEY) -> str:
    """The text of a file, its line ends as newlines.

    Raises:
        ConfigError: If there is no such file.
        DataError: If it is not valid UTF-8.
    """
    lines = read_bytes(existing_file(path, key=key), key=key).split(b"\n")
    texts = [decode_utf8(raw, where=f"{key}={path}: line {number}") for number, raw in enumerate(lines, start=1)]
    return "\n".join(text.removesuffix("\r") for text in texts)


def read_bytes(file: Path, *, key: str) -> bytes:
    """A file's bytes without a byte-order mark.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DataError(f"{key}={file}: the file cannot be read: {error.strerror}.") from error


def decode_utf8(raw: bytes, *, where: str) -> str:
    """Bytes as text.

    Raises:
        DataError: If they are not valid UTF-8.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not valid UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start + 1}). "
            "Save the file as UTF-8."
        ) from error


def check_limit(limit: int | None) -> None:
    """Refuse a limit that is not a positive whole number.

    Raises:
        ConfigError: If it is another value.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConfigError(f"data.dataset.limit={limit!r} must be a positive whole number, or null for all rows.")
