"""The generated instruction dataset."""

from __future__ import annotations

import hashlib
from importlib.metadata import EntryPoint

import pytest

from ftframe.api import Conversation, Splits
from ftframe.embedded.people import people
from ftframe.embedded.world import NAMES, RELATIONS, reserved, unreserved
from ftframe.errors import ConfigError


def prompts(rows: Splits, split: str) -> list[str]:
    return [conversation[0].content for conversation in rows[split]]


def digest(rows: list[Conversation]) -> str:
    text = "\x00".join(message.content for conversation in rows for message in conversation)
    return hashlib.sha256(text.encode()).hexdigest()


def words(text: str) -> set[str]:
    return set(text.replace(".", " ").replace(",", " ").replace("?", " ").split())


def test_same_seed_same_rows() -> None:
    assert people(size=50, validation_size=20, seed=3) == people(size=50, validation_size=20, seed=3)


def test_rows_do_not_depend_on_the_machine() -> None:
    rows = people(size=50, validation_size=20)
    assert digest([*rows["train"], *rows["validation"]]) == "24e5a92c6a7f17132a9e596a447373eeadad061d0ff1caf1ef05be439fff8446"


def test_other_seed_other_rows() -> None:
    assert people(size=50, seed=0)["train"] != people(size=50, seed=1)["train"]


def test_sizes() -> None:
    rows = people(size=70, validation_size=30)
    assert {split: len(rows[split]) for split in rows} == {"train": 70, "validation": 30}


def test_no_validation_split_if_its_size_is_zero() -> None:
    assert set(people(size=5, validation_size=0)) == {"train"}


def test_prompts_are_unique_and_splits_disjoint() -> None:
    rows = people(size=4096, validation_size=512)
    train, validation = prompts(rows, "train"), prompts(rows, "validation")
    assert len(set(train)) == 4096
    assert len(set(validation)) == 512
    assert not set(train) & set(validation)


def test_nobody_in_validation_occurs_in_training() -> None:
    rows = people(size=2000, validation_size=500)
    trained = set().union(*map(words, prompts(rows, "train")))
    tested = set().union(*map(words, prompts(rows, "validation")))
    assert not trained & set(reserved(NAMES))
    assert not tested & set(unreserved(NAMES))
    assert tested & set(reserved(NAMES))


def test_validation_asks_about_values_never_trained_on() -> None:
    rows = people(size=2000, validation_size=500)
    trained = set().union(*map(words, prompts(rows, "train")))
    answers = {conversation[1].content for conversation in rows["validation"]}
    fresh = {value for relation in RELATIONS for value in reserved(relation.values)}
    assert not trained & fresh
    assert answers & fresh


def test_every_answer_stands_in_its_passage() -> None:
    for user, assistant in people(size=500)["train"]:
        passage, question = user.content.split("\n")
        assert (user.role, assistant.role) == ("user", "assistant")
        assert question.endswith("?")
        assert assistant.content in words(passage)
        assert assistant.content not in words(question)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 0),
        ("size", 1.5),
        ("size", True),
        ("size", "many"),
        ("size", 10**9),
        ("validation_size", -1),
        ("validation_size", None),
        ("seed", -1),
        ("seed", "x"),
    ],
)
def test_bad_arguments_name_their_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.dataset\.{key} must be an integer .*{value!r}\.$"):
        people(**{key: value})


def test_entry_point_loads() -> None:
    entry = EntryPoint("people", "ftframe.embedded.people:people", "ftframe.datasets")
    assert entry.load() is people
