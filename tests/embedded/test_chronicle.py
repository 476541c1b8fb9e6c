from __future__ import annotations

from typing import Any

import pytest

from ftframe.data.conversations import fault
from ftframe.data.duplicates import find_duplicates
from ftframe.embedded.chronicle import PARTS, PROBES, chronicle
from ftframe.embedded.world import NEWCOMERS, PEOPLE
from ftframe.errors import ConfigError


@pytest.mark.parametrize("part", PARTS)
def test_each_part_gives_sound_rows_that_the_seed_decides(part: str) -> None:
    splits = chronicle(part=part, size=30, validation_size=10)
    assert (len(splits["train"]), len(splits["validation"])) == (30, 10)  # type: ignore[arg-type]
    assert [fault(row) for rows in splits.values() for row in rows] == [None] * 40  # type: ignore[arg-type]
    assert chronicle(part=part, size=30, validation_size=10) == splits
    assert chronicle(part=part, size=30, validation_size=10, seed=1) != splits


@pytest.mark.parametrize("part", sorted(set(PARTS) - set(PROBES)))
def test_no_validation_row_is_trained_on(part: str) -> None:
    splits: Any = chronicle(part=part, size=1000, validation_size=64)
    found = find_duplicates(splits["train"], splits["validation"])
    assert (len(splits["validation"]), found.conversations, found.prompts) == (64, 0, 0)


def test_newcomers_are_not_known() -> None:
    known = {person[0].name for person in PEOPLE}
    assert len(NEWCOMERS) == 8
    assert not known & {person[0].name for person in NEWCOMERS}
    texts: Any = chronicle(part="newcomers", size=200)["train"]
    assert not any(name in message.content.split() for (message,) in texts for name in known)


def test_facts_are_completed_by_one_word() -> None:
    rows: Any = chronicle(part="newcomer_facts", size=999)["train"]
    assert len(rows) == 8 * 5
    assert all(user.content.endswith("=") and " " not in answer.content for user, answer in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"part": "newcomer"}, "data.dataset.part=newcomer: no such part. Did you mean 'newcomers'?"),
        ({"part": "known", "size": 0}, "data.dataset.size=0 must be an integer of at least 1"),
        ({"part": "known", "validation_size": True}, "data.dataset.validation_size=True must be"),
    ],
    ids=["part", "size", "boolean"],
)
def test_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        chronicle(**arguments)
    assert message in str(raised.value)
