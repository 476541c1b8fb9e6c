from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftframe.api import Message
from ftframe.data.rows import FORMATS, choose_reader
from ftframe.errors import ConfigError, DataError, FtframeError

WHERE = "train.jsonl, row 3"
USER, ASSISTANT = Message("user", "u"), Message("assistant", "a")


def read(row: Any, *, present: list[str] | None = None, columns: dict[str, str] | None = None) -> list[Message]:
    return list(choose_reader(present or list(row), columns=columns).read(row, where=WHERE))


ROLES = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]

READ = [
    ("alpaca", {"instruction": "u", "output": "a"}, [USER, ASSISTANT]),
    ("alpaca-empty-input", {"instruction": "u", "input": "", "output": "a", "text": "x"}, [USER, ASSISTANT]),
    ("alpaca-null-input", {"instruction": "u", "input": None, "output": "a"}, [USER, ASSISTANT]),
    (
        "alpaca-input",
        {"instruction": "u", "input": "i", "output": "a"},
        [Message("user", "u\n\n### Input:\ni"), ASSISTANT],
    ),
    ("messages", {"messages": ROLES, "prompt": "x", "completion": "y"}, [Message("system", "s"), USER, ASSISTANT]),
    ("sharegpt", {"conversations": SHAREGPT}, [USER, ASSISTANT]),
    ("sharegpt-in-messages", {"messages": SHAREGPT}, [USER, ASSISTANT]),
    ("sharegpt-with-null-keys", {"messages": [{"role": None, "content": None, "from": "human", "value": "u"}]}, [USER]),
    (
        "masked",
        {"messages": [{"role": "assistant", "content": "a", "masked": True}, {**ROLES[1], "masked": None}]},
        [Message("assistant", "a", masked=True), USER],
    ),
    ("prompt-completion", {"prompt": "u", "completion": "a", "extra": 1}, [USER, ASSISTANT]),
    ("empty-answer", {"prompt": "u", "completion": ""}, [USER, Message("assistant", "")]),
    ("text", {"text": "a"}, [ASSISTANT]),
]


@pytest.mark.parametrize(("row", "expected"), [c[1:] for c in READ], ids=[c[0] for c in READ])
def test_read(row: dict[str, Any], expected: list[Message]) -> None:
    assert read(row) == expected


def test_columns_under_other_names() -> None:
    row = {"question": "u", "answer": "a", "prompt": "not this"}
    assert read(row, columns={"prompt": "question", "completion": "answer"}) == [USER, ASSISTANT]
    assert read({"chat": SHAREGPT}, columns={"messages": "chat"}) == [USER, ASSISTANT]
    assert read({"instruction": "u", "response": "a"}, columns={"output": "response"}) == [USER, ASSISTANT]


PROMPT = {"prompt": "question", "completion": "answer"}
INVALID = [
    ("null", {"question": "u", "answer": None}, PROMPT, f"{WHERE}: column 'answer' is null; a string is needed"),
    ("missing", {"question": "u"}, PROMPT, "column 'answer' is missing; a string is needed"),
    ("number", {"question": 7, "answer": "a"}, PROMPT, "column 'question' is a number; a string is needed"),
    ("true", {"question": True, "answer": "a"}, PROMPT, "column 'question' is true; a string is needed"),
    ("list", {"question": ["u"], "answer": "a"}, PROMPT, "column 'question' is a list; a string is needed"),
    ("surrogate", {"question": "\ud83d", "answer": "a"}, PROMPT, r"half of a surrogate pair (\ud83d)"),
    ("row-no-object", ["u", "a"], PROMPT, "train.jsonl, row 3 is a list; an object is needed"),
    ("row-null", None, PROMPT, "train.jsonl, row 3 is null; an object is needed"),
    ("empty-document", {"text": ""}, {"text": "text"}, "column 'text' is empty"),
    ("input-number", {"instruction": "u", "input": 3, "output": "a"}, {"input": "input"}, "column 'input' is a number"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "columns", "reason"), [c[1:] for c in INVALID], ids=[c[0] for c in INVALID])
def test_an_invalid_row_tells_file_row_column_and_rule(row: Any, columns: dict[str, str], reason: str) -> None:
    reader = choose_reader([*columns.values(), "instruction", "output"], columns=columns)
    with pytest.raises(DataError) as caught:
        reader.read(row, where=WHERE)
    assert str(caught.value).startswith(WHERE)
    assert reason in str(caught.value)


MESSAGE = "column 'messages', message 1"
INVALID_MESSAGES = [
    ("null", None, "column 'messages' is null; a list of messages is needed"),
    ("string", "hello", "column 'messages' is a string; a list of messages is needed"),
    ("empty", [], "column 'messages' is an empty list"),
    ("no-object", ["hello"], f"{MESSAGE} is a string; an object with role and content is needed"),
    ("no-role", [{"content": "u"}], f"{MESSAGE}: key 'role' is missing"),
    ("no-content", [{"role": "user"}], f"{MESSAGE}: key 'content' is missing; a string is needed"),
    ("null-content", [{"role": "user", "content": None}], f"{MESSAGE}: key 'content' is null"),
    ("null-value", [{"from": "gpt", "value": None}], f"{MESSAGE}: key 'value' is null"),
    ("parts", [{"role": "user", "content": [{"type": "text"}]}], f"{MESSAGE}: key 'content' is a list"),
    ("role", [{"role": "asistant", "content": ""}], f"{MESSAGE}: key 'role' is 'asistant'; one of system, user"),
    ("role-hint", [{"role": "asistant", "content": ""}], "Did you mean 'assistant'?"),
    ("tool", [{"role": "tool", "content": ""}], "key 'role' is 'tool'"),
    ("masked", [{"role": "user", "content": "", "masked": 1}], f"{MESSAGE}: key 'masked' is a number"),
]


@pytest.mark.parametrize(("value", "reason"), [c[1:] for c in INVALID_MESSAGES], ids=[c[0] for c in INVALID_MESSAGES])
def test_an_invalid_message_tells_its_number_and_key(value: Any, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        read({"messages": value})
    assert str(caught.value).startswith(f"{WHERE}: ")
    assert reason in str(caught.value)


BAD_COLUMNS = [
    (
        "typo-in-column",
        {"prompt": "quesion"},
        ["data.dataset.columns.prompt=quesion", "Did you mean 'question'?", "'question', 'answer'"],
    ),
    (
        "typo-in-field",
        {"promt": "question"},
        ["Unknown key 'data.dataset.columns.promt'", "Did you mean 'prompt'", "completion"],
    ),
    (
        "half-a-format",
        {"prompt": "question"},
        ["fit no known format", "data.dataset.columns.completion=<column>", "'question', 'answer'"],
    ),
    ("two-formats", {"prompt": "question", "output": "answer"}, ["columns.prompt and data.dataset.columns.output"]),
    ("none", {}, ["fit no known format", "'question', 'answer'", "prompt and completion"]),
]


@pytest.mark.parametrize(("columns", "parts"), [c[1:] for c in BAD_COLUMNS], ids=[c[0] for c in BAD_COLUMNS])
def test_columns_that_do_not_fit_name_the_key(columns: dict[str, str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_reader(["question", "answer"], columns=columns)
    for part in parts:
        assert part in str(caught.value)


names = st.sampled_from([field for format in FORMATS for field in format.fields] + ["role", "from", "value", "content"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("user"),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(names, children, max_size=3),
    max_leaves=8,
)


@given(row=st.dictionaries(names, json_values, max_size=6), columns=st.dictionaries(names, names, max_size=2))
def test_any_row_is_read_or_refused_in_words(row: dict[str, Any], columns: dict[str, str]) -> None:
    try:
        messages = choose_reader(list(row), columns=columns).read(row, where=WHERE)
    except FtframeError as error:
        assert str(error)
    else:
        assert messages
        assert all(isinstance(message.content, str) for message in messages)
