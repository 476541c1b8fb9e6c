"""Rows that occur more than once: a validation row that was trained on measures memory, not learning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ftframe.api import Conversation

SHOWN = 5
"""Pairs of row numbers that are kept of each kind."""

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Duplicates:
    """How many rows occur more than once, and where the first of them are, counted from 1.

    Attributes:
        conversations: Validation rows whose whole conversation is in train too.
        prompts: Validation rows whose prompt is in train too, those of `conversations` included.
        within_train: Train rows that repeat an earlier one.
        first_conversations: Row of validation, row of train.
        first_prompts: Row of validation, row of train.
        first_within_train: Row of train, the earlier row of train.
    """

    conversations: int
    prompts: int
    within_train: int
    first_conversations: Pairs = ()
    first_prompts: Pairs = ()
    first_within_train: Pairs = ()


def find_duplicates(train: Iterable[Conversation], validation: Sequence[Conversation]) -> Duplicates:
    """What train and validation have in common, white space and case aside.

    Rows are compared by 64-bit hashes: among ten million, two different ones are confused once in 400,000 times.

    Args:
        train: Conversations to train on; iterated once.
        validation: Conversations that are held out.
    """
    seen: dict[int, int] = {}
    prompts: dict[int, int] = {}
    repeated: list[tuple[int, int]] = []
    for number, conversation in enumerate(train, start=1):
        whole, prompt = fingerprints(conversation)
        first = seen.setdefault(whole, number)
        if first != number:
            repeated.append((number, first))
        if prompt is not None:
            prompts.setdefault(prompt, number)
    both = [fingerprints(conversation) for conversation in validation]
    wholes = [(number, seen[whole]) for number, (whole, _) in enumerate(both, start=1) if whole in seen]
    asked = [(number, prompts[p]) for number, (_, p) in enumerate(both, start=1) if p is not None and p in prompts]
    return Duplicates(
        len(wholes),
        len(asked),
        len(repeated),
        tuple(wholes[:SHOWN]),
        tuple(asked[:SHOWN]),
        tuple(repeated[:SHOWN]),
    )


def fingerprints(conversation: Conversation) -> tuple[int, int | None]:
    """Hashes of a conversation and of its prompt, which is all before the last answer; None where there is none."""
    turns = [(message.role, " ".join(message.content.lower().split())) for message in conversation]
    last = max((index for index, (role, _) in enumerate(turns) if role == "assistant"), default=0)
    return hash(tuple(turns)), hash(tuple(turns[:last])) if last else None
