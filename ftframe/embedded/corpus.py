"""The text that the embedded base is pretrained on.

Stories state facts and then state them again in other words, which teaches a model to look things up in its context.
Lists that are said again teach it first to copy, which makes the rest come many times sooner.
There are no questions, no answers and no turns: those are left to fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ftframe.embedded.world import NAMES, RELATIONS, Dice, Fact, Scene, passage, scene, words

Kind = Callable[[Dice], str]

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


def documents(seed: int) -> Iterator[str]:
    """Documents without end, the same for the same seed."""
    return _draw(KINDS, seed)


def drills(seed: int) -> Iterator[str]:
    """Only those documents that are lists said again, without end."""
    return _draw(DRILLS, seed)


def _draw(kinds: Sequence[Kind], seed: int) -> Iterator[str]:
    """Documents of the given kinds, without end."""
    dice = Dice(seed)
    while True:
        yield dice.pick(kinds)(dice)


def _story(dice: Dice) -> str:
    """A passage about a few people, and what it said in other words."""
    subject = scene(dice, NAMES, [relation.values for relation in RELATIONS])
    lines = [passage(dice, subject)]
    lines += [_retelling(dice, subject) for _ in range(dice.between(6, 11))]
    if dice.chance(0.5):
        lines.append(_roll(dice, subject))
    return ("\n" if dice.chance(0.5) else " ").join(lines)


def _retelling(dice: Dice, subject: Scene) -> str:
    """One sentence that restates one fact."""
    person = dice.pick(subject.people)
    fact, other = dice.draw(person, 2)
    relation = fact.relation
    wordings = (
        f"{fact.name} {fact.predicate(dice)}.",
        f"{fact.name}'s {relation.noun} is {relation.article}{fact.value}.",
        f"The {relation.noun} of {fact.name} is {relation.article}{fact.value}.",
        f"The one who {fact.predicate(dice)} is {fact.name}.",
        f"It is {fact.name} who {fact.predicate(dice)}.",
        f"The one who {other.predicate(dice)} {fact.predicate(dice)}.",
        f"The {relation.noun} of the one who {other.predicate(dice)} is {relation.article}{fact.value}.",
    )
    return dice.pick(wordings)


def _roll(dice: Dice, subject: Scene) -> str:
    """A list over all people. Its words follow a bracket or a line break, where no space belongs to the token."""
    column = dice.between(0, len(subject.people[0]) - 1)
    facts: list[Fact] = [person[column] for person in dice.draw(subject.people, len(subject.people))]
    noun = facts[0].relation.noun
    layouts = (
        f"By {noun}: {', '.join(f'{fact.name} ({fact.value})' for fact in facts)}.",
        f"By {noun}: {', '.join(f'{fact.value} ({fact.name})' for fact in facts)}.",
        "\n".join(f"{fact.name} - {fact.value}" for fact in facts),
        "\n".join(f"{fact.value} - {fact.name}" for fact in facts),
    )
    return dice.pick(layouts)


def _aside(dice: Dice) -> str:
    """Text about something other than people."""
    if dice.chance(0.5):
        return " ".join(f"The opposite of {first} is {second}." for first, second in dice.draw(OPPOSITES, 3))
    order = dice.pick(ORDERS)
    start = dice.between(0, len(order) - 4)
    return f"In order: {', '.join(order[start : start + dice.between(3, 7)])}."


WORDS = (*NAMES, *(value for relation in RELATIONS for value in relation.values))
BREAKS = (", ", " ", "\n")


def _recital(dice: Dice) -> str:
    """Words in a row, said again with what lies between them changed."""
    row = dice.draw(WORDS, dice.between(5, 10))
    return "\n".join(dice.pick(BREAKS).join(row) for _ in range(3))


def _register(dice: Dice) -> str:
    """Pairs of words, said again in another order."""
    count = dice.between(3, 6)
    names, others = dice.draw(NAMES, count), dice.draw(dice.pick(RELATIONS).values, count)
    between = dice.pick((": ", " - ", " "))
    pairs = [f"{name}{between}{word}" for name, word in zip(names, others, strict=True)]
    turned = [f"{word}{between}{name}" for name, word in zip(names, others, strict=True)]
    again = [dice.draw(dice.pick((pairs, turned)), count) for _ in range(2)]
    return "\n".join(dice.pick((", ", "\n")).join(row) for row in (pairs, *again))


DRILLS: tuple[Kind, ...] = (_recital, _register)
KINDS: tuple[Kind, ...] = (*[_story] * 15, *DRILLS * 2, _aside)
"""What a document can be, each as often as it stands here."""
