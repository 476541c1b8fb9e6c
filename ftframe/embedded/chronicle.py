"""Texts of the invented world to go on learning from, and probes of what a model knows of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from ftframe.api import Conversation, Message, Splits
from ftframe.embedded.corpus import documents
from ftframe.embedded.world import HOME, NEWCOMERS, PEOPLE, Dice, Person
from ftframe.errors import ConfigError, did_you_mean

HELD_OUT = 32
"""How many people only the descriptions of `validation` are about."""


def chronicle(*, part: str, size: int = 512, validation_size: int = 64, seed: int = 0) -> Splits:
    """One of several kinds of text about the invented world.

    Args:
        part: `known`, documents about people whom the embedded base knows; `newcomers`, documents about people whom it
            does not; `ledger`, a style of writing that it has never seen, about people whom it knows; `known_facts` and
            `newcomer_facts`, records to be completed by one word; `descriptions`, instructions to describe a person.
        size: Rows of `train`.
        validation_size: Rows of `validation`, none of which is in `train`: documents in other wordings, descriptions of
            other people. The facts are probes, of which both splits hold as many as there are.
        seed: Seed of both.

    Raises:
        ConfigError: If there is no such part, or a size is not positive.
    """
    if part not in PARTS:
        raise ConfigError(
            f"data.dataset.part={part}: no such part.{did_you_mean(str(part), PARTS)}\nParts: {', '.join(PARTS)}."
        )
    for key, number in (("size", size), ("validation_size", validation_size)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ConfigError(f"data.dataset.{key}={number!r} must be an integer of at least 1.")
    train, validation = PARTS[part](size, 2 * seed), PARTS[part](2 * validation_size, 2 * seed + 1)
    if part not in PROBES:
        validation = [row for row in validation if row not in train]
    return {"train": train, "validation": validation[:validation_size]}


def _texts_about(people: Sequence[Person]) -> Callable[[int, int], list[Conversation]]:
    """A function that writes documents about some people."""
    return lambda size, seed: [[Message("assistant", text)] for text in islice(documents(seed, people), size)]


def _ledger(size: int, seed: int) -> list[Conversation]:
    """Entries of an office's register, a few to a document."""
    dice = Dice(seed)
    return [
        [Message("assistant", "\n".join(_entry(dice, person) for person in dice.draw(PEOPLE, dice.between(2, 4))))]
        for _ in range(size)
    ]


def _entry(dice: Dice, person: Person) -> str:
    """One person in the register: the home first, then two other facts."""
    facts = [f"{fact.relation.noun}: {fact.value}" for fact in dice.draw(person[1:], 2)]
    return f"Entered: {person[0].name} of {person[0].value}; " + "; ".join(facts) + "."


def _facts_about(people: Sequence[Person]) -> Callable[[int, int], list[Conversation]]:
    """A function that writes records of which the last word is missing. A home would be more than one token."""

    def facts(size: int, seed: int) -> list[Conversation]:
        dice = Dice(seed)
        every = [fact for person in people for fact in person if fact.relation is not HOME]
        drawn = dice.draw(every, min(size, len(every)))
        return [
            [Message("user", f"name={fact.name}\n{fact.relation.noun}="), Message("assistant", fact.value)]
            for fact in drawn
        ]

    return facts


def _descriptions(size: int, seed: int) -> list[Conversation]:
    """Instructions to describe a person, and a sentence that does; of other people where the seed is odd."""
    dice = Dice(seed)
    people = PEOPLE[:HELD_OUT] if seed % 2 else PEOPLE[HELD_OUT:]
    rows: list[Conversation] = []
    for _ in range(size):
        person = dice.pick(people)
        fact = dice.pick(person[1:])
        answer = f"{fact.name} lives in {person[0].value} and {fact.relation.predicates[0].format(fact.value)}."
        question = f"Describe {fact.name}: home and {fact.relation.noun}."
        rows.append([Message("user", question), Message("assistant", answer)])
    return rows


PARTS: dict[str, Callable[[int, int], list[Conversation]]] = {
    "known": _texts_about(PEOPLE),
    "newcomers": _texts_about(NEWCOMERS),
    "ledger": _ledger,
    "known_facts": _facts_about(PEOPLE),
    "newcomer_facts": _facts_about(NEWCOMERS),
    "descriptions": _descriptions,
}

PROBES = ("known_facts", "newcomer_facts")
"""Parts that ask what a model knows and are not for training."""
