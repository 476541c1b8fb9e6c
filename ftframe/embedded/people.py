"""Questions about the invented world, generated from a seed."""

from __future__ import annotations

from collections.abc import Sequence

from ftframe.api import Conversation, Message, Splits
from ftframe.embedded.world import HOME, PEOPLE, Dice, Fact, Person
from ftframe.errors import ConfigError

HELD_OUT = 32
"""How many people only `validation` asks about."""


def people(*, size: int = 2048, validation_size: int = 128, seed: int = 0) -> Splits:
    """Short questions about people, each with an answer of one word.

    A question asks for a fact about a person (`Where does Rona live?`) or for the person of a home
    (`Who lives in Ashby?`). The facts are those that the embedded base was pretrained on; what it learns here is to
    understand a question, to answer it and to stop. Nobody in `validation` occurs in `train`.

    Args:
        size: Rows of `train`.
        validation_size: Rows of `validation`.
        seed: Seed of both, and of who is held out.
    """
    _check("seed", seed, 0, None)
    dice = Dice(seed)
    everyone = dice.draw(PEOPLE, len(PEOPLE))
    train, validation = _questions(everyone[HELD_OUT:]), _questions(everyone[:HELD_OUT])
    _check("size", size, 1, len(train))
    _check("validation_size", validation_size, 0, len(validation))
    splits = {"train": dice.draw(train, size)}
    if validation_size:
        splits["validation"] = dice.draw(validation, validation_size)
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


def _questions(group: Sequence[Person]) -> list[Conversation]:
    """Every question that can be asked about these people, with its answer."""
    return [
        (Message("user", question), Message("assistant", answer))
        for person in group
        for fact in person
        for question, answer in _about(fact)
    ]


def _about(fact: Fact) -> list[tuple[str, str]]:
    """Every question about one fact, with its answer."""
    relation = fact.relation
    wordings = (*relation.questions, "What is the {noun} of {}?", "What is {}'s {noun}?")
    pairs = [(wording.format(fact.name, noun=relation.noun), fact.value) for wording in wordings]
    if relation is HOME:
        inverse = ("Who lives in {}?", "Who has a house in {}?", "Whose home is {}?")
        pairs += [(wording.format(fact.value), fact.name) for wording in inverse]
    return pairs
