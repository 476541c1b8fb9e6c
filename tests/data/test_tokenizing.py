from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ftframe.api import IGNORE_INDEX, Message, Row
from ftframe.data.prompt_templates import Alpaca, ChatML, Llama2, Plain
from ftframe.data.supervision import tokenize_conversation
from ftframe.data.tokenizing import BATCH, Limit, Tokenized, tokenize_rows
from ftframe.errors import DataError
from ftframe.models.base import resolve_path

TOKENIZER = AutoTokenizer.from_pretrained(resolve_path("pkg://ftframe.embedded/tiny"))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def chat(*contents: str, where: str = "a.jsonl, row 1") -> Row:
    roles = ("user", "assistant")
    return Row([Message(roles[i % 2], text) for i, text in enumerate(contents)], where)  # type: ignore[arg-type]


def document(text: str, where: str = "a.txt, document 1") -> Row:
    return Row([Message("assistant", text)], where)


def tokenize(rows: list[Row], *, template: Any = None, limit: Limit | None = None, **flags: Any) -> Tokenized:
    template = template or Plain()
    return tokenize_rows(rows, template=template, tokenizer=TOKENIZER, limit=limit or Limit(10_000), **flags)


@given(contents=st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
@pytest.mark.parametrize("template", [Plain(), Alpaca(), Llama2(), ChatML()], ids=lambda t: type(t).__name__)
def test_many_at_a_time_equal_one_by_one(template: Any, contents: list[tuple[str, str]]) -> None:
    rows = [chat(*pair) for pair in contents]
    examples = tokenize(rows, template=template).examples
    for example, row in zip(examples, rows, strict=True):
        alone = tokenize_conversation(row.messages, template=template, tokenizer=TOKENIZER)
        assert {name: values.tolist() for name, values in example.items()} == alone


def test_more_rows_than_a_batch() -> None:
    advanced: list[int] = []
    rows = [chat(f"a{i}", "b") for i in range(BATCH + 5)]
    made = tokenize(rows, advance=advanced.append)
    assert made.examples.rows.tolist() == list(range(1, BATCH + 6))
    assert advanced == [BATCH, 5]
    last = tokenize_conversation(rows[-1].messages, template=Plain(), tokenizer=TOKENIZER)
    assert made.examples[-1]["input_ids"].tolist() == last["input_ids"]


def test_a_row_that_the_template_cannot_write_is_rejected_and_the_others_kept() -> None:
    rows = [chat("a", "b"), Row([Message("assistant", "b")], "a.jsonl, row 2"), chat("c", "d")]
    made = tokenize(rows, template=Llama2())
    assert made.examples.rows.tolist() == [1, 3]
    ((number, reason, detail),) = made.rejected
    assert (number, reason) == (2, "bad_row")
    assert "'assistant' where 'user' must stand" in detail


LONG = chat("question " * 3, "answer " * 20, where="a.jsonl, row 2")
LENGTH = len(tokenize_conversation(LONG.messages, template=Plain(), tokenizer=TOKENIZER)["input_ids"])


def test_error_names_row_length_and_key() -> None:
    assert len(tokenize([chat("a", "b"), LONG], limit=Limit(LENGTH)).examples) == 2
    with pytest.raises(
        DataError, match=rf"a\.jsonl, row 2 has {LENGTH} tokens, more than data\.max_length={LENGTH - 1}"
    ):
        tokenize([chat("a", "b"), LONG], limit=Limit(LENGTH - 1))


def test_drop_counts_and_keeps_the_others() -> None:
    made = tokenize([chat("a", "b"), LONG, chat("c", "d")], limit=Limit(LENGTH - 1, "drop"))
    assert made.examples.rows.tolist() == [1, 3]
    assert [(item.row, item.reason) for item in made.rejected] == [(2, "too_long")]


def test_truncate_keeps_the_beginning() -> None:
    made = tokenize([chat("a", "b"), LONG], limit=Limit(LENGTH - 1, "truncate"))
    whole = tokenize_conversation(LONG.messages, template=Plain(), tokenizer=TOKENIZER)
    assert made.examples[1]["input_ids"].tolist() == whole["input_ids"][:-1]
    assert made.examples[1]["labels"].tolist() == whole["labels"][:-1]
    assert made.counts == {"truncated": 1}


def test_truncation_that_cuts_the_whole_answer_away_shows_the_row() -> None:
    with pytest.raises(DataError, match=r"a\.jsonl, row 2 .* cut its whole answer away.*on_too_long=drop.*question"):
        tokenize([LONG], limit=Limit(4, "truncate"))


@given(words=st.integers(1, 60), max_length=st.integers(4, 20))
def test_chunks_of_a_document_make_every_token_a_target_once(words: int, max_length: int) -> None:
    row = document("word " * words)
    whole = tokenize_conversation(row.messages, template=Plain(), tokenizer=TOKENIZER)["input_ids"]
    made = tokenize([row], limit=Limit(max_length, "chunk"))
    targets = [label for example in made.examples for label in example["labels"][1:].tolist()]
    assert targets == whole[1:]
    assert whole[-1] == TOKENIZER.eos_token_id
    assert made.examples.lengths.max() <= max_length
    assert set(made.examples.rows.tolist()) == {1}
    assert IGNORE_INDEX not in targets


def test_chunking_is_for_documents() -> None:
    with pytest.raises(DataError, match="cuts documents only"):
        tokenize([LONG], limit=Limit(LENGTH - 1, "chunk"))


@pytest.mark.parametrize(("row", "offered"), [(LONG, False), (document("word " * 50), True)], ids=["chat", "document"])
def test_chunking_is_offered_for_documents(row: Row, offered: bool) -> None:
    with pytest.raises(DataError) as raised:
        tokenize([row], limit=Limit(8))
    assert ("or chunk" in str(raised.value)) is offered


def test_special_tokens_are_not_read_out_of_any_text_of_a_batch() -> None:
    rows = [chat(TOKENIZER.eos_token, TOKENIZER.eos_token), chat("a", "b")]
    made = tokenize(rows)
    assert [example["input_ids"].tolist().count(TOKENIZER.eos_token_id) for example in made.examples] == [1, 1]
