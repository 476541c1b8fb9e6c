"""Where a dataset's raw rows come from: a file, a folder of files, or the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ftframe.api import BadRow
from ftframe.data.csv_files import csv_rows
from ftframe.data.documents import documents
from ftframe.data.files import File, RawRow, existing_file
from ftframe.data.folders import files_of_split
from ftframe.data.hub import hub_rows, looks_like_hub_id, table_rows
from ftframe.data.json_files import json_lines, json_rows
from ftframe.errors import ConfigError, DataError
from ftframe.local_files import expanded

RawRows = Iterable[RawRow | BadRow]
"""Rows of a source, which starts anew each time it is iterated."""

READERS: Mapping[str, Callable[[File], Iterator[RawRow | BadRow]]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".parquet": table_rows,
    ".arrow": table_rows,
    ".txt": documents,
    ".md": documents,
}
"""The kinds of files, by suffix."""


@dataclass(frozen=True)
class FileRows:
    """The rows of files of one kind, one after another; may be iterated again."""

    files: tuple[File, ...]

    def __iter__(self) -> Iterator[RawRow | BadRow]:
        """Start at the first row of the first file.

        Raises:
            DataError: If a file cannot be read, or holds no rows.
        """
        for file in self.files:
            empty = True
            for row in READERS[file.path.suffix](file):
                empty = False
                yield row
            if empty:
                raise DataError(f"{file.label}: the file holds no rows.")


@dataclass(frozen=True)
class Place:
    """What the config says of where a split's rows are.

    Attributes:
        path: A file, a folder, or a hub id.
        key: The key that gives it, for messages.
        node: The node of all these keys, for messages.
        split: The split of a folder or a hub dataset.
        split_key: The key that gives the split; None if it is a default.
        separator: As `File.separator`.
        revision: Of a hub dataset.
        subset: Of a hub dataset.
        streaming: Whether rows are read as they are needed.
    """

    path: str
    key: str
    node: str = "data.dataset"
    split: str = "train"
    split_key: str | None = None
    separator: str | None = "\n\n"
    revision: str | None = None
    subset: str | None = None
    streaming: bool = False


def open_source(place: Place) -> RawRows:
    """The raw rows of a place.

    Raises:
        ConfigError: If there is no such file, folder, split or kind of file, or an option has no meaning.
        DataError: If the hub cannot be reached.
    """
    file = expanded(place.path, key=place.key)
    if not file.exists() and file.suffix not in READERS and looks_like_hub_id(place.path):
        return hub_rows(
            place.path,
            split=place.split,
            key=place.key,
            revision=place.revision,
            subset=place.subset,
            streaming=place.streaming,
        )
    file = existing_file(place.path, key=place.key)
    check_local(place, is_folder=file.is_dir())
    if not file.is_dir():
        check_kind(place)
        return FileRows((as_file(place, file, place.path),))
    found = files_of_split(file, place.split, kinds=READERS, label=f"{place.key}={place.path}")
    return FileRows(tuple(as_file(place, path, str(Path(place.path) / path.relative_to(file))) for path in found))


def as_file(place: Place, path: Path, name: str) -> File:
    """A file of the place."""
    return File(path, name, place.key, separator=place.separator, streaming=place.streaming)


def check_kind(place: Place) -> None:
    """Refuse a file that no reader reads.

    Raises:
        ConfigError: If it is so.
    """
    suffix = Path(place.path).suffix
    if suffix not in READERS:
        raise ConfigError(f"{place.key}={place.path}: unknown kind of file '{suffix}'. Known: {', '.join(READERS)}.")


def check_local(place: Place, *, is_folder: bool) -> None:
    """Refuse options that have no meaning for a local file or folder.

    Raises:
        ConfigError: If one is given.
    """
    for option in ("revision", "subset"):
        if getattr(place, option) is not None:
            raise ConfigError(
                f"{place.node}.{option}={getattr(place, option)} has no meaning for {place.key}={place.path}: only "
                f"datasets of the hub have a {option}."
            )
    if place.split_key is not None and not is_folder:
        raise ConfigError(
            f"{place.split_key}={place.split} has no meaning for {place.key}={place.path}: only folders and datasets "
            f"of the hub have splits. A file of validation rows goes into {place.node}.validation_path."
        )
