from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftframe.api import BadRow, Message, Row
from ftframe.data.files import RawRow
from ftframe.data.formats import DETECTED, FORMATS
from ftframe.data.rows import Columns, choose_reader
from ftframe.errors import ConfigError

WHERE = "train.jsonl, row 3"
USER, ASSISTANT = Message("user", "u"), Message("assistant", "a")


def read(row: Any, *, columns: dict[str, str] | None = None, format: str | None = None) -> Row | BadRow:
    return choose_reader(list(row), Columns(format, columns or {})).read(row, where=WHERE)


ROLES = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]
LLAMA2 = {"text": "<s>[INST] u [/INST] a </s>"}


def answer(**more: Any) -> dict[str, Any]:
    return {"messages": [ROLES[1], {**ROLES[2], **more}]}


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


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
    ("roles-in-conversations", {"conversations": ROLES[1:]}, [USER, ASSISTANT]),
    ("sharegpt-with-null-keys", {"messages": [{"role": None, "content": None, "from": "human", "value": "u"}]}, [USER]),
    ("masked", answer(masked=True), [USER, Message("assistant", "a", masked=True)]),
    ("masked-null", answer(masked=None, weight=None), [USER, ASSISTANT]),
    ("weight-0", answer(weight=0), [USER, Message("assistant", "a", masked=True)]),
    ("weight-1", answer(weight=1), [USER, Message("assistant", "a", masked=False)]),
    ("weight-as-a-table-has-it", answer(weight=1.0, masked=None), [USER, Message("assistant", "a", masked=False)]),
    ("weight-0-of-user", {"messages": [{**ROLES[1], "weight": 0}]}, [Message("user", "u", masked=True)]),
    ("parts", answer(content=parts("a", "b")), [USER, Message("assistant", "ab")]),
    ("no-tool-calls", answer(tool_calls=None, refusal=None), [USER, ASSISTANT]),
    ("empty-tool-calls", answer(tool_calls=[], name="n"), [USER, ASSISTANT]),
    ("prompt-completion", {"prompt": "u", "completion": "a", "extra": 1}, [USER, ASSISTANT]),
    ("empty-answer", {"prompt": "u", "completion": ""}, [USER, Message("assistant", "")]),
    ("text", {"text": "a"}, [ASSISTANT]),
    ("llama2-text-unnamed", LLAMA2, [Message("assistant", LLAMA2["text"])]),
]


@pytest.mark.parametrize(("row", "expected"), [c[1:] for c in READ], ids=[c[0] for c in READ])
def test_read(row: dict[str, Any], expected: list[Message]) -> None:
    assert read(row) == Row(expected, WHERE)


NAMED = [
    ("alpaca", {"instruction": "u", "output": "a", "messages": ROLES}, [USER, ASSISTANT]),
    ("sharegpt", {"conversations": SHAREGPT, "messages": ROLES}, [USER, ASSISTANT]),
    ("messages", {"messages": ROLES[1:]}, [USER, ASSISTANT]),
    ("prompt_completion", {"prompt": "u", "completion": "a", "messages": ROLES}, [USER, ASSISTANT]),
    ("text", {"text": "a", "instruction": "x", "output": "y"}, [ASSISTANT]),
    ("llama2_text", LLAMA2, [USER, ASSISTANT]),
]


@pytest.mark.parametrize(("format", "row", "expected"), NAMED, ids=[c[0] for c in NAMED])
def test_a_named_format_wins_over_the_columns(format: str, row: dict[str, Any], expected: list[Message]) -> None:
    assert read(row, format=format) == Row(expected, WHERE)
    assert set(FORMATS) == {case[0] for case in NAMED}


def test_columns_under_other_names() -> None:
    row = {"question": "u", "answer": "a", "prompt": "not this"}
    expected = Row([USER, ASSISTANT], WHERE)
    assert read(row, columns={"prompt": "question", "completion": "answer"}) == expected
    assert read({"chat": SHAREGPT}, columns={"messages": "chat"}) == expected
    assert read({"instruction": "u", "response": "a"}, columns={"output": "response"}) == expected
    assert read({"body": LLAMA2["text"]}, columns={"text": "body"}, format="llama2_text") == expected


PROMPT = {"prompt": "question", "completion": "answer"}
INVALID = [
    ("null", {"question": "u", "answer": None}, PROMPT, "column 'answer'", "is null; a string is needed"),
    ("missing", {"question": "u"}, PROMPT, "column 'answer'", "is missing; a string is needed"),
    ("number", {"question": 7, "answer": "a"}, PROMPT, "column 'question'", "is a number; a string is needed"),
    ("true", {"question": True, "answer": "a"}, PROMPT, "column 'question'", "is true; a string is needed"),
    ("list", {"question": ["u"], "answer": "a"}, PROMPT, "column 'question'", "is a list; a string is needed"),
    ("bytes", {"question": b"u", "answer": "a"}, PROMPT, "column 'question'", "is a bytes; a string is needed"),
    (
        "surrogate",
        {"question": "\ud83d", "answer": "a"},
        PROMPT,
        "column 'question'",
        "holds half of a surrogate pair (\\ud83d); valid Unicode is needed",
    ),
    (
        "utf-8",
        {"question": "u\udce9", "answer": "a"},
        PROMPT,
        "column 'question'",
        "is not valid UTF-8 (byte 0xe9 at character 2); UTF-8 is needed",
    ),
    ("row-no-object", ["u", "a"], PROMPT, "the row", "is a list; an object is needed"),
    ("row-null", None, PROMPT, "the row", "is null; an object is needed"),
    (
        "input-number",
        {"instruction": "u", "input": 3, "output": "a"},
        {"input": "input"},
        "column 'input'",
        "is a number; a string is needed",
    ),
]


@pytest.mark.parametrize(("row", "columns", "column", "rule"), [c[1:] for c in INVALID], ids=[c[0] for c in INVALID])
def test_an_invalid_row_tells_column_and_rule(row: Any, columns: dict[str, str], column: str, rule: str) -> None:
    reader = choose_reader([*columns.values(), "instruction", "output"], Columns(None, columns))
    assert reader.read(row, where=WHERE) == BadRow(WHERE, column, rule)


MESSAGE = "column 'messages', message 1"
IMAGE = [*parts("a"), {"type": "image_url", "image_url": {"url": "x"}}]
INVALID_MESSAGES = [
    ("null", None, "column 'messages'", "is null; a list of messages is needed"),
    ("string", "hello", "column 'messages'", "is a string; a list of messages is needed"),
    ("empty", [], "column 'messages'", "is an empty list; at least one message is needed"),
    ("no-object", ["hello"], MESSAGE, "is a string; an object with role and content is needed"),
    ("no-role", [{"content": "u"}], f"{MESSAGE}: key 'role'", "is missing; a string is needed"),
    ("no-content", [{"role": "user"}], f"{MESSAGE}: key 'content'", "is missing; a string is needed"),
    ("null-content", [{"role": "user", "content": None}], f"{MESSAGE}: key 'content'", "is null; a string is needed"),
    ("null-value", [{"from": "gpt", "value": None}], f"{MESSAGE}: key 'value'", "is null; a string is needed"),
    ("no-parts", [{"role": "user", "content": []}], f"{MESSAGE}: key 'content'", "is an empty list; a string or "),
    ("part-no-object", [{"role": "user", "content": ["u"]}], f"{MESSAGE}: key 'content', part 1", "is a string; an ob"),
    (
        "part-no-text",
        [{"role": "user", "content": [{"type": "text"}]}],
        f"{MESSAGE}: key 'content', part 1: key 'text'",
        "is missing; a string is needed",
    ),
    (
        "image",
        [{"role": "user", "content": IMAGE}],
        f"{MESSAGE}: key 'content', part 2",
        "is of type 'image_url'; only",
    ),
    (
        "role",
        [{"role": "asistant", "content": ""}],
        f"{MESSAGE}: key 'role'",
        "is 'asistant'; one of system, user, human, assistant, gpt is needed. Did you mean 'assistant'?",
    ),
    ("tool", [{"role": "tool", "content": ""}], f"{MESSAGE}: key 'role'", "is 'tool'; one of"),
    (
        "tool-calls",
        [{"role": "assistant", "content": None, "tool_calls": [{}]}],
        f"{MESSAGE}: key 'tool_calls'",
        "is g",
    ),
    (
        "refusal",
        [{"role": "assistant", "content": "a", "refusal": "no"}],
        f"{MESSAGE}: key 'refusal'",
        "is given; only",
    ),
    ("masked", [{**ROLES[1], "masked": 1}], f"{MESSAGE}: key 'masked'", "is a number; true, false or null is needed"),
    ("weight-true", [{**ROLES[2], "weight": True}], f"{MESSAGE}: key 'weight'", "is true; 0 or 1 is needed"),
    ("weight-half", [{**ROLES[2], "weight": 0.5}], f"{MESSAGE}: key 'weight'", "is 0.5; 0 or 1 is needed"),
    ("weight-of-user", [{**ROLES[1], "weight": 1}], f"{MESSAGE}: key 'weight'", "is 1 on a message of the user; only"),
    ("weight-and-masked", [{**ROLES[2], "weight": 1, "masked": False}], MESSAGE, "has both 'weight' and 'masked'; one"),
]


@pytest.mark.parametrize(
    ("value", "column", "rule"), [c[1:] for c in INVALID_MESSAGES], ids=[c[0] for c in INVALID_MESSAGES]
)
def test_an_invalid_message_tells_its_number_and_key(value: Any, column: str, rule: str) -> None:
    bad = read({"messages": value})
    assert isinstance(bad, BadRow)
    assert (bad.where, bad.column) == (WHERE, column)
    assert bad.rule.startswith(rule)


NOT_LEARNABLE = [
    ("empty-output", {"instruction": "u", "output": ""}, None, "column 'output'", "is empty"),
    ("space-output", {"instruction": "u", "output": " \n"}, None, "column 'output'", "is only space"),
    ("empty-document", {"text": ""}, None, "column 'text'", "is empty"),
    ("every-weight-0", answer(weight=0), None, "column 'messages'", "has no message that is learnt"),
    ("no-answer", {"messages": ROLES[:2]}, None, "column 'messages'", "has no message that is learnt"),
    ("two-answers", {"messages": [*ROLES, ROLES[2]]}, None, "column 'messages', message 4", "is an assistant's turn"),
    ("late-system", {"messages": ROLES[::-1]}, None, "column 'messages', message 3", "is a system message"),
    ("empty-answer", answer(content=""), None, "column 'messages', message 2: key 'content'", "is empty"),
    (
        "llama2",
        {"text": "<s>[INST] u [/INST]  </s>"},
        "llama2_text",
        "column 'text', message 2: key 'content'",
        "is em",
    ),
]


@pytest.mark.parametrize(
    ("row", "format", "column", "rule"), [c[1:] for c in NOT_LEARNABLE], ids=[c[0] for c in NOT_LEARNABLE]
)
def test_what_cannot_be_learnt_is_named_by_its_column(row: Any, format: str | None, column: str, rule: str) -> None:
    reader = choose_reader(list(row), Columns(format))
    bad = reader.learnable(RawRow(WHERE, row))
    assert isinstance(bad, BadRow)
    assert (bad.where, bad.column) == (WHERE, column)
    assert bad.rule.startswith(rule)
    assert isinstance(reader.read(row, where=WHERE), Row)


def test_a_mapped_column_is_named_as_the_dataset_calls_it() -> None:
    reader = choose_reader(["question", "answer"], Columns(None, PROMPT))
    bad = reader.learnable(RawRow(WHERE, {"question": "u", "answer": ""}))
    assert str(bad) == f"{WHERE}: column 'answer' is empty; text that is learnt is needed"


BAD_COLUMNS = [
    (
        "typo-in-column",
        {"prompt": "quesion"},
        None,
        ["data.dataset.columns.prompt=quesion", "Did you mean 'question'?", "'question', 'answer'"],
    ),
    (
        "typo-in-field",
        {"promt": "question"},
        None,
        ["Unknown key 'data.dataset.columns.promt'", "Did you mean 'prompt'", "completion"],
    ),
    (
        "half-a-format",
        {"prompt": "question"},
        None,
        ["fit no known format", "data.dataset.columns.completion=<column>", "'question', 'answer'"],
    ),
    (
        "two-formats",
        {"prompt": "question", "output": "answer"},
        None,
        ["columns.prompt and data.dataset.columns.outpu"],
    ),
    ("none", {}, None, ["fit no known format", "'question', 'answer'", "prompt_completion (prompt and completion)"]),
    ("typo-in-format", {}, "alpcaa", ["data.dataset.format=alpcaa", "Did you mean 'alpaca'?", "llama2_text (text)"]),
    ("other-format", {}, "text", ["do not fit the format text", "'question', 'answer'", "text (text)"]),
    (
        "field-of-another",
        {"prompt": "question"},
        "text",
        ["Unknown key 'data.dataset.columns.prompt'", "Allowed: text"],
    ),
]


@pytest.mark.parametrize(
    ("columns", "format", "reasons"), [c[1:] for c in BAD_COLUMNS], ids=[c[0] for c in BAD_COLUMNS]
)
def test_columns_that_do_not_fit_name_the_key(columns: dict[str, str], format: str | None, reasons: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_reader(["question", "answer"], Columns(format, columns))
    for reason in reasons:
        assert reason in str(caught.value)


def test_keys_are_named_where_they_stand() -> None:
    with pytest.raises(ConfigError, match=r"^columns\.prompt=x: "):
        choose_reader(["a"], Columns(None, {"prompt": "x"}, node=""))
    with pytest.raises(ConfigError, match=r"^data\.tasks\.math\.dataset\.format=x: "):
        choose_reader(["a"], Columns("x", node="data.tasks.math.dataset"))


keys = ["role", "from", "value", "content", "weight", "masked", "type", "tool_calls"]
names = st.sampled_from([field for format in DETECTED for field in format.fields] + keys)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["user", "gpt", "text"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(names, children, max_size=3),
    max_leaves=8,
)


@given(
    row=st.dictionaries(names, json_values, max_size=6),
    columns=st.dictionaries(names, names, max_size=2),
    format=st.none() | st.sampled_from(list(FORMATS)),
)
def test_any_row_is_read_or_refused_in_words(row: dict[str, Any], columns: dict[str, str], format: str | None) -> None:
    try:
        reader = choose_reader(list(row), Columns(format, columns))
    except ConfigError as error:
        assert str(error)
        return
    for item in (reader.read(row, where=WHERE), reader.learnable(RawRow(WHERE, row))):
        assert item.where == WHERE
        if isinstance(item, BadRow):
            assert item.column
            assert item.rule
        else:
            assert item.messages
            assert all(isinstance(message.content, str) for message in item.messages)
