from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftframe.api import Message, Segment
from ftframe.data.prompt_templates import TokenizerTemplate
from ftframe.data.supervision import tokenize_conversation
from ftframe.errors import ConfigError, DataError

MESSAGES = [
    Message("system", "Be brief."),
    Message("user", "Hi"),
    Message("assistant", "Hello"),
    Message("user", "Bye"),
    Message("assistant", "Goodbye"),
]


@pytest.fixture
def tokenizer(llama2_folder: Path) -> Any:
    """A tokenizer that a test may change."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(llama2_folder)


def special(text: str, *, supervised: bool = False) -> Segment:
    return Segment(text, supervised, special=True)


def test_no_chat_template_is_a_config_error_that_names_the_key(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.template\.name to alpaca, chatml"):
        TokenizerTemplate(tokenizer)


def test_special_tokens_come_from_the_template_and_not_from_contents(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    segments = TokenizerTemplate(tokenizer).render([Message("user", "</s>"), Message("assistant", "<s>")])
    assert segments == [
        special("<s>"), Segment("user: "), Segment("</s>"), special("</s>"),
        Segment("assistant:"), Segment("<s>", supervised=True), special("</s>", supervised=True),
    ]  # fmt: skip


REFUSED = [
    (
        "drops-the-system",
        "{% for m in messages if m.role != 'system' %}{{ m.content }}</s>{% endfor %}",
        "of the messages 1 to 5 .* it writes 2, 3, 4, 5",
    ),
    ("writes-nothing", "hello", "it writes none"),
    ("repeats", "{% for m in messages %}{{ m.content }}{{ m.content }}</s>{% endfor %}", "it writes 1, 1, 2, 2"),
    ("reorders", "{% for m in messages | reverse %}{{ m.content }}</s>{% endfor %}", "it writes 5, 4, 3, 2, 1"),
    ("raises", "{{ raise_exception('no system role here') }}", "refuses the roles system, user.*no system role here"),
    ("ends-in-text", "{% for m in messages %}{{ m.content }} STOP {% endfor %}", "writes ' STOP ' after the assistant"),
    ("ends-in-nothing", "{% for m in messages %}{{ m.content }}{% endfor %}", "writes nothing after the assistant's"),
]


@pytest.mark.parametrize(("jinja", "reason"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_templates_that_cannot_be_supervised_are_refused(tokenizer: Any, jinja: str, reason: str) -> None:
    tokenizer.chat_template = jinja
    with pytest.raises(DataError, match=f"(?s)chat template.*{reason}"):
        TokenizerTemplate(tokenizer).render(MESSAGES)


def test_a_masked_turn_needs_no_stop_token(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}!{% endfor %}"
    segments = TokenizerTemplate(tokenizer).render([Message("assistant", "Hello", masked=True)])
    assert segments == [Segment("Hello"), Segment("!")]


def test_space_around_the_answer_belongs_to_nobody(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
    )
    messages = [Message("user", "Hi"), Message("assistant", "Hello")]
    example = tokenize_conversation(messages, template=TokenizerTemplate(tokenizer), tokenizer=tokenizer)
    assert example["input_ids"] == tokenizer.encode("[INST] Hi [/INST] Hello</s>", add_special_tokens=False)


def test_tokens_that_strip_space_take_it_along(tokenizer: Any) -> None:
    from transformers import AddedToken

    tokenizer.add_tokens([AddedToken("<|end|>", rstrip=True, lstrip=True, special=True)], special_tokens=True)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }} \n<|end|> \n{% endfor %}"
    messages = [Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye")]
    assert TokenizerTemplate(tokenizer).render(messages) == [
        Segment("user: "), Segment("Hi"), special("<|end|>"), Segment("assistant:"),
        Segment("Hello", supervised=True), special("<|end|>", supervised=True),
        Segment("user: "), Segment("Bye"), special("<|end|>"),
    ]  # fmt: skip


def test_more_than_ten_messages_keep_their_order(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    messages = [Message(("user", "assistant")[i % 2], f"text {i}") for i in range(24)]  # type: ignore[arg-type]
    segments = TokenizerTemplate(tokenizer).render(messages)
    assert [segment.text for segment in segments if not segment.special] == [m.content for m in messages]
