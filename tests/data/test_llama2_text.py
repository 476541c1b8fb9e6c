from __future__ import annotations

import pytest

from ftframe.api import Message
from ftframe.data.cells import Cell, RowError
from ftframe.data.llama2_text import read_llama2_text
from ftframe.data.prompt_templates import Llama2

USER, ASSISTANT = Message("user", "u"), Message("assistant", "a")


def read(text: object) -> list[Message]:
    return read_llama2_text(Cell("column 'text'", text))


READ = [
    ("one-turn", "<s>[INST] u [/INST] a </s>", [USER, ASSISTANT]),
    ("two-turns", "<s>[INST] u [/INST] a </s><s>[INST] u [/INST] a </s>", [USER, ASSISTANT] * 2),
    ("empty-answer", "<s>[INST] u [/INST]  </s>", [USER, Message("assistant", "")]),
    ("empty-answer-one-space", "<s>[INST] u [/INST] </s>", [USER, Message("assistant", "")]),
    ("own-space", "<s>[INST]  u\n [/INST]  a\n\nb  </s>", [Message("user", " u\n"), Message("assistant", " a\n\nb ")]),
    ("system", "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\nu [/INST] a </s>", [Message("system", "s"), USER, ASSISTANT]),
]


@pytest.mark.parametrize(("text", "expected"), [c[1:] for c in READ], ids=[c[0] for c in READ])
def test_read(text: str, expected: list[Message]) -> None:
    assert read(text) == expected


def test_what_llama2_writes_is_parsed_back() -> None:
    messages = [Message("system", "s"), USER, ASSISTANT, Message("user", "2\n"), Message("assistant", "b\nc")]
    names = {"bos_token": "<s>", "eos_token": " </s>"}
    written = "".join(names[s.text] if s.special else s.text for s in Llama2().render(messages))
    assert read(written.replace("[/INST]", "[/INST] ")) == messages


REFUSED = [
    ("plain", "hello", "where it reads 'hello'"),
    ("no-end", "<s>[INST] u [/INST] a", r"where it reads '<s>\[INST\] u \[/INST\] a'"),
    ("text-after", "<s>[INST] u [/INST] a </s> more", "where it reads 'more'"),
    ("nested", "<s>[INST] [INST] u [/INST] a </s>", r"the marker \[INST\] inside"),
    ("two-ends", "<s>[INST] u [/INST] a [/INST] b </s>", r"the marker \[/INST\] inside"),
    ("late-system", "<s>[INST] u [/INST] <<SYS>> </s>", "the marker <<SYS>> inside"),
]


@pytest.mark.parametrize(("text", "reason"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_what_does_not_parse_is_refused(text: str, reason: str) -> None:
    with pytest.raises(RowError, match=rf"^column 'text' does not parse: .*{reason}"):
        read(text)


def test_only_a_string_is_parsed() -> None:
    with pytest.raises(RowError, match="column 'text' is null; a string is needed"):
        read(None)
