"""The generated instruction dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import EntryPoint

import pytest

from ftframe.api import Conversation, Splits
from ftframe.embedded.people import HELD_OUT, people
from ftframe.embedded.world import NAMES, PEOPLE
from ftframe.errors import ConfigError


def prompts(rows: Splits, split: str) -> list[str]:
    return [conversation[0].content for conversation in rows[split]]


def digest(rows: list[Conversation]) -> str:
    text = "\x00".join(message.content for conversation in rows for message in conversation)
    return hashlib.sha256(text.encode()).hexdigest()


def mentioned(rows: Sequence[Conversation]) -> set[str]:
    """Every word of the rows, without a genitive."""
    text = " ".join(message.content for conversation in rows for message in conversation)
    return set(text.replace("'s", " ").replace("?", " ").split())


def test_same_seed_same_rows() -> None:
    assert people(size=50, validation_size=20, seed=3) == people(size=50, validation_size=20, seed=3)


def test_rows_do_not_depend_on_the_machine() -> None:
    rows = people(size=50, validation_size=20)
    assert (
        digest([*rows["train"], *rows["validation"]])
        == "9707fdafbf01e1519b12977b36e0c39631f7a164e033b9b67c25ac377c47bbb8"
    )


def test_other_seed_other_rows() -> None:
    assert people(size=50, seed=0)["train"] != people(size=50, seed=1)["train"]


def test_sizes() -> None:
    rows = people(size=70, validation_size=30)
    assert {split: len(rows[split]) for split in rows} == {"train": 70, "validation": 30}


def test_no_validation_split_if_its_size_is_zero() -> None:
    assert set(people(size=5, validation_size=0)) == {"train"}


def test_prompts_are_unique_and_splits_disjoint() -> None:
    rows = people(size=3456, validation_size=864)
    train, validation = prompts(rows, "train"), prompts(rows, "validation")
    assert len(set(train)) == 3456
    assert len(set(validation)) == 864
    assert not set(train) & set(validation)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nobody_in_validation_occurs_in_training(seed: int) -> None:
    rows = people(size=3456, validation_size=864, seed=seed)
    everyone = set(NAMES) | {person[0].value for person in PEOPLE}
    train, validation = mentioned(rows["train"]), mentioned(rows["validation"])
    assert not train & validation & everyone
    assert len(validation & set(NAMES)) == HELD_OUT


def test_every_answer_is_true() -> None:
    for user, assistant in people(size=3456)["train"]:
        assert (user.role, assistant.role) == ("user", "assistant")
        assert user.content.endswith("?")
        owner = next(person for person in PEOPLE if mentioned([(user,)]) & {person[0].name, person[0].value})
        assert assistant.content in {owner[0].name, *(fact.value for fact in owner)}
        assert assistant.content not in user.content


def test_no_two_people_share_a_home() -> None:
    assert len({person[0].value for person in PEOPLE}) == len(PEOPLE) == len(set(NAMES))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 0),
        ("size", 1.5),
        ("size", True),
        ("size", "many"),
        ("size", 3457),
        ("validation_size", 865),
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
