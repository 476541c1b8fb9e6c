"""What every conversation must be, whoever built it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ftframe.api import ROLES, BadRow, Conversation, Message, Row
from ftframe.data.cells import broken_character, describe
from ftframe.errors import did_you_mean


class ConversationFault(NamedTuple):
    """What is wrong with a conversation.

    Attributes:
        message: The index of the message at fault; None for the conversation.
        key: The message's key at fault, as messages write it, or an empty string.
        rule: What is there and what is needed instead.
    """

    message: int | None
    key: str
    rule: str


def fault(messages: Conversation) -> tuple[str, str] | None:
    """The part at fault and the rule that it breaks, if a conversation cannot be learnt from; else None."""
    found = find_fault(messages)
    if found is None:
        return None
    return "the conversation" if found.message is None else f"message {found.message + 1}{found.key}", found.rule


def find_fault(messages: Conversation) -> ConversationFault | None:
    """As `fault`, with the message's index."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        return ConversationFault(None, "", f"is of type {type(messages).__name__}; a list of messages is needed")
    if not messages:
        return ConversationFault(None, "", "has no messages; at least one is needed")
    previous = None
    for index, message in enumerate(messages):
        broken = fault_of_message(message) or fault_of_order(message, index=index, previous=previous)
        if broken is not None:
            return ConversationFault(index, *broken)
        previous = message.role
    if not any(message.supervised for message in messages):
        return ConversationFault(None, "", "has no message that is learnt; an answer that is not masked is needed")
    return None


def fault_of_message(message: Any) -> tuple[str, str] | None:
    """What is wrong with one message by itself."""
    if not isinstance(message, Message):
        return "", f"is of type {type(message).__name__}; an ftframe.api.Message is needed"
    if message.role not in ROLES:
        hint = did_you_mean(str(message.role), ROLES)
        return ": key 'role'", f"is {message.role!r}; one of {', '.join(ROLES)} is needed{hint and '.'}{hint}"
    if not isinstance(message.content, str):
        return ": key 'content'", f"is {describe(message.content)}; a string is needed"
    if message.masked is not None and not isinstance(message.masked, bool):
        return ": key 'masked'", f"is {describe(message.masked)}; true, false or null is needed"
    if broken := broken_character(message.content):
        return ": key 'content'", broken
    if message.supervised and not message.content.strip():
        return ": key 'content'", f"is {'only space' if message.content else 'empty'}; text that is learnt is needed"
    return None


def fault_of_order(message: Message, *, index: int, previous: str | None) -> tuple[str, str] | None:
    """What is wrong with a message where it stands."""
    if message.role == "system" and index > 0:
        return "", "is a system message; only the first message can be one"
    if message.role == "assistant" and previous == "assistant":
        return "", "is an assistant's turn after another; a user's turn between them, or one turn of both, is needed"
    return None


def as_row(item: Any, default_where: str) -> Row | BadRow:
    """One item of `Rows`, checked: a conversation to learn from that knows where it comes from, or what is wrong.

    Args:
        item: What a dataset builder gave.
        default_where: Names the item where it does not name itself.
    """
    if isinstance(item, BadRow):
        return item
    if isinstance(item, Row):
        row = item
    elif isinstance(item, Sequence) and not isinstance(item, str | bytes):
        row = Row(item, default_where)
    else:
        given = type(item).__name__
        return BadRow(default_where, "the row", f"is of type {given}; a list of Message, a Row or a BadRow is needed")
    broken = fault(row.messages)
    return row if broken is None else BadRow(row.where, *broken)
