"""Tokens as the pieces of text that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from ftframe.data.examples import Example
from ftframe.data.segments import decode

REPLACEMENT = "\ufffd"


class Token(NamedTuple):
    """A token as it is shown.

    Attributes:
        id: Its number.
        text: The text that it adds; empty where a character needs further tokens.
        supervised: Whether the loss counts it.
    """

    id: int
    text: str
    supervised: bool


def spell(example: Example, tokenizer: Any) -> list[Token]:
    """The tokens of an example; their texts together are the decoded example.

    The first token is never supervised here, whatever its label: nothing comes before it that could predict it.
    """
    ids = [int(i) for i in example["input_ids"]]
    supervised = [index > 0 and label >= 0 for index, label in enumerate(example["labels"])]
    return [Token(*parts) for parts in zip(ids, _texts(ids, tokenizer), supervised, strict=True)]


def _texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """What each token adds to the decoded text."""
    texts: list[str] = []
    shown = ""
    for end in range(1, len(ids) + 1):
        text = decode(ids[:end], tokenizer)
        # A character of several tokens is complete with the last of them; until then a stand-in is decoded.
        if (text.endswith(REPLACEMENT) and end < len(ids)) or not text.startswith(shown):
            texts.append("")
            continue
        texts.append(text[len(shown) :])
        shown = text
    return texts


def stretches(tokens: Sequence[Token]) -> list[tuple[bool, str]]:
    """The text in stretches that are all supervised or all not."""
    parts = groupby(tokens, key=lambda token: token.supervised)
    return [(supervised, "".join(token.text for token in part)) for supervised, part in parts]
