"""The text that the embedded base is pretrained on.

It tells what is true of each person of the invented world in many wordings, so that a model comes to know the facts
and not the sentences. There are no questions, no answers and no turns: those are left to fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ftframe.embedded.world import HOME, PEOPLE, Dice, Fact, Person, words

OPPOSITES = (
    ("big", "small"),
    ("hot", "cold"),
    ("old", "new"),
    ("wet", "dry"),
    ("fast", "slow"),
    ("full", "empty"),
    ("loud", "quiet"),
    ("rich", "poor"),
    ("light", "dark"),
    ("soft", "hard"),
)
ORDERS = (
    words("one two three four five six seven eight nine ten eleven twelve"),
    words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    words("January February March April May June July August September October November December"),
)


def documents(seed: int, people: Sequence[Person] = PEOPLE) -> Iterator[str]:
    """Documents about some people without end, the same for the same seed."""
    dice = Dice(seed)
    about: list[Callable[..., str]] = [*[_biography] * 6, *[_gossip] * 6, *[_card] * 7]
    kinds: list[Callable[[Dice], str]] = [*(partial(kind, people=people) for kind in about), _aside]
    while True:
        yield dice.pick(kinds)(dice)


def _biography(dice: Dice, people: Sequence[Person]) -> str:
    """Everything about one person, in any order."""
    person = dice.pick(people)
    return _between(dice).join(_sentence(dice, fact) for fact in dice.draw(person, len(person)))


def _gossip(dice: Dice, people: Sequence[Person]) -> str:
    """Something about each of a few people."""
    return _between(dice).join(_sentence(dice, dice.pick(person)) for person in dice.draw(people, dice.between(4, 7)))


def _between(dice: Dice) -> str:
    """What stands between two sentences of a document."""
    return "\n" if dice.chance(0.5) else " "


def _sentence(dice: Dice, fact: Fact) -> str:
    """One fact in one of its wordings; a home also with the town before the person."""
    name, relation, value = fact.name, fact.relation, fact.value
    wordings = [
        f"{name} {dice.pick(relation.predicates).format(value)}.",
        f"{name} {dice.pick(relation.predicates).format(value)}.",
        f"{name}'s {relation.noun} is {relation.article}{value}.",
        f"The {relation.noun} of {name} is {relation.article}{value}.",
    ]
    if relation is HOME:
        wordings += [f"In {value} lives {name}.", f"{value} is the home of {name}.", f"{value} is where {name} lives."]
    return dice.pick(wordings)


def _card(dice: Dice, people: Sequence[Person]) -> str:
    """A record of one person. Its words follow `=`, where no space belongs to the token."""
    person: Person = dice.pick(people)
    name, home = f"name={person[0].name}", f"home={person[0].value}"
    head = (name, home) if dice.chance(0.5) else (home, name)
    rest = [f"{fact.relation.noun}={fact.value}" for fact in dice.draw(person[1:], len(person) - 1)]
    if dice.chance(0.5):
        return "\n".join((*head, *rest))
    return "\n".join((name, *dice.draw([home, *rest], len(rest) + 1)))


def _aside(dice: Dice) -> str:
    """Text about something other than people."""
    if dice.chance(0.5):
        return " ".join(f"The opposite of {first} is {second}." for first, second in dice.draw(OPPOSITES, 3))
    order = dice.pick(ORDERS)
    start = dice.between(0, len(order) - 4)
    return f"In order: {', '.join(order[start : start + dice.between(3, 7)])}."
