"""A small invented world: who lives in it, and what is true of them.

The facts never change. Text about them is drawn from a seed through `Dice`, the same on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

Item = TypeVar("Item")


class Dice:
    """Random choices that are the same on every Python version.

    `random.Random` promises that only for `random()`, not for `choice`, `sample` and `shuffle`.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random.random() < probability

    def between(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.between(0, len(items) - 1)]

    def draw(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` different items, in random order."""
        pool = list(items)
        for index in range(count):
            other = self.between(index, len(pool) - 1)
            pool[index], pool[other] = pool[other], pool[index]
        return pool[:count]


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


def _compounds(starts: str, ends: str) -> tuple[str, ...]:
    """Every start joined to every end, ordered so that any few neighbours differ in both."""
    first, second = starts.split(), ends.split()
    pairs = sorted(product(range(len(first)), range(len(second))), key=lambda pair: (sum(pair) % len(first), pair[1]))
    return tuple(first[start] + second[end] for start, end in pairs)


NAMES = _compounds(
    "Al Bra Cor Da El Fen Gar Hol Is Jo Kel Lu Mar Nor Or Pel Ro Sel Ta Vi", "bert dra lin mund na ric vin wen"
)
TOWNS = _compounds(
    "Ash Birch Clay Dun East Fair Green High Lake Mill North Oak Red South Stone West",
    "bury by dale field ford ham port ton well wick",
)


@dataclass(frozen=True)
class Relation:
    """One kind of fact: what can be true of a person, and how it is said.

    Attributes:
        noun: What a value of the relation is called.
        values: What the fact can be.
        article: What stands before a value where the noun names it.
        predicates: What a sentence says of a person; `{}` stands for the value.
        questions: What can be asked about a person, who is `{}`; the base model never sees these.
    """

    noun: str
    values: tuple[str, ...]
    article: str
    predicates: tuple[str, ...]
    questions: tuple[str, ...]


RELATIONS = (
    Relation(
        "home",
        TOWNS,
        "",
        ("lives in {}", "has a house in {}", "comes from {}"),
        ("Where does {} live?", "Which town does {} come from?"),
    ),
    Relation(
        "trade",
        words(
            "baker barber builder carpenter cook dentist doctor driver farmer fisher gardener hunter judge lawyer "
            "miller nurse painter pilot potter sailor singer smith tailor teacher weaver writer"
        ),
        "that of a ",
        ("works as a {}", "is a {}", "earns a living as a {}"),
        ("What does {} do for a living?", "What work does {} do?"),
    ),
    Relation(
        "pet",
        words(
            "bear camel cat cow deer dog duck ferret fox frog goat goose hamster hen horse lizard monkey mouse parrot "
            "pigeon pony rabbit sheep snake turtle wolf"
        ),
        "a ",
        ("has a {}", "keeps a {}", "looks after a {}"),
        ("What animal does {} keep?", "Which pet does {} have?"),
    ),
    Relation(
        "favourite food",
        words(
            "apples beans bread butter cabbage cake carrots cheese cherries eggs figs fish grapes honey lemons "
            "mushrooms nuts olives onions pasta peas plums potatoes rice soup tomatoes"
        ),
        "",
        ("likes {}", "loves to eat {}", "eats {} every day"),
        ("What does {} like to eat?", "Which food does {} love?"),
    ),
    Relation(
        "instrument",
        words(
            "banjo bugle cello cymbal drum fiddle flute gong guitar "
            "harp horn lute lyre bell piano trumpet viola whistle"
        ),
        "the ",
        ("plays the {}", "owns a {}", "makes music on the {}"),
        ("What does {} play?", "Which instrument does {} own?"),
    ),
    Relation(
        "hat",
        words("black blue brown crimson golden gray green pink purple red scarlet silver violet white yellow"),
        "",
        ("wears a {} hat", "has a {} hat", "likes to wear a {} hat"),
        ("What colour is the hat of {}?", "Which colour does {} wear?"),
    ),
)

HOME = RELATIONS[0]


@dataclass(frozen=True)
class Fact:
    """Something true of one person."""

    name: str
    relation: Relation
    value: str


Person = tuple[Fact, ...]
"""What is true of one person: one fact for each of `RELATIONS`, in their order."""


def _settle(names: Sequence[str], seed: int) -> tuple[Person, ...]:
    """Everyone with their facts. No two share a home, so that a town points at one person."""
    dice = Dice(seed)
    homes = dice.draw(TOWNS, len(names))
    return tuple(
        (Fact(name, HOME, home), *(Fact(name, relation, dice.pick(relation.values)) for relation in RELATIONS[1:]))
        for name, home in zip(names, homes, strict=True)
    )


PEOPLE = _settle(NAMES, 0)
"""Those whom the embedded base knows."""

NEWCOMERS = _settle(_compounds("Bri Cad Dro Fal", "bo nes"), 1)
"""Those whom it does not know."""
