"""Conversations written as a list of messages: OpenAI's `role` and `content`, ShareGPT's `from` and `value`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from ftframe.api import Message, Role
from ftframe.data.cells import Cell
from ftframe.errors import did_you_mean

ROLE_NAMES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""Role names in datasets, and ours."""

BEYOND_TEXT = ("tool_calls", "function_call", "refusal", "audio")
"""Keys of OpenAI's messages that carry what a text cannot; leaving them out would teach something else."""

MASKS = ("weight", "masked")
"""Keys that say whether a message is learnt. A misspelt one would be learnt, or not, in silence."""


def read_messages(cell: Cell) -> list[Message]:
    """The messages of a list.

    Raises:
        RowError: If it is no list, or empty, or a message in it is not one.
    """
    if not is_list(cell.value):
        raise cell.needs("a list of messages")
    if not cell.value:
        raise cell.fault("is an empty list; at least one message is needed")
    return [
        read_message(Cell(f"{cell.name}, message {number}", value)) for number, value in enumerate(cell.value, start=1)
    ]


def is_list(value: Any) -> bool:
    """Whether a value is a list in the sense of JSON."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def read_message(cell: Cell) -> Message:
    """One message.

    Raises:
        RowError: If it is no object, the role is unknown, or a key is missing, of the wrong type or more than text.
    """
    if not isinstance(cell.value, Mapping):
        raise cell.needs("an object with role and content")
    # A table library fills keys that only other rows have with nulls, so a null `role` beside `from` is none.
    sharegpt = not cell.key("role").given and cell.key("from").given
    role_cell, content = (cell.key(key) for key in (("from", "value") if sharegpt else ("role", "content")))
    role = read_role(role_cell)
    for key in set(cell.value) - {*BEYOND_TEXT, *MASKS}:
        if close := get_close_matches(str(key), MASKS, n=1, cutoff=0.7):
            raise cell.key(str(key)).fault(f"is no key of a message; '{close[0]}' may be meant")
    for key in BEYOND_TEXT:
        if cell.key(key).given and cell.value[key] != []:
            raise cell.key(key).fault("is given; only text can be learnt")
    return Message(role, read_content(content), read_mask(cell, role))


def read_role(cell: Cell) -> Role:
    """Our name of the role.

    Raises:
        RowError: If it is not known.
    """
    name = cell.text()
    if name not in ROLE_NAMES:
        raise cell.fault(
            f"is '{name}'; one of {', '.join(ROLE_NAMES)} is needed.{did_you_mean(name, ROLE_NAMES)}".removesuffix(".")
        )
    return ROLE_NAMES[name]


def read_content(cell: Cell) -> str:
    """The text of a message, its parts joined.

    Raises:
        RowError: If it is neither a string nor a list of text parts.
    """
    if not is_list(cell.value):
        return cell.text()
    if not cell.value:
        raise cell.fault("is an empty list; a string or text parts are needed")
    return "".join(read_part(Cell(f"{cell.name}, part {n}", part)) for n, part in enumerate(cell.value, start=1))


def read_part(cell: Cell) -> str:
    """The text of one part of a content.

    Raises:
        RowError: If it is not `{"type": "text", "text": ...}`.
    """
    if not isinstance(cell.value, Mapping):
        raise cell.needs("an object with type and text")
    kind = cell.key("type").text()
    if kind != "text":
        raise cell.fault(f"is of type '{kind}'; only parts of type 'text' can be learnt")
    return cell.key("text").text()


def read_mask(cell: Cell, role: Role) -> bool | None:
    """Whether the message is kept out of the loss; None for the usual rule.

    `weight` is OpenAI's word for it: 0 for an answer that is not learnt, and 1, the default, for one that is.

    Raises:
        RowError: If both `masked` and `weight` are given, or a value has no meaning.
    """
    masked, weight = cell.key("masked"), cell.key("weight")
    if masked.given and weight.given:
        raise cell.fault("has both 'weight' and 'masked'; one of them is needed")
    if masked.given and not isinstance(masked.value, bool):
        raise masked.needs("true, false or null")
    if masked.given:
        return bool(masked.value)
    if not weight.given:
        return None
    return weight_as_mask(weight, role)


def weight_as_mask(weight: Cell, role: Role) -> bool:
    """A weight in terms of `masked`.

    Raises:
        RowError: If it is not 0 or 1, or 1 where only an answer can have it.
    """
    if isinstance(weight.value, bool) or not isinstance(weight.value, int | float):
        raise weight.needs("0 or 1")
    if weight.value not in (0, 1):
        raise weight.fault(f"is {weight.value}; 0 or 1 is needed")
    if weight.value == 1 and role != "assistant":
        raise weight.fault(f"is 1 on a message of the {role}; only the assistant's have a weight")
    return weight.value == 0
