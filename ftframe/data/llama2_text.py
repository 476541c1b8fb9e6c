"""Conversations that a column `text` holds in Llama 2's chat format, taken apart into messages."""

from __future__ import annotations

import re

from ftframe.api import Message
from ftframe.data.cells import Cell

TURN = re.compile(r"<s>\s*\[INST\](.*?)\[/INST\](.*?)</s>\s*", re.DOTALL)
SYSTEM = re.compile(r" ?<<SYS>>\n(.*?)\n<</SYS>>\n\n(.*)", re.DOTALL)
MARKERS = ("<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


def read_llama2_text(cell: Cell) -> list[Message]:
    """The messages of `<s>[INST] user [/INST] assistant </s><s>[INST] ...`.

    The format's own space on either side of a content is taken off, and no other.

    Raises:
        RowError: If anything stands outside of the turns, or a marker inside of one.
    """
    text = cell.text()
    messages: list[Message] = []
    position = 0
    while turn := TURN.match(text, position):
        user, assistant = turn.groups()
        if position == 0 and (system := SYSTEM.fullmatch(user)):
            messages.append(Message("system", system[1]))
            user = system[2]
        messages += [Message("user", without_padding(user)), Message("assistant", without_padding(assistant))]
        position = turn.end()
    if position < len(text) or not messages:
        raise cell.fault(
            "does not parse: '<s>[INST] user [/INST] assistant </s>' is needed where it reads "
            f"{text[position : position + 60]!r}"
        )
    for marker in MARKERS:
        if any(marker in message.content for message in messages):
            raise cell.fault(f"does not parse: it has the marker {marker} inside of a turn")
    return messages


def without_padding(text: str) -> str:
    """A content without one space at either end."""
    return text.removeprefix(" ").removesuffix(" ")
