"""From one raw row of a dataset to a conversation, checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftframe.api import BadRow, Row
from ftframe.data.cells import MISSING, Cell, RowError, describe
from ftframe.data.conversations import find_fault
from ftframe.data.files import RawRow
from ftframe.data.formats import DETECTED, FORMATS, RowFormat, describe_formats
from ftframe.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Columns:
    """What the config says of a dataset's columns.

    Attributes:
        format: The format's name; None to detect it.
        mapping: The dataset's column for a field of ours, where the names differ.
        node: The config node that has the keys `format` and `columns`; empty at the top.
    """

    format: str | None = None
    mapping: Mapping[str, str | None] = field(default_factory=dict)
    node: str = "data.dataset"

    def key(self, name: str) -> str:
        """A key of the node."""
        return f"{self.node}.{name}" if self.node else name


@dataclass(frozen=True)
class RowReader:
    """A format, and the dataset's column of each of its fields."""

    format: RowFormat
    columns: Mapping[str, str]

    @classmethod
    def of_no_object(cls) -> RowReader:
        """For rows of which none is an object: there are no columns to choose a format by, and each row is bad."""
        return cls(DETECTED[0], {})

    def read(self, row: Any, *, where: str) -> Row | BadRow:
        """The conversation that a row holds, whatever its messages say; or what is wrong with the row.

        Args:
            row: The row.
            where: File and row number.
        """
        if not isinstance(row, Mapping):
            return BadRow(where, "the row", f"is {describe(row)}; an object is needed")
        cells = {field: Cell(f"column '{name}'", row.get(name, MISSING)) for field, name in self.columns.items()}
        try:
            return Row(self.format.read(cells), where)
        except RowError as fault:
            return BadRow(where, fault.column, fault.rule)

    def learnable(self, raw: RawRow | BadRow) -> Row | BadRow:
        """The conversation of a row that one can learn from, or what is wrong with it."""
        if isinstance(raw, BadRow):
            return raw
        row = self.read(raw.value, where=raw.where)
        if isinstance(row, BadRow) or (fault := find_fault(row.messages)) is None:
            return row
        return BadRow(raw.where, self._column(fault.message, fault.key), fault.rule)

    def _column(self, message: int | None, key: str) -> str:
        """The dataset's column for a message of the conversation."""
        if message is not None and message < len(self.format.turns):
            return f"column '{self.columns[self.format.turns[message]]}'"
        column = f"column '{self.columns[self.format.required[-1]]}'"
        return column if message is None else f"{column}, message {message + 1}{key}"


def choose_reader(present: Collection[str], asked: Columns) -> RowReader:
    """The reader of the named format, or of the first one whose columns are all there.

    Args:
        present: The dataset's columns.
        asked: What the config says.

    Raises:
        ConfigError: If it names an unknown format or field or a column that is not there, or no format fits.
    """
    formats = DETECTED if asked.format is None else (named_format(asked),)
    mapped = {field: column for field, column in asked.mapping.items() if column is not None}
    key = asked.key("columns")
    check_mapping(mapped, present=present, formats=formats, key=key)
    candidates = [format for format in formats if set(mapped) <= set(format.fields)]
    for candidate in candidates:
        names = {field: mapped.get(field, field) for field in candidate.fields}
        if all(names[field] in present for field in candidate.required):
            return RowReader(candidate, names)
    there = f"The columns there are: {', '.join(map(repr, present)) or 'none'}."
    if not candidates:
        raise ConfigError(
            f"{' and '.join(f'{key}.{field}' for field in mapped)} do not belong to one format. {there}\n"
            f"{describe_formats(formats)}"
        )
    fitting = "fit no known format" if asked.format is None else f"do not fit the format {asked.format}"
    raise ConfigError(
        f"The dataset's columns {fitting}. {there}\n"
        f"{describe_formats(candidates)}\n"
        f"Name a column that is called otherwise, as in {key}.{candidates[0].required[-1]}=<column>."
    )


def named_format(asked: Columns) -> RowFormat:
    """The format that the config names.

    Raises:
        ConfigError: If there is none of that name.
    """
    name = str(asked.format)
    if name not in FORMATS:
        raise ConfigError(
            f"{asked.key('format')}={name}: there is no such format.{did_you_mean(name, FORMATS)}\n"
            f"{describe_formats(tuple(FORMATS.values()))}"
        )
    return FORMATS[name]


def check_mapping(
    columns: Mapping[str, str], *, present: Collection[str], formats: Sequence[RowFormat], key: str
) -> None:
    """Refuse a field that no format has, and a column that is not in the dataset.

    Raises:
        ConfigError: In either case; the message names the key and the nearest right name.
    """
    fields = list(dict.fromkeys(field for format in formats for field in format.fields))
    for name, column in columns.items():
        if name not in fields:
            hint = did_you_mean(name, fields)
            raise ConfigError(f"Unknown key '{key}.{name}'.{hint}\nAllowed: {', '.join(fields)}.")
        if column not in present:
            raise ConfigError(
                f"{key}.{name}={column}: the dataset has no such column.{did_you_mean(str(column), present)}\n"
                f"The columns there are: {', '.join(map(repr, present)) or 'none'}."
            )
