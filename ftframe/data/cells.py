"""Values of a raw row, and words for what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class RowError(Exception):
    """What is wrong with a row: the column at fault, and what is there and what is needed instead.

    Never leaves the package: whoever reads a row turns it into a `BadRow`.
    """

    def __init__(self, column: str, rule: str) -> None:
        """Keep both for the `BadRow`."""
        super().__init__(f"{column} {rule}")
        self.column = column
        self.rule = rule


class Missing:
    """The type of `MISSING`."""


MISSING = Missing()
"""Stands where a row has no such column, which is not the same as a null."""


@dataclass(frozen=True)
class Cell:
    """A value of a row, and how a message names it.

    Attributes:
        name: The column, or the key inside one.
        value: The value, or `MISSING`.
    """

    name: str
    value: Any

    @property
    def given(self) -> bool:
        """Whether there is a value; table libraries write a null where only other rows have the key."""
        return self.value is not None and self.value is not MISSING

    def fault(self, rule: str) -> RowError:
        """This cell breaks a rule."""
        return RowError(self.name, rule)

    def needs(self, needed: str) -> RowError:
        """What is there and what is needed instead."""
        return self.fault(f"is {describe(self.value)}; {needed} is needed")

    def text(self) -> str:
        """The value, if it is a string.

        Raises:
            RowError: If it is not, or holds a character that no tokenizer can encode.
        """
        if not isinstance(self.value, str):
            raise self.needs("a string")
        if broken := broken_character(self.value):
            raise self.fault(broken)
        return self.value

    def key(self, key: str) -> Cell:
        """The cell of a key of an object."""
        return Cell(f"{self.name}: key '{key}'", self.value.get(key, MISSING))


def broken_character(text: str) -> str | None:
    """What is wrong with a text that UTF-8 cannot write, or None.

    Files are decoded with `surrogateescape`, which keeps a byte that is not UTF-8 as U+DC80 to U+DCFF.
    """
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:
            return f"is not valid UTF-8 (byte 0x{code - 0xDC00:02x} at character {error.start + 1}); UTF-8 is needed"
        return f"holds half of a surrogate pair (\\u{code:04x}); valid Unicode is needed"
    return None


def describe(value: Any) -> str:
    """What a value is, in the words of JSON."""
    if value is MISSING:
        return "missing"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    for types, name in ((str, "a string"), (int | float, "a number"), (Mapping, "an object"), (Sequence, "a list")):
        if isinstance(value, types) and not isinstance(value, bytes):
            return name
    return f"a {type(value).__name__}"
