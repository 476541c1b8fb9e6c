"""Local files, opened so that every error names the config key and the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

from ftframe.errors import ConfigError, DataError, did_you_mean
from ftframe.local_files import expanded

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class RawRow(NamedTuple):
    """A row as its file has it, and where it stands: file and number, counted from 1."""

    where: str
    value: Any


@dataclass(frozen=True)
class File:
    """A file to read rows from.

    Attributes:
        path: Where it is.
        name: What messages call it.
        key: The config key that gives it.
        separator: What stands between two documents of a text file; None if it is one document.
        streaming: Whether it is read piece by piece.
    """

    path: Path
    name: str
    key: str
    separator: str | None = "\n\n"
    streaming: bool = False

    @property
    def label(self) -> str:
        """Key and name, for errors of the whole file."""
        return f"{self.key}={self.name}"


def existing_file(path: str, *, key: str) -> Path:
    """The file or folder at a path.

    Args:
        path: As the config gives it.
        key: The key that gives it, for messages.

    Raises:
        ConfigError: If there is nothing; the message tells the nearest name in that folder.
    """
    file = expanded(path, key=key)
    if file.exists():
        return file
    if not file.parent.is_dir():
        raise ConfigError(f"{key}={path}: there is no folder '{file.parent}'.")
    names = sorted(entry.name for entry in file.parent.iterdir())
    raise ConfigError(f"{key}={path}: there is no such file in '{file.parent}'.{did_you_mean(file.name, names)}")


@contextmanager
def opened(file: File) -> Iterator[BufferedReader]:
    """The bytes of a file.

    Raises:
        DataError: If it cannot be opened, or its first bytes say that it is UTF-16.
    """
    try:
        stream = file.path.open("rb")
    except OSError as error:
        raise DataError(f"{file.label}: the file cannot be read: {error.strerror}.") from error
    with stream:
        if stream.peek(2)[:2] in UTF16_MARKS:
            raise DataError(f"{file.label}: the file is UTF-16. Save it as UTF-8.")
        yield stream


@contextmanager
def opened_text(file: File, *, newline: str | None) -> Iterator[TextIOWrapper]:
    """The text of a file, as `open` gives it; a byte that is not UTF-8 is kept as half of a surrogate pair.

    Raises:
        DataError: As `opened`.
    """
    with (
        opened(file) as stream,
        TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=newline) as text,
    ):
        yield text


def check_count(value: int | None, *, key: str) -> None:
    """Refuse a count that is not a positive whole number.

    Raises:
        ConfigError: If it is another value.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigError(f"{key}={value!r} must be a positive whole number, or null.")
