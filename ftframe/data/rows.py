"""From one raw row of a dataset to a conversation, checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftframe.api import Conversation, Message, Role
from ftframe.data.prompt_templates import INPUT_HEADER
from ftframe.errors import ConfigError, DataError, did_you_mean

Row = Mapping[str, Any]
"""A row as a file or a dataset holds it."""

COLUMNS_KEY = "data.dataset.columns"

ROLE_NAMES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""Role names in datasets, and ours."""


@dataclass(frozen=True)
class Cell:
    """A value of a row, and how a message names it.

    Attributes:
        where: File and row.
        name: The column, or the key inside one.
        value: The value, or `MISSING`.
    """

    where: str
    name: str
    value: Any

    def error(self, needed: str) -> DataError:
        """What is there and what is needed instead."""
        return DataError(f"{self.where}: {self.name} is {describe(self.value)}; {needed} is needed")

    def text(self) -> str:
        """The value, if it is a string.

        Raises:
            DataError: If it is not, or holds half of a surrogate pair, which no tokenizer can encode.
        """
        if not isinstance(self.value, str):
            raise self.error("a string")
        try:
            self.value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{self.where}: {self.name} holds half of a surrogate pair (\\u{ord(self.value[error.start]):04x}); "
                "valid Unicode is needed"
            ) from error
        return self.value

    def key(self, key: str) -> Cell:
        """The cell of a key of an object."""
        return Cell(self.where, f"{self.name}: key '{key}'", self.value.get(key, MISSING))


class Missing:
    """The type of `MISSING`."""


MISSING = Missing()
"""Stands where a row has no such column, which is not the same as a null."""


@dataclass(frozen=True)
class RowFormat:
    """A way in which datasets write conversations.

    Attributes:
        name: For messages.
        required: Our names for the columns that it needs.
        read: From the cell of each field to the conversation.
        optional: Our names for further columns.
    """

    name: str
    required: tuple[str, ...]
    read: Callable[[Mapping[str, Cell]], list[Message]]
    optional: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields, required ones first."""
        return self.required + self.optional


def read_alpaca(cells: Mapping[str, Cell]) -> list[Message]:
    """The instruction, with the input below a heading where there is one, and the output."""
    content = cells["instruction"].text()
    given = cells["input"]
    if given.value is not None and given.value is not MISSING and given.text():
        content += INPUT_HEADER + given.text()
    return [Message("user", content), Message("assistant", cells["output"].text())]


def read_prompt(cells: Mapping[str, Cell]) -> list[Message]:
    """The prompt and its completion."""
    return [Message("user", cells["prompt"].text()), Message("assistant", cells["completion"].text())]


def read_document(cells: Mapping[str, Cell]) -> list[Message]:
    """A text of which every token is learnt.

    Raises:
        DataError: If it is empty.
    """
    cell = cells["text"]
    if not cell.text():
        raise DataError(f"{cell.where}: {cell.name} is empty; a document is needed")
    return [Message("assistant", cell.text())]


def read_messages(cells: Mapping[str, Cell]) -> list[Message]:
    """The messages of a list of `role` and `content`, or `from` and `value`.

    Raises:
        DataError: If it is no list, or empty, or a message in it is no such object.
    """
    (cell,) = cells.values()
    if not isinstance(cell.value, Sequence) or isinstance(cell.value, str | bytes):
        raise cell.error("a list of messages")
    if not cell.value:
        raise DataError(f"{cell.where}: {cell.name} is an empty list; at least one message is needed")
    return [
        read_message(Cell(cell.where, f"{cell.name}, message {number}", value))
        for number, value in enumerate(cell.value, start=1)
    ]


def read_message(cell: Cell) -> Message:
    """One message.

    Raises:
        DataError: If it is no object, a key is missing or of the wrong type, or the role is unknown.
    """
    if not isinstance(cell.value, Mapping):
        raise cell.error("an object with role and content")
    # A table library fills keys that only other rows have with nulls, so a null `role` beside `from` is none.
    sharegpt = cell.value.get("role") is None and cell.value.get("from") is not None
    role, content = (cell.key(key) for key in (("from", "value") if sharegpt else ("role", "content")))
    if role.text() not in ROLE_NAMES:
        raise DataError(
            f"{role.where}: {role.name} is '{role.value}'; one of {', '.join(ROLE_NAMES)} is needed."
            f"{did_you_mean(role.value, ROLE_NAMES)}"
        )
    masked = cell.key("masked")
    if masked.value is MISSING:
        return Message(ROLE_NAMES[role.value], content.text())
    if masked.value is not None and not isinstance(masked.value, bool):
        raise masked.error("true, false or null")
    return Message(ROLE_NAMES[role.value], content.text(), masked.value)


MESSAGES = RowFormat("messages", ("messages",), read_messages)
CONVERSATIONS = RowFormat("conversations", ("conversations",), read_messages)
ALPACA = RowFormat("alpaca", ("instruction", "output"), read_alpaca, optional=("input",))
PROMPT = RowFormat("prompt/completion", ("prompt", "completion"), read_prompt)
TEXT = RowFormat("text", ("text",), read_document)
FORMATS = (MESSAGES, CONVERSATIONS, ALPACA, PROMPT, TEXT)
"""In the order in which they are tried: Alpaca's own rows have a column `text` beside the others."""


@dataclass(frozen=True)
class RowReader:
    """A format, and the dataset's column of each of its fields."""

    format: RowFormat
    columns: Mapping[str, str]

    def read(self, row: Any, *, where: str) -> Conversation:
        """The conversation that a row holds.

        Args:
            row: The row.
            where: File and row number, for messages.

        Raises:
            DataError: If the row is no object, or a column is missing, null or of the wrong type, or a role unknown.
        """
        if not isinstance(row, Mapping):
            raise DataError(f"{where} is {describe(row)}; an object is needed")
        return self.format.read(
            {
                field: Cell(where, f"column '{column}'", row.get(column, MISSING))
                for field, column in self.columns.items()
            }
        )


def choose_reader(
    present: Collection[str], *, columns: Mapping[str, str] | None = None, formats: Sequence[RowFormat] = FORMATS
) -> RowReader:
    """The reader of the first format whose columns are all there.

    Args:
        present: The dataset's columns.
        columns: The dataset's column for a field of ours, where the names differ.
        formats: The formats to try.

    Raises:
        ConfigError: If `columns` names an unknown field or a column that is not there, or no format fits.
    """
    columns = {field: column for field, column in (columns or {}).items() if column is not None}
    check_mapping(columns, present=present, formats=formats)
    candidates = [format for format in formats if set(columns) <= set(format.fields)]
    for format in candidates:
        names = {field: columns.get(field, field) for field in format.fields}
        if all(names[field] in present for field in format.required):
            return RowReader(format, names)
    there = f"The columns there are: {', '.join(map(repr, present)) or 'none'}."
    if not candidates:
        raise ConfigError(
            f"{' and '.join(f'{COLUMNS_KEY}.{field}' for field in columns)} do not belong to one format. {there}\n"
            f"{describe_formats(formats)}"
        )
    raise ConfigError(
        f"The dataset's columns fit no known format. {there}\n{describe_formats(candidates)}\n"
        f"Name a column that is called otherwise, as in {COLUMNS_KEY}.{candidates[0].required[-1]}=<column>."
    )


def check_mapping(columns: Mapping[str, str], *, present: Collection[str], formats: Sequence[RowFormat]) -> None:
    """Refuse a field that no format has, and a column that is not in the dataset.

    Raises:
        ConfigError: In either case; the message names the key and the nearest right name.
    """
    fields = list(dict.fromkeys(field for format in formats for field in format.fields))
    for field, column in columns.items():
        if field not in fields:
            raise ConfigError(
                f"Unknown key '{COLUMNS_KEY}.{field}'.{did_you_mean(field, fields)}\nAllowed: {', '.join(fields)}."
            )
        if column not in present:
            raise ConfigError(
                f"{COLUMNS_KEY}.{field}={column}: the dataset has no such column.{did_you_mean(str(column), present)}\n"
                f"The columns there are: {', '.join(map(repr, present)) or 'none'}."
            )


def describe_formats(formats: Sequence[RowFormat]) -> str:
    """The columns of each format, in words."""
    optional = {format: "".join(f", optionally {field}" for field in format.optional) for format in formats}
    return "Known formats: " + "; ".join(f"{' and '.join(f.required)}{optional[f]}" for f in formats) + "."


def describe(value: Any) -> str:
    """What a value is, in the words of JSON."""
    if value is MISSING:
        return "missing"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    for types, name in ((str, "a string"), (int | float, "a number"), (Mapping, "an object"), (Sequence, "a list")):
        if isinstance(value, types):
            return name
    return f"a {type(value).__name__}"
