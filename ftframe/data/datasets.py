"""The built-in dataset `table`: conversations in files, folders and datasets of the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from ftframe.api import BadRow, Row, Splits
from ftframe.data.files import RawRow, check_count
from ftframe.data.rows import Columns, RowReader, choose_reader
from ftframe.data.sources import Place, RawRows, open_source
from ftframe.errors import ConfigError, DataError

HEAD = 100
"""Rows of a stream that are looked at to tell its columns."""

Item = TypeVar("Item")


def table(
    *,
    path: str,
    split: str = "train",
    validation_path: str | None = None,
    validation_split: str | None = None,
    validation_rows: int | None = None,
    format: str | None = None,
    columns: Mapping[str, str | None] | None = None,
    limit: int | None = None,
    streaming: bool = False,
    separator: str | None = "\n\n",
    revision: str | None = None,
    subset: str | None = None,
    node: str = "data.dataset",
) -> Splits:
    """Conversations in JSON Lines, JSON, CSV, TSV, Parquet, Arrow or text files, or in a dataset of the hub.

    Args:
        path: A file, a folder of files of one kind, or a hub id.
        split: The split of a folder or a hub dataset.
        validation_path: Where the validation rows are, if elsewhere.
        validation_split: The split of the validation rows.
        validation_rows: How many of the first rows are the validation rows.
        format: `alpaca`, `sharegpt`, `messages`, `prompt_completion`, `text` or `llama2_text`; by default what the
            columns say.
        columns: The dataset's column for a field of ours: `messages`, `conversations`, `prompt`, `completion`,
            `instruction`, `input`, `output` or `text`.
        limit: The most rows to read of each source.
        streaming: Whether training rows are read while training, and never all held in memory.
        separator: What stands between two documents of a text file, by default a blank line; null if the whole file
            is one document.
        revision: Branch, tag or commit of a hub dataset.
        subset: The name of one of a hub dataset's configurations.
        node: The config node that has these keys, for messages.

    Raises:
        ConfigError: If there is no such file, folder or split, the columns fit no format, or options exclude others.
        DataError: If a file cannot be read as a whole, or holds no rows.
    """
    if columns is not None and not isinstance(columns, Mapping):
        raise ConfigError(f"{node}.columns={columns}: a node of keys is needed, as {node}.columns.prompt=<column>.")
    train = Place(path, f"{node}.path", node, split, None, separator, revision, subset, streaming)
    train = train if split == "train" else replace(train, split_key=f"{node}.split")
    validation = validation_place(train, path=validation_path, split=validation_split)
    check_options(train, validation, limit=limit, validation_rows=validation_rows)
    asked = Columns(format, columns or {}, node)
    if validation is not None:
        held_out = read_all(validation, asked, limit=limit)
        return {"train": (stream if streaming else read_all)(train, asked, limit=limit), "validation": held_out}
    if streaming:
        return split_stream(stream(train, asked, limit=limit), validation_rows or 0, node=node)
    rows = read_all(train, asked, limit=limit)
    if validation_rows is None:
        return {"train": rows}
    check_rest(rows[validation_rows:], validation_rows, node=node)
    return {"train": rows[validation_rows:], "validation": rows[:validation_rows]}


def validation_place(train: Place, *, path: str | None, split: str | None) -> Place | None:
    """Where the validation rows are, if the config says so; read as a whole even where training rows are streamed."""
    if path is None and split is None:
        return None
    place = replace(train, streaming=False)
    if path is not None:
        place = replace(place, path=path, key=f"{train.node}.validation_path")
        if path != train.path:  # another dataset has its own
            place = replace(place, split_key=None, revision=None, subset=None)
    if split is not None:
        place = replace(place, split=split, split_key=f"{train.node}.validation_split")
    return place


def check_options(train: Place, validation: Place | None, *, limit: int | None, validation_rows: int | None) -> None:
    """Refuse options that exclude each other, or have no meaning.

    Raises:
        ConfigError: In these cases.
    """
    node = train.node
    check_count(limit, key=f"{node}.limit")
    check_count(validation_rows, key=f"{node}.validation_rows")
    if train.separator == "":
        raise ConfigError(f"{node}.separator is empty; give a text, or null if the whole file is one document.")
    if validation is not None and validation_rows is not None:
        raise ConfigError(
            f"{node}.validation_rows={validation_rows} and {validation.split_key or validation.key} exclude each other."
        )
    if validation is not None and (validation.path, validation.split) == (train.path, train.split):
        raise ConfigError(f"{validation.split_key or validation.key}: the validation rows are the training rows.")
    if train.streaming and validation is None and validation_rows is None:
        raise ConfigError(
            f"{node}.streaming=true: no share of a stream can be held out for validation. Set {node}.validation_path, "
            f"{node}.validation_split, or {node}.validation_rows=N to take its first N rows."
        )


def read_all(place: Place, asked: Columns, *, limit: int | None) -> list[Row | BadRow]:
    """The rows of a place to learn from, in order.

    Raises:
        ConfigError: If there is no such place, or its columns fit no format.
        DataError: If it cannot be read, or holds no rows.
    """
    raw = list(islice(open_source(place), limit))
    reader = reader_of(raw, place, asked)
    return [reader.learnable(row) for row in raw]


def read_inputs(path: str, *, key: str, columns: Mapping[str, str | None]) -> list[Row | BadRow]:
    """The conversations of a file, whether or not one can learn from them.

    Args:
        path: A file, a folder or a hub id.
        key: The key that gives it, for messages.
        columns: As for `table`; its key is `columns`.

    Raises:
        ConfigError: As `read_all`.
        DataError: As `read_all`.
    """
    place = Place(path, key)
    raw = list(open_source(place))
    reader = reader_of(raw, place, Columns(None, columns, ""))
    return [row if isinstance(row, BadRow) else reader.read(row.value, where=row.where) for row in raw]


def reader_of(raw: Sequence[RawRow | BadRow], place: Place, asked: Columns) -> RowReader:
    """The reader of rows.

    Raises:
        ConfigError: If their columns fit no format.
        DataError: If there are no rows.
    """
    if not raw:
        raise DataError(f"{place.key}={place.path}: it holds no rows.")
    objects = [row.value for row in raw if isinstance(row, RawRow) and isinstance(row.value, Mapping)]
    # A column counts as present if any row has it, so that a row that lacks it is reported by its number.
    present = list(dict.fromkeys(name for value in objects for name in value))
    if not objects:
        return RowReader.of_no_object()
    return choose_reader(present, asked)


@dataclass(frozen=True)
class Stream:
    """Rows that are read as they are needed; each iteration starts anew, in the same order.

    Attributes:
        raw: The rows of the source.
        reader: Makes conversations of them.
        start: The first row's index.
        stop: The index after the last row.
    """

    raw: RawRows
    reader: RowReader
    start: int = 0
    stop: int | None = None

    def __iter__(self) -> Iterator[Row | BadRow]:
        """Start at the first row."""
        return map(self.reader.learnable, islice(self.raw, self.start, self.stop))


def stream(place: Place, asked: Columns, *, limit: int | None) -> Stream:
    """The rows of a place, one at a time; their columns are those of the first rows.

    Raises:
        ConfigError: As `read_all`.
        DataError: As `read_all`, or if none of the first rows is an object.
    """
    raw = open_source(place)
    head = list(islice(raw, min(HEAD, limit or HEAD)))
    if head and not any(isinstance(row, RawRow) and isinstance(row.value, Mapping) for row in head):
        first = RowReader.of_no_object().learnable(head[0])
        raise DataError(f"{place.key}={place.path}: none of the first {len(head)} rows can be read. {first}.")
    return Stream(raw, reader_of(head, place, asked), stop=limit)


def split_stream(rows: Stream, count: int, *, node: str) -> Splits:
    """The first rows of a stream for validation, and the stream of all others.

    Raises:
        DataError: If no others are left.
    """
    train = replace(rows, start=count)
    check_rest(list(islice(train, 1)), count, node=node)
    return {"train": train, "validation": list(islice(rows, count))}


def check_rest(rest: Sequence[object], count: int, *, node: str) -> None:
    """Refuse a number of validation rows that leaves none to train on.

    Raises:
        DataError: If it is so.
    """
    if not rest:
        raise DataError(f"{node}.validation_rows={count} leaves no row to train on. Choose a smaller number.")
