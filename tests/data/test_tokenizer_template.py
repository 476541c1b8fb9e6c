from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from ftframe.api import Message, Segment
from ftframe.data.prompt_templates import TokenizerTemplate
from ftframe.data.supervision import prompt_ids, stop_token_ids, tokenize_conversation
from ftframe.errors import ConfigError, DataError

MESSAGES = [
    Message("system", "Be brief."),
    Message("user", "Hi"),
    Message("assistant", "Hello"),
    Message("user", "Bye"),
    Message("assistant", "Goodbye"),
]


def template_of(tokenizer: Any, jinja: str, **options: Any) -> TokenizerTemplate:
    """The template with this text."""
    tokenizer.chat_template = jinja
    return TokenizerTemplate(tokenizer, **options)


def written(segments: list[Segment]) -> str:
    """Segments as one string, supervised ones in braces."""
    return "".join(f"{{{segment.text}}}" if segment.supervised else segment.text for segment in segments)


def chat(*contents: str, masked: bool | None = None) -> list[Message]:
    """Contents of user and assistant in turn, the first answer masked or not."""
    turns = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(contents)]  # type: ignore[arg-type]
    return [turns[0], Message("assistant", contents[1], masked), *turns[2:]]


def special(text: str, *, supervised: bool = False) -> Segment:
    return Segment(text, supervised, special=True)


def test_no_chat_template_is_a_config_error_that_names_the_key(chat_tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.template\.name to alpaca, chatml"):
        TokenizerTemplate(chat_tokenizer)


def test_special_tokens_come_from_the_template_and_not_from_contents(chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    template = TokenizerTemplate(chat_tokenizer)
    header = "assistant:" if template.prepends_space else "assistant: "
    assert template.render([Message("user", "</s>"), Message("assistant", "<s>")]) == [
        special("<s>"), Segment("user: "), Segment("</s>"), special("</s>"),
        Segment(header), Segment("<s>", supervised=True), special("</s>", supervised=True),
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
def test_templates_that_cannot_be_supervised_are_refused(chat_tokenizer: Any, jinja: str, reason: str) -> None:
    chat_tokenizer.chat_template = jinja
    with pytest.raises(DataError, match=f"(?s)chat template.*{reason}"):
        TokenizerTemplate(chat_tokenizer).render(MESSAGES)


def test_a_masked_turn_needs_no_stop_token(chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = "{% for m in messages %}{{ m.content }}!{% endfor %}"
    segments = TokenizerTemplate(chat_tokenizer).render([Message("assistant", "Hello", masked=True)])
    assert segments == [Segment("Hello"), Segment("!")]


def test_space_around_the_answer_belongs_to_nobody(chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
    )
    messages = [Message("user", "Hi"), Message("assistant", "Hello")]
    example = tokenize_conversation(messages, template=TokenizerTemplate(chat_tokenizer), tokenizer=chat_tokenizer)
    assert example["input_ids"] == chat_tokenizer.encode("[INST] Hi [/INST] Hello</s>", add_special_tokens=False)


def test_tokens_that_strip_space_take_it_along(chat_tokenizer: Any) -> None:
    from transformers import AddedToken

    chat_tokenizer = copy.deepcopy(chat_tokenizer)
    chat_tokenizer.add_tokens([AddedToken("<|stop|>", rstrip=True, lstrip=True, special=True)], special_tokens=True)
    chat_tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }} \n<|stop|> \n{% endfor %}"
    messages = [Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye")]
    template = TokenizerTemplate(chat_tokenizer)
    header = "assistant:" if template.prepends_space else "assistant: "
    assert template.render(messages) == [
        Segment("user: "), Segment("Hi"), special("<|stop|>"), Segment(header),
        Segment("Hello", supervised=True), special("<|stop|>", supervised=True),
        Segment("user: "), Segment("Bye"), special("<|stop|>"),
    ]  # fmt: skip


def test_more_than_ten_messages_keep_their_order(chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    messages = [Message(("user", "assistant")[i % 2], f"text {i}") for i in range(24)]  # type: ignore[arg-type]
    segments = TokenizerTemplate(chat_tokenizer).render(messages)
    assert [segment.text for segment in segments if not segment.special] == [m.content for m in messages]


WRITTEN = [
    ("zephyr", "<|user|>\n Hi </s>\n<|assistant|>\n{Yes}{</s>}\n<|user|>\nBye</s>\n<|assistant|>\n{No}{</s>}\n"),
    ("chatml", "<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n{Yes}{<|im_end|>}\n"
     "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n{No}{<|im_end|>}\n"),
    ("chatml_default_system", "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n"
     "<|im_start|>assistant\n{Yes}{<|im_end|>}\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n{No}"
     "{<|im_end|>}\n"),
    ("chatml_generation", "<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n{Yes}{<|im_end|>}\n"
     "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n{No}{<|im_end|>}\n"),
    ("llama2", "<s>[INST]  Hi  [/INST]·{Yes}{</s>}<s>[INST] Bye [/INST]·{No}{</s>}"),
    ("llama3", "<s><|start_header_id|>system<|end_header_id|>\n\nToday is 26 Jul 2024 (2024).\n\n<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\n Hi <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
     "{Yes}{<|eot_id|>}<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant"
     "<|end_header_id|>\n\n{No}{<|eot_id|>}"),
    ("mistral", "<s> [INST]  Hi  [/INST]·{Yes}{</s>} [INST] Bye [/INST]·{No}{</s>}"),
    ("phi", "<|user|> Hi <|end|><|assistant|>{Yes}{<|end|>}<|user|>Bye<|end|><|assistant|>{No}{<|end|>}</s>"),
    ("gemma", "<s><start_of_turn>user\n Hi <end_of_turn>\n<start_of_turn>model\n{Yes}{<end_of_turn>}\n"
     "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n{No}{<end_of_turn>}\n"),
    ("deepseek", "<s>User:  Hi \n\nAssistant:·{Yes}{</s>}User: Bye\n\nAssistant:·{No}{</s>}"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), WRITTEN, ids=[case[0] for case in WRITTEN])
def test_templates_of_known_families(
    chat_tokenizer: Any, chat_templates: dict[str, str], name: str, expected: str
) -> None:
    template = template_of(chat_tokenizer, chat_templates[name])
    space = "" if template.prepends_space else " "  # the dot: SentencePiece brings that space itself
    assert written(template.render(chat(" Hi ", "Yes", "Bye", "No"))) == expected.replace("·", space)


def test_a_generation_prompt_that_the_answer_does_not_follow_is_refused_by_name(
    chat_tokenizer: Any, chat_templates: dict[str, str]
) -> None:
    template = template_of(chat_tokenizer, chat_templates["deepseek_r1"])
    with pytest.raises(DataError) as caught:
        template.render(chat("Hi", "Yes"))
    message = str(caught.value)
    assert f"The chat template of the tokenizer '{chat_tokenizer.name_or_path}'" in message
    assert "is not prefix-preserving: what it writes up to message 1 changes when the answer follows" in message
    assert "from 'er|>(message 1)<|Assistant|><think>\\n'" in message
    assert "to 'er|>(message 1)<|Assistant|>(message 2)" in message
    assert "Set data.template.name to another format" in message
    assert "{% generation %}" in message


def test_thoughts_that_later_turns_drop_are_refused_unless_only_the_last_answer_is_learnt(
    chat_tokenizer: Any, chat_templates: dict[str, str]
) -> None:
    template = template_of(chat_tokenizer, chat_templates["qwen3"])
    with pytest.raises(DataError, match=r"(?s)not prefix-preserving.* up to message 2 changes when the next message"):
        template.render(chat("Hi", "Yes", "Bye", "No"))
    for _ in range(2):  # a refusal is no less one the second time
        with pytest.raises(DataError, match="not prefix-preserving"):
            template.render(chat("Ho", "Yes", "Bye", "No"))
    assert written(template.render(chat("Hi", "Yes", "Bye", "No", masked=True))) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n{<think>}{\n\n}{</think>}{\n\n}{No}{<|im_end|>}\n"
    )


def test_what_stands_between_generation_prompt_and_answer_is_learnt(
    chat_tokenizer: Any, chat_templates: dict[str, str]
) -> None:
    template = template_of(chat_tokenizer, chat_templates["qwen3"])
    learnt = [s.text for s in template.render(chat("Hi", "Yes")) if s.supervised]
    assert learnt == ["<think>", "\n\n", "</think>", "\n\n", "Yes", "<|im_end|>"]
    assert not any(s.supervised for s in template.render(chat("Hi", "Yes", masked=True)))
    stops = stop_token_ids(template=template, tokenizer=chat_tokenizer)
    assert chat_tokenizer.convert_ids_to_tokens(stops) == ["<|im_end|>", chat_tokenizer.eos_token]


@pytest.mark.parametrize("name", ["zephyr", "chatml", "chatml_generation", "llama3", "gemma", "deepseek"])
def test_prompt_is_the_generation_prompt(chat_tokenizer: Any, chat_templates: dict[str, str], name: str) -> None:
    template = template_of(chat_tokenizer, chat_templates[name], date="2020-01-02")
    text = chat_tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    if name == "llama3":
        text = re.sub(r"Today is .*", "Today is 02 Jan 2020 (2020).", text)
    if name == "deepseek" and not template.prepends_space:
        text += " "
    prompt = prompt_ids([Message("user", "Hi")], template=template, tokenizer=chat_tokenizer)
    assert chat_tokenizer.decode(prompt).replace(" ", "") == text.replace(" ", "")


GENERATION = "{{% for m in messages %}}{{{{ '<|im_start|>' }}}}{}{{{{ '\n' }}}}{{% endfor %}}"
SPANS = [
    ("answer-and-stop", "{{ m.role + ':' }}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}",
     "<|im_start|>user:{Hi}{<|im_end|>}\n<|im_start|>assistant:{Yes}{<|im_end|>}\n"),
    ("header-too", "{%- generation -%}{{ m.role + ':' + m.content + '<|im_end|>' }}{%- endgeneration -%}",
     "<|im_start|>{user:}{Hi}{<|im_end|>}\n<|im_start|>{assistant:}{Yes}{<|im_end|>}\n"),
    ("only-the-assistant", "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>!' }}"
     "{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}",
     "<|im_start|>Hi<|im_end|>\n<|im_start|>{Yes}{<|im_end|>}{!}\n"),
    ("only-the-last", "{% if loop.last %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
     "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}",
     "<|im_start|>Hi<|im_end|>\n<|im_start|>{Yes}{<|im_end|>}\n"),
    ("two-spans", "{% generation %}{{ '<think>ok' }}{% endgeneration %}{{ m.role + ':' }}{% generation %}"
     "{{ m.content + '<|im_end|>' }}{% endgeneration %}",
     "<|im_start|>{<think>}{ok}user:{Hi}{<|im_end|>}\n<|im_start|>{<think>}{ok}assistant:{Yes}{<|im_end|>}\n"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), [c[1:] for c in SPANS], ids=[c[0] for c in SPANS])
def test_generation_says_what_is_learnt(chat_tokenizer: Any, body: str, expected: str) -> None:
    template = template_of(chat_tokenizer, GENERATION.format(body))
    assert written(template.render(chat("Hi", "Yes"))) == expected


def test_masked_wins_over_generation(chat_tokenizer: Any, chat_templates: dict[str, str]) -> None:
    template = template_of(chat_tokenizer, chat_templates["chatml_generation"])
    messages = [Message("user", "Hi", masked=False), Message("assistant", "Yes", masked=True), *chat("Bye", "No")]
    assert written(template.render(messages)) == (
        "<|im_start|>user\n{Hi}{<|im_end|>}\n<|im_start|>assistant\nYes<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n{No}{<|im_end|>}\n"
    )
    everything = template_of(chat_tokenizer, GENERATION.format(SPANS[1][1]))
    assert written(everything.render(chat("Hi", "Yes", masked=True))) == (
        "<|im_start|>{user:}{Hi}{<|im_end|>}\n<|im_start|>assistant:Yes<|im_end|>\n"
    )


def test_generation_that_leaves_the_stop_token_out_is_refused(chat_tokenizer: Any) -> None:
    body = "{% generation %}{{ m.content }}{% endgeneration %}{{ '<|im_end|>' }}"
    template = template_of(chat_tokenizer, GENERATION.format(body))
    with pytest.raises(DataError, match=r"leaves '<\|im_end\|>' out of {% generation %}.*never learn to stop"):
        template.render(chat("Hi", "Yes"))
    explicit = [Message("user", "Hi", masked=True), Message("assistant", "Yes", masked=False)]
    assert written(template.render(explicit)).endswith("{Yes}{<|im_end|>}\n")


def test_generation_agrees_with_the_mask_of_transformers(chat_tokenizer: Any, chat_templates: dict[str, str]) -> None:
    template = template_of(chat_tokenizer, chat_templates["chatml_generation"])
    messages = chat("Hi", "Yes", "Bye", "No")
    turns = [{"role": turn.role, "content": turn.content} for turn in messages]
    theirs = chat_tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    ours = tokenize_conversation(messages, template=template, tokenizer=chat_tokenizer)
    learnt = [token for token, mask in zip(theirs["input_ids"], theirs["assistant_masks"], strict=True) if mask]
    assert chat_tokenizer.decode(learnt).replace(" ", "") == "Yes<|im_end|>No<|im_end|>"
    assert chat_tokenizer.decode([t for t in ours["labels"] if t >= 0]).replace(" ", "") == "Yes<|im_end|>No<|im_end|>"
