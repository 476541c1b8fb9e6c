"""Reading comprehension over the invented world, generated from a seed."""

from __future__ import annotations

from collections.abc import Sequence

from ftframe.api import Conversation, Message, Splits
from ftframe.embedded.world import NAMES, RELATIONS, Dice, Scene, passage, reserved, scene, unreserved
from ftframe.errors import ConfigError

LARGEST = 100_000
"""Rows that a split can have; far fewer than there are different prompts."""


def people(*, size: int = 4096, validation_size: int = 128, seed: int = 0) -> Splits:
    """Short passages about two or three people, each with a question and its answer of one word.

    A question asks for a fact about a named person (`Where does Rona live?`), for the person of a fact
    (`Who lives in Ashby?`), or for a fact about a person known by another (`Where does the one who plays the flute
    live?`). Nobody in a validation passage occurs in training, and some of their towns, trades, pets, foods,
    instruments and hats do not either.

    Args:
        size: Rows of `train`.
        validation_size: Rows of `validation`.
        seed: Seed of both.
    """
    _check("size", size, 1, LARGEST)
    _check("validation_size", validation_size, 0, LARGEST)
    _check("seed", seed, 0, None)
    values = [relation.values for relation in RELATIONS]
    known = [unreserved(column) for column in values]
    splits = {"train": _rows(Dice(2 * seed), size, unreserved(NAMES), known)}
    if validation_size:
        splits["validation"] = _rows(Dice(2 * seed + 1), validation_size, reserved(NAMES), values)
    return splits


def _check(key: str, given: object, low: int, high: int | None) -> None:
    """Refuses what is not an integer in range.

    Raises:
        ConfigError: If it is not.
    """
    if isinstance(given, int) and not isinstance(given, bool) and low <= given and (high is None or given <= high):
        return
    wanted = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    raise ConfigError(f"data.dataset.{key} must be {wanted}, not {given!r}.")


def _rows(dice: Dice, size: int, names: Sequence[str], values: Sequence[Sequence[str]]) -> list[Conversation]:
    """`size` conversations, no two with the same prompt."""
    rows: dict[str, Conversation] = {}
    while len(rows) < size:
        subject = scene(dice, names, values)
        text = passage(dice, subject)
        question, answer = _question(dice, subject)
        prompt = f"{text}\n{question}"
        rows.setdefault(prompt, (Message("user", prompt), Message("assistant", answer)))
    return list(rows.values())


def _question(dice: Dice, subject: Scene) -> tuple[str, str]:
    """A question that the passage answers, and the answer."""
    fact, other = dice.draw(dice.pick(subject.people), 2)
    kind = dice.between(0, 2)
    if kind == 0:
        return f"Who {fact.predicate(dice)}?", fact.name
    person = fact.name if kind == 1 else f"the one who {other.predicate(dice)}"
    return dice.pick(fact.relation.questions).format(person), fact.value
