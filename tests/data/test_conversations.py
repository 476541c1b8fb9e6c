from __future__ import annotations

from typing import Any

import pytest

from ftframe.api import BadRow, Message, Row
from ftframe.data.conversations import as_row, fault

SYSTEM, USER, ASSISTANT = Message("system", "s"), Message("user", "u"), Message("assistant", "a")
MASKED = Message("assistant", "a", masked=True)

GOOD: list[tuple[str, Any]] = [
    ("pair", [USER, ASSISTANT]),
    ("tuple", (SYSTEM, USER, ASSISTANT)),
    ("document", [ASSISTANT]),
    ("several-turns", [USER, ASSISTANT, USER, ASSISTANT]),
    ("two-user-turns", [USER, USER, ASSISTANT]),
    ("masked-answer-may-be-empty", [USER, Message("assistant", "", masked=True), USER, ASSISTANT]),
    ("empty-question", [Message("user", ""), ASSISTANT]),
    ("learnt-question", [Message("user", "u", masked=False)]),
]


@pytest.mark.parametrize("messages", [case[1] for case in GOOD], ids=[case[0] for case in GOOD])
def test_what_can_be_learnt_has_no_fault(messages: Any) -> None:
    assert fault(messages) is None
    assert as_row(messages, "train row 1") == Row(messages, "train row 1")


BAD: list[tuple[str, Any, str, str]] = [
    ("empty", [], "the conversation", "has no messages; at least one is needed"),
    ("dicts", [{"role": "user"}], "message 1", "is of type dict; an ftframe.api.Message is needed"),
    ("string", ["u"], "message 1", "is of type str; an ftframe.api.Message is needed"),
    ("role", [Message("tool", "x")], "message 1: key 'role'", "is 'tool'; one of system, user, assistant is needed"),  # type: ignore[arg-type]
    ("no-role", [Message(None, "x")], "message 1: key 'role'", "is None; one of system, user, assistant is needed"),  # type: ignore[arg-type]
    ("null", [USER, Message("assistant", None)], "message 2: key 'content'", "is null; a string is needed"),  # type: ignore[arg-type]
    ("number", [Message("user", 3), ASSISTANT], "message 1: key 'content'", "is a number; a string is needed"),  # type: ignore[arg-type]
    ("mask", [Message("user", "u", 0)], "message 1: key 'masked'", "is a number; true, false or null is needed"),  # type: ignore[arg-type]
    ("surrogate", [Message("user", "\ud800")], "message 1: key 'content'", "holds half of a surrogate pair (\\ud800);"),
    ("empty-answer", [USER, Message("assistant", "")], "message 2: key 'content'", "is empty; text that is learnt is"),
    (
        "blank-answer",
        [USER, Message("assistant", " \n\t")],
        "message 2: key 'content'",
        "is only space; text that is l",
    ),
    ("two-answers", [USER, ASSISTANT, ASSISTANT], "message 3", "is an assistant's turn after another; a user's turn"),
    (
        "two-answers-one-masked",
        [USER, MASKED, ASSISTANT],
        "message 3",
        "is an assistant's turn after another; a user's",
    ),
    ("late-system", [USER, SYSTEM, ASSISTANT], "message 2", "is a system message; only the first message can be one"),
    (
        "two-systems",
        [SYSTEM, SYSTEM, USER, ASSISTANT],
        "message 2",
        "is a system message; only the first message can be",
    ),
    ("no-answer", [SYSTEM, USER], "the conversation", "has no message that is learnt; an answer that is not masked is"),
    (
        "all-masked",
        [USER, MASKED],
        "the conversation",
        "has no message that is learnt; an answer that is not masked is",
    ),
]


@pytest.mark.parametrize(("messages", "column", "rule"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_fault_names_the_part_and_the_rule(messages: Any, column: str, rule: str) -> None:
    found = fault(messages)
    assert found is not None
    assert found[0] == column
    assert found[1].startswith(rule)
    assert as_row(messages, "train row 7") == BadRow("train row 7", *found)
    assert as_row(Row(messages, "a.jsonl, row 2"), "train row 7") == BadRow("a.jsonl, row 2", *found)


@pytest.mark.parametrize("item", [7, "text", b"bytes", None, {"role": "user"}, {USER}, USER], ids=repr)
def test_what_is_no_conversation_is_named_by_its_type(item: Any) -> None:
    bad = as_row(item, "train row 7")
    assert isinstance(bad, BadRow)
    assert (bad.where, bad.column) == ("train row 7", "the row")
    assert bad.rule.startswith(f"is of type {type(item).__name__}; ")


@pytest.mark.parametrize("item", [7, "text", b"bytes", None, {"role": "user"}], ids=repr)
def test_a_row_of_what_is_no_conversation(item: Any) -> None:
    assert as_row(Row(item, "there"), "train row 7") == BadRow(
        "there", "the conversation", f"is of type {type(item).__name__}; a list of messages is needed"
    )


def test_rows_and_bad_rows_stay_what_they_are() -> None:
    row, bad = Row([USER, ASSISTANT], "there"), BadRow("there", "column 'a'", "is null")
    assert as_row(row, "train row 7") is row
    assert as_row(bad, "train row 7") is bad
