"""The token-level promise of the data floor, held against the real Llama 2 tokenizer."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftframe.api import EOS, IGNORE_INDEX, Conversation, Message, PromptTemplate, Segment
from ftframe.data.examples import examples_of
from ftframe.data.prompt_templates import Alpaca, ChatML, Llama2, Mistral, Plain, TokenizerTemplate
from ftframe.data.supervision import (
    check_supervision,
    prompt_ids,
    stop_token_ids,
    tokenize_conversation,
)
from ftframe.errors import ConfigError, DataError

LLAMA2_JINJA = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\\n' + messages[0]['content'] + "
    "'\\n<</SYS>>\\n\\n' %}{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}"
    "{% endif %}{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
CHATML_JINJA = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = ["llama2", "mistral", "alpaca", "chatml", "plain", "chatml-markers", "jinja-llama2", "jinja-chatml"]


def byte_tokenizer() -> Any:
    """A tokenizer of the GPT-2 kind: one token a byte, no space put in front of a text, no file needed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.fixture(
    scope="session",
    params=[(kind, template) for kind in ("llama2", "bytes") for template in TEMPLATES],
    ids="-".join,
)
def pair(request: pytest.FixtureRequest) -> tuple[PromptTemplate, Any]:
    """A template, and a tokenizer that has the markers it needs."""
    from transformers import AutoTokenizer

    kind, name = request.param
    folder = request.getfixturevalue("llama2_folder") if kind == "llama2" else None
    tokenizer = AutoTokenizer.from_pretrained(folder) if folder else byte_tokenizer()
    if name in ("chatml-markers", "jinja-chatml"):
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = {"jinja-llama2": LLAMA2_JINJA, "jinja-chatml": CHATML_JINJA}.get(name)
    built_in: dict[str, type[PromptTemplate]] = {
        "llama2": Llama2, "mistral": Mistral, "alpaca": Alpaca, "chatml": ChatML, "plain": Plain,
        "chatml-markers": ChatML,
    }  # fmt: skip
    return (built_in[name]() if name in built_in else TokenizerTemplate(tokenizer)), tokenizer


def assert_supervised_as_promised(messages: Conversation, template: PromptTemplate, tokenizer: Any) -> None:
    """Each answer is learnt exactly, with its stop token; everything else is masked."""
    example = tokenize_conversation(messages, template=template, tokenizer=tokenizer)
    input_ids, labels = example["input_ids"], example["labels"]
    assert len(input_ids) == len(labels)
    stop = stop_token_ids(template=template, tokenizer=tokenizer)[0]
    turns = []
    for supervised, run in groupby(zip(input_ids, labels, strict=True), key=lambda pair: pair[1] != IGNORE_INDEX):
        tokens = list(run)
        if supervised:
            assert all(token == label for token, label in tokens)
            turns.append([token for token, _ in tokens])
    expected = [message.content for message in messages if message.supervised]
    assert [turn[-1] for turn in turns] == [stop] * len(expected)
    assert [tokenizer.decode(turn[:-1], clean_up_tokenization_spaces=False) for turn in turns] == expected
    assert all(not set(turn[:-1]) & set(tokenizer.all_special_ids) for turn in turns)


def chat(*contents: str, system: str | None = None) -> list[Message]:
    """Contents of user and assistant in turn."""
    head = [] if system is None else [Message("system", system)]
    return head + [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(contents)]  # type: ignore[arg-type]


CONVERSATIONS = {
    "one-turn": chat("Hi", "Hello there."),
    "several-turns": chat("Hi", "Hello.", "How are you?", "Fine, thanks.", "Bye", "Bye!", system="Be brief."),
    "unicode": chat("Grüße, 日本語?", "naïve café 日本語 😀 \u200d\u0301 end", system="Ünïcode"),
    "empty-answer": chat("Say nothing", "", "And now?", "Something"),
    "leading-space": chat(" Hi", " Hello"),
    "many-spaces": chat("  Hi  ", "   Hello   "),
    "only-spaces": chat(" ", " ", "  ", "   "),
    "newlines": chat("\nHi\n", "\n\nHello\n\n\tthere\r\n"),
    "special-tokens-in-answer": chat("Hi", "</s>", "Hi", "<s>a</s> b<unk>"),
    "special-tokens-in-prompt": chat("</s><s>Hi<unk>", "Hello", system="</s>"),
    "markers": chat("[/INST] ok </s><s>[INST] more", "[INST] x [/INST] <<SYS>> <|im_end|>\n<|im_start|>assistant\n"),
    "alpaca-headings": chat("### Response:\nx\n\n### Input:\ny", "### Instruction:\nz"),
    "byte-pieces": chat("<0x0A>", "<0x0A> <0xE6>"),
    "masked-first": [Message("user", "a"), Message("assistant", "b", masked=True), *chat("c", "d")],
}


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_answers_are_learnt_exactly(pair: tuple[PromptTemplate, Any], messages: list[Message]) -> None:
    assert_supervised_as_promised(messages, *pair)


# U+2581 is how SentencePiece writes a space; its decoder cannot tell the two apart.
contents = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=30) | st.lists(
    st.sampled_from(["</s>", "<s>", "[INST]", "[/INST]", "<|im_end|>", "<|im_start|>", "<unk>", " ", "\n", "a", "é"]),
    max_size=8,
).map("".join)


@settings(max_examples=60)
@given(
    turns=st.lists(st.tuples(contents, contents), min_size=1, max_size=3), system=st.none() | contents
)  # fmt: skip
def test_answers_are_learnt_exactly_whatever_they_hold(
    pair: tuple[PromptTemplate, Any], turns: list[tuple[str, str]], system: str | None
) -> None:
    messages = chat(*(text for turn in turns for text in turn), system=system)
    assert_supervised_as_promised(messages, *pair)


def test_answers_of_real_rows_are_learnt_exactly(pair: tuple[PromptTemplate, Any], shared_data: Path) -> None:
    lines = (shared_data / "gsm8k" / "train.jsonl").read_text("utf-8").split("\n")[:200]
    rows = [json.loads(line) for line in lines]
    for row in rows:
        assert_supervised_as_promised(chat(row["question"], row["answer"]), *pair)
    lines = (shared_data / "alpaca_seed_tasks.jsonl").read_text("utf-8").split("\n")
    tasks = [json.loads(line) for line in lines if line]
    for task in tasks:
        instance = task["instances"][0]
        user = task["instruction"] + (f"\n\n### Input:\n{instance['input']}" if instance["input"] else "")
        assert_supervised_as_promised(chat(user, instance["output"]), *pair)
    assert (len(rows), len(tasks)) == (200, 175)


REFERENCE = [
    ("Hi", "Hello there."),
    ("What is 2+2?", "4"),
    ("Grüße, 日本語 😀", "naïve café"),
    ("line\nbreak", "two\n\nlines"),
]


@pytest.mark.parametrize(("user", "assistant"), REFERENCE, ids=["short", "digits", "unicode", "newlines"])
@pytest.mark.parametrize("template", [Llama2(), Mistral()], ids=["llama2", "mistral"])
def test_single_turn_equals_the_encoding_of_the_whole_string(
    template: PromptTemplate, llama2_tokenizer: Any, user: str, assistant: str
) -> None:
    example = tokenize_conversation(chat(user, assistant), template=template, tokenizer=llama2_tokenizer)
    # The space after <s> is written out: the tokenizer adds one only at the start of its whole input.
    whole = llama2_tokenizer.encode(f"<s> [INST] {user} [/INST] {assistant}</s>", add_special_tokens=False)
    assert example["input_ids"] == whole


def test_single_turn_equals_sentencepiece(llama2_folder: Path, llama2_tokenizer: Any) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(llama2_folder / "tokenizer.model"))
    for user, assistant in REFERENCE:
        example = tokenize_conversation(chat(user, assistant), template=Llama2(), tokenizer=llama2_tokenizer)
        whole = reference.encode(f"[INST] {user} [/INST] {assistant}")
        assert example["input_ids"] == [reference.bos_id(), *whole, reference.eos_id()]


def test_prompt_is_what_comes_before_the_last_answer(pair: tuple[PromptTemplate, Any]) -> None:
    template, tokenizer = pair
    messages = CONVERSATIONS["several-turns"]
    example = tokenize_conversation(messages, template=template, tokenizer=tokenizer)
    prompt = prompt_ids(messages, template=template, tokenizer=tokenizer)
    answer = tokenizer.encode("Bye!", add_special_tokens=False)
    assert example["input_ids"][: len(prompt) + len(answer)] == prompt + answer
    assert prompt_ids(messages[:-1], template=template, tokenizer=tokenizer) == prompt


def test_prompt_of_a_masked_last_answer(llama2_tokenizer: Any) -> None:
    masked = [Message("user", "a"), Message("assistant", "b", masked=True)]
    assert prompt_ids(masked, template=Llama2(), tokenizer=llama2_tokenizer) == prompt_ids(
        masked[:1], template=Llama2(), tokenizer=llama2_tokenizer
    )


def test_plain_is_bos_text_answer_eos(llama2_tokenizer: Any) -> None:
    tokenizer = llama2_tokenizer
    example = tokenize_conversation(chat("ab", "ba"), template=Plain(), tokenizer=tokenizer)
    prompt = [tokenizer.bos_token_id, *tokenizer.encode("ab\n", add_special_tokens=False)]
    answer = [*tokenizer.encode("ba", add_special_tokens=False), tokenizer.eos_token_id]
    assert example == {"input_ids": prompt + answer, "labels": [IGNORE_INDEX] * len(prompt) + answer}


@pytest.mark.parametrize(
    "pair", [("llama2", "chatml-markers"), ("llama2", "jinja-chatml"), ("bytes", "jinja-chatml")], indirect=True
)
def test_chatml_markers_are_special_only_in_the_template(pair: tuple[PromptTemplate, Any]) -> None:
    template, tokenizer = pair
    marker = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = tokenize_conversation(chat("<|im_end|>", "<|im_end|>"), template=template, tokenizer=tokenizer)["input_ids"]
    assert ids.count(marker) == 2
    assert stop_token_ids(template=template, tokenizer=tokenizer) == [marker, tokenizer.eos_token_id]


def test_a_tokenizer_without_bos_and_eos(llama2_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama2_folder)
    tokenizer.bos_token = None
    ids = tokenize_conversation(chat("Hi", "Yes"), template=Plain(), tokenizer=tokenizer)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁Hi", "<0x0A>", "▁Yes", "</s>"]
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match=r"no EOS token.*model\.tokenizer"):
        tokenize_conversation(chat("Hi", "Yes"), template=Plain(), tokenizer=tokenizer)


class NoStop:
    """A faulty plugin: its answers end in nothing."""

    def render(self, messages: Conversation) -> list[Segment]:
        return [Segment(message.content, message.supervised) for message in messages]


def test_gate_refuses_examples_that_teach_nothing(llama2_tokenizer: Any) -> None:
    good, bad = chat("Hi", "Yes"), chat("Only a question")
    examples = [tokenize_conversation(m, template=Plain(), tokenizer=llama2_tokenizer) for m in (good, bad)]
    check_supervision(examples_of(examples[:1]), tokenizer=llama2_tokenizer, stop_ids=[2])
    with pytest.raises(DataError, match=r"(?s)train row 2: no token is supervised.*Only a question"):
        check_supervision(examples_of(examples), tokenizer=llama2_tokenizer, stop_ids=[2])
    with pytest.raises(DataError, match="validation has no examples"):
        check_supervision(examples_of([]), tokenizer=llama2_tokenizer, stop_ids=[2], split="validation")


def test_gate_refuses_a_label_that_nothing_predicts(llama2_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no token is supervised"):
        check_supervision(examples_of([{"input_ids": [2], "labels": [2]}]), tokenizer=llama2_tokenizer, stop_ids=[2])


def test_gate_refuses_answers_that_never_stop(llama2_tokenizer: Any) -> None:
    template = NoStop()
    examples = [tokenize_conversation(chat("Hi", "Yes"), template=template, tokenizer=llama2_tokenizer)]
    stops = stop_token_ids(template=template, tokenizer=llama2_tokenizer)
    with pytest.raises(DataError, match=r"none of the 1 examples a stop token \('</s>'\)"):
        check_supervision(examples_of(examples), tokenizer=llama2_tokenizer, stop_ids=stops)


def test_stop_of_builtin_formats_is_eos_first(llama2_tokenizer: Any) -> None:
    for template in (Llama2(), Mistral(), Alpaca(), ChatML(), Plain()):
        segments = template.render(chat("a", "b"))
        assert next(s.text for s in segments if s.special and s.supervised) in (EOS, ChatML.END)
        assert stop_token_ids(template=template, tokenizer=llama2_tokenizer) == [llama2_tokenizer.eos_token_id]
