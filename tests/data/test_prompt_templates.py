from __future__ import annotations

from collections.abc import Sequence

import pytest

from ftframe.api import BOS, EOS, Message, PromptTemplate, Segment
from ftframe.data.prompt_templates import Alpaca, ChatML, Llama2, Llama3, Mistral, Plain
from ftframe.errors import DataError
from ftframe.registry import prompt_templates

SYSTEM = Message("system", "Be brief.")
USER = Message("user", "Hi")
ASSISTANT = Message("assistant", "Hello")
MASKED = Message("assistant", "Hello", masked=True)

ALPACA_PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
ALPACA_INPUT_PREAMBLE = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)


def written(segments: Sequence[Segment]) -> str:
    """Segments as one string: special ones in angle brackets, supervised ones in braces."""
    parts = []
    for segment in segments:
        text = {BOS: "<s>", EOS: "</s>"}.get(segment.text, segment.text) if segment.special else segment.text
        parts.append(f"{{{text}}}" if segment.supervised else text)
    return "".join(parts)


CASES = [
    ("llama2-one-turn", Llama2(), [USER, ASSISTANT], "<s>[INST] Hi [/INST]{Hello}{</s>}"),
    (
        "llama2-system-two-turns",
        Llama2(),
        [SYSTEM, USER, ASSISTANT, USER, ASSISTANT],
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]{Hello}{</s>}<s>[INST] Hi [/INST]{Hello}{</s>}",
    ),
    ("llama2-masked", Llama2(), [USER, MASKED, USER, ASSISTANT], "<s>[INST] Hi [/INST]Hello</s>"
     "<s>[INST] Hi [/INST]{Hello}{</s>}"),
    ("llama2-keeps-space", Llama2(), [Message("user", " Hi "), ASSISTANT], "<s>[INST]  Hi  [/INST]{Hello}{</s>}"),
    ("llama2-no-answer", Llama2(), [USER], "<s>[INST] Hi [/INST]"),
    ("mistral-two-turns", Mistral(), [USER, ASSISTANT, USER, ASSISTANT],
     "<s>[INST] Hi [/INST]{Hello}{</s>}[INST] Hi [/INST]{Hello}{</s>}"),
    ("mistral-system", Mistral(), [SYSTEM, USER, ASSISTANT], "<s>[INST] Be brief.\n\nHi [/INST]{Hello}{</s>}"),
    ("alpaca-instruction", Alpaca(), [USER, ASSISTANT],
     f"<s>{ALPACA_PREAMBLE}### Instruction:\nHi\n\n### Response:\n{{Hello}}{{</s>}}"),
    ("alpaca-input", Alpaca(), [Message("user", "Add\n\n### Input:\n1 2"), ASSISTANT],
     f"<s>{ALPACA_INPUT_PREAMBLE}### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n{{Hello}}{{</s>}}"),
    ("alpaca-system-two-turns", Alpaca(), [SYSTEM, USER, ASSISTANT, USER, ASSISTANT],
     "<s>Be brief.\n\n### Instruction:\nHi\n\n### Response:\n{Hello}{</s>}"
     "\n\n### Instruction:\nHi\n\n### Response:\n{Hello}{</s>}"),
    ("chatml", ChatML(), [SYSTEM, USER, ASSISTANT],
     "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
     "<|im_start|>assistant\n{Hello}{<|im_end|>}\n"),
    ("chatml-user-learnt", ChatML(), [Message("user", "Hi", masked=False), USER],
     "<|im_start|>user\n{Hi}{<|im_end|>}\n<|im_start|>user\nHi<|im_end|>\n"),
    ("llama3", Llama3(), [SYSTEM, USER, ASSISTANT],
     "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n{Hello}{<|eot_id|>}"),
    ("llama3-user-learnt", Llama3(), [Message("user", " Hi ", masked=False), MASKED],
     "<s><|start_header_id|>user<|end_header_id|>\n\n{ Hi }{<|eot_id|>}"
     "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"),
    ("plain", Plain(), [USER, ASSISTANT], "<s>Hi\n{Hello}{</s>}"),
    ("plain-any-order", Plain(), [SYSTEM, USER, USER, ASSISTANT, MASKED], "<s>Be brief.\nHi\nHi\n{Hello}{</s>}"
     "Hello</s>"),
    ("plain-document", Plain(), [ASSISTANT], "<s>{Hello}{</s>}"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "messages", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_render(template: PromptTemplate, messages: list[Message], expected: str) -> None:
    assert written(template.render(messages)) == expected


BUILT_IN = [Llama2(), Llama3(), Mistral(), Alpaca(), ChatML(), Plain()]
STRICT = [Llama2(), Mistral(), Alpaca()]
REFUSED = [
    ("two-users", [USER, USER, ASSISTANT], "message 2 is 'user' where 'assistant' must stand"),
    ("assistant-first", [ASSISTANT], "message 1 is 'assistant' where 'user' must stand"),
    ("assistant-after-system", [SYSTEM, ASSISTANT], "message 2 is 'assistant' where 'user' must stand"),
    ("late-system", [USER, SYSTEM, ASSISTANT], "roles user, system, assistant"),
    ("only-system", [SYSTEM], "a system message alone"),
    ("user-learnt", [Message("user", "Hi", masked=False), ASSISTANT], "no token ends"),
]


@pytest.mark.parametrize("template", STRICT, ids=lambda template: type(template).__name__)
@pytest.mark.parametrize(("messages", "reason"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_strict_formats_refuse_what_they_cannot_write(
    template: PromptTemplate, messages: list[Message], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        template.render(messages)


def test_every_registered_format_is_tested() -> None:
    registered = {prompt_templates.load(name) for name in prompt_templates.names() if name != "tokenizer"}
    assert registered == {type(template) for template in BUILT_IN}


@pytest.mark.parametrize("template", BUILT_IN, ids=lambda template: type(template).__name__)
def test_every_format_refuses_unknown_roles_and_empty_conversations(template: PromptTemplate) -> None:
    with pytest.raises(DataError, match=r"Message 2 has the unknown role 'tool'\. Roles: system, user, assistant"):
        template.render([USER, Message("tool", "x")])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="without messages"):
        template.render([])


@pytest.mark.parametrize("template", BUILT_IN, ids=lambda template: type(template).__name__)
def test_every_supervised_turn_ends_in_one_supervised_special_segment(template: PromptTemplate) -> None:
    assert isinstance(template, PromptTemplate)
    supervised = [s for s in template.render([USER, ASSISTANT, USER, MASKED, USER, ASSISTANT]) if s.supervised]
    assert [segment.special for segment in supervised] == [False, True, False, True]
    assert [segment.text for segment in supervised[::2]] == ["Hello", "Hello"]
