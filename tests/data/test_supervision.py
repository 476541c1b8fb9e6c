"""The token-level promise of the data floor, held against the real Llama 2 tokenizer."""

from __future__ import annotations

import copy
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftframe.api import EOS, IGNORE_INDEX, Conversation, Message, PromptTemplate, Row, Segment
from ftframe.data.examples import examples_of
from ftframe.data.prompt_templates import Alpaca, ChatML, Llama2, Llama3, Mistral, Plain, TokenizerTemplate
from ftframe.data.supervision import (
    check_supervision,
    prompt_ids,
    stop_token_ids,
    tokenize_conversation,
)
from ftframe.data.tokenizing import Limit, tokenize_rows
from ftframe.errors import ConfigError, DataError

TEXTS = {path.stem: path.read_text("utf-8") for path in (Path(__file__).parent / "chat_templates").glob("*.jinja")}
MARKERS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
]
BUILT_IN: dict[str, type[PromptTemplate]] = {
    "llama2": Llama2, "llama3": Llama3, "mistral": Mistral, "alpaca": Alpaca, "chatml": ChatML, "plain": Plain,
}  # fmt: skip
TEMPLATES = [
    *BUILT_IN, "chatml-markers", "llama3-markers", "jinja-llama2", "jinja-chatml", "jinja-chatml_generation",
    "jinja-llama3", "jinja-gemma", "jinja-deepseek", "jinja-zephyr", "jinja-mistral", "jinja-phi",
]  # fmt: skip
NO_SYSTEM = ("jinja-gemma", "jinja-mistral")


def byte_tokenizer() -> Any:
    """A tokenizer of the GPT-2 kind: one token a byte, no space put in front of a text, no file needed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def build_pair(name: str, tokenizer: Any) -> tuple[PromptTemplate, Any]:
    """A template by its name in the table, and the tokenizer with the markers it needs."""
    kind, _, text = name.partition("-")
    if text:
        tokenizer.add_tokens(MARKERS, special_tokens=True)
    if kind != "jinja":
        return BUILT_IN[kind](), tokenizer
    tokenizer.chat_template = TEXTS[text]
    return TokenizerTemplate(tokenizer), tokenizer


@pytest.fixture(
    scope="session",
    params=[(kind, template) for kind in ("llama2", "bytes") for template in TEMPLATES],
    ids="-".join,
)
def pair(request: pytest.FixtureRequest) -> tuple[PromptTemplate, Any]:
    """A template, and a tokenizer that has the markers it needs."""
    kind, name = request.param
    loaded = request.getfixturevalue("llama2_tokenizer") if kind == "llama2" else byte_tokenizer()
    return build_pair(name, copy.deepcopy(loaded))


def writable(messages: Conversation, template: PromptTemplate) -> Conversation:
    """The conversation without what the template has no place for."""
    jinja = template.jinja.source if isinstance(template, TokenizerTemplate) else None
    without = any(jinja == TEXTS[name.removeprefix("jinja-")] for name in NO_SYSTEM)
    return [turn for turn in messages if not (without and turn.role == "system")]


def assert_supervised_as_promised(messages: Conversation, template: PromptTemplate, tokenizer: Any) -> None:
    """Each answer is learnt exactly, with its stop token; everything else is masked."""
    messages = writable(messages, template)
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
    named = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    assert all(named.isdisjoint(turn[:-1]) for turn in turns)


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
    st.sampled_from([
        "</s>", "<s>", "<unk>", "[INST]", "[/INST]", "<<SYS>>\n", *MARKERS, "<start_of_turn>model\n", "<|assistant|>\n",
        "assistant", "User: ", "\n\nAssistant: ", "### Response:\n", "{{ eos_token }}", "{% generation %}",
        "\ue0000\ue001", "\ue002answer\ue003", " ", "\n", "\t", "\r\n", "\x00", "\x1b", "\x85", "\u200f", "a", "日",
    ]),
    max_size=8,
).map("".join)  # fmt: skip
masks = st.sampled_from([None, None, True, False])


@settings(max_examples=30)
@given(
    turns=st.lists(st.tuples(contents, contents, masks), min_size=1, max_size=3), system=st.none() | contents
)  # fmt: skip
def test_answers_are_learnt_exactly_whatever_they_hold(
    pair: tuple[PromptTemplate, Any], turns: list[tuple[str, str, bool | None]], system: str | None
) -> None:
    messages = [] if system is None else [Message("system", system)]
    for user, assistant, masked in turns:
        messages += [Message("user", user), Message("assistant", assistant, masked)]
    assert_supervised_as_promised(messages, *pair)


EVERY_TURN_ENDS = [
    "chatml",
    "llama3",
    "chatml-markers",
    "llama3-markers",
    "jinja-chatml",
    "jinja-llama3",
    "jinja-zephyr",
]


@settings(max_examples=30)
@given(turns=st.lists(st.tuples(contents, st.booleans()), min_size=2, max_size=5))
@pytest.mark.parametrize(
    "pair", [(kind, name) for kind in ("llama2", "bytes") for name in EVERY_TURN_ENDS], indirect=True, ids="-".join
)
def test_users_are_learnt_exactly_where_asked(pair: tuple[PromptTemplate, Any], turns: list[tuple[str, bool]]) -> None:
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], text, masked) for i, (text, masked) in enumerate(turns)]  # type: ignore[arg-type]
    assert_supervised_as_promised(messages, *pair)


def real_conversations(shared_data: Path, *, gsm8k: int | None) -> list[Conversation]:
    """Rows of GSM8K, and the seed tasks."""
    lines = (shared_data / "gsm8k" / "train.jsonl").read_text("utf-8").splitlines()[:gsm8k]
    conversations = [chat(row["question"], row["answer"]) for row in map(json.loads, lines)]
    for line in (shared_data / "alpaca_seed_tasks.jsonl").read_text("utf-8").split("\n"):
        task = json.loads(line) if line else None
        if task:
            instance = task["instances"][0]
            user = task["instruction"] + (f"\n\n### Input:\n{instance['input']}" if instance["input"] else "")
            conversations.append(chat(user, instance["output"]))
    return conversations


def test_answers_of_real_rows_are_learnt_exactly(pair: tuple[PromptTemplate, Any], shared_data: Path) -> None:
    conversations = real_conversations(shared_data, gsm8k=25)
    for messages in conversations:
        assert_supervised_as_promised(messages, *pair)
    assert len(conversations) == 25 + 175


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_of_all_real_rows_are_learnt_exactly(name: str, llama2_tokenizer: Any, shared_data: Path) -> None:
    """All rows in one go, each stretch of learnt tokens decoded alone."""
    template, tokenizer = build_pair(name, copy.deepcopy(llama2_tokenizer))
    conversations = real_conversations(shared_data, gsm8k=None)
    assert len(conversations) == 7473 + 175
    rows = [Row(messages, "") for messages in conversations]
    examples = tokenize_rows(rows, template=template, tokenizer=tokenizer, limit=Limit(10**6)).examples
    stops = set(stop_token_ids(template=template, tokenizer=tokenizer))
    learnt = [example["input_ids"][example["labels"] >= 0].tolist() for example in examples]
    assert all(ids[-1] in stops for ids in learnt)
    decoded = tokenizer.batch_decode([ids[:-1] for ids in learnt], clean_up_tokenization_spaces=False)
    assert decoded == [messages[-1].content for messages in conversations]


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
    messages = writable(CONVERSATIONS["several-turns"], template)
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
    for template in (kind() for kind in BUILT_IN.values()):
        segments = template.render(chat("a", "b"))
        assert next(s.text for s in segments if s.special and s.supervised) in (EOS, ChatML.END, Llama3.END)
        assert stop_token_ids(template=template, tokenizer=llama2_tokenizer) == [llama2_tokenizer.eos_token_id]
