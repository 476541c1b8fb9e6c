"""From conversations to `input_ids` and `labels`: which tokens are learnt."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from ftframe.api import BOS, EOS, IGNORE_INDEX, Conversation, Message, PromptTemplate, Segment
from ftframe.errors import ConfigError, DataError

Example = Mapping[str, Sequence[int]]
"""`input_ids` and `labels` of one conversation, each [length]."""

ANSWER_MARK = "\ue002answer\ue003"
"""Content that finds the last assistant turn among the segments of a template."""


def tokenize_conversation(
    messages: Conversation,
    *,
    template: PromptTemplate,
    tokenizer: Any,
    max_length: int | None = None,
    row: str = "",
) -> dict[str, list[int]]:
    """`input_ids` and `labels` of a conversation, each [length].

    Args:
        messages: The conversation.
        template: Writes it as segments.
        tokenizer: A transformers tokenizer.
        max_length: The most tokens that are allowed.
        row: Where the conversation comes from, put in front of error messages.

    Raises:
        DataError: If the template cannot write the conversation, or it is longer than `max_length`.
        ConfigError: If an answer must end in an EOS token and the tokenizer has none.
    """
    prefix = f"{row}: " if row else ""
    try:
        segments = template.render(messages)
    except DataError as error:
        raise DataError(f"{prefix}{error}") from error
    input_ids: list[int] = []
    labels: list[int] = []
    for piece in tokenize_segments(segments, tokenizer=tokenizer):
        input_ids += piece.ids
        labels += piece.ids if piece.supervised else [IGNORE_INDEX] * len(piece.ids)
    if max_length is not None and len(input_ids) > max_length:
        raise DataError(
            f"{prefix}the conversation has {len(input_ids)} tokens, more than data.max_length={max_length}. "
            "Raise data.max_length, or shorten or remove the row."
        )
    return {"input_ids": input_ids, "labels": labels}


def prompt_ids(messages: Conversation, *, template: PromptTemplate, tokenizer: Any) -> list[int]:
    """The tokens that come before the last assistant turn: what the model is given to generate that turn.

    Args:
        messages: A conversation that ends with the assistant's turn, which is left out, or just before it.
        template: Writes it as segments.
        tokenizer: A transformers tokenizer.

    Raises:
        DataError: If the template cannot write the conversation.
        ConfigError: As `tokenize_conversation`.
    """
    history = list(messages[:-1] if messages and messages[-1].role == "assistant" else messages)
    before, _ = around_answer(history, template=template)
    return [token for piece in tokenize_segments(before, tokenizer=tokenizer) for token in piece.ids]


def stop_token_ids(*, template: PromptTemplate, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the one that the template teaches, then the tokenizer's EOS if it is another.

    Raises:
        ConfigError: As `tokenize_conversation`.
    """
    _, after = around_answer([Message("user", "question")], template=template)
    stops = [segment for segment in after if segment.special and segment.supervised]
    ids = [token for piece in tokenize_segments(stops, tokenizer=tokenizer) for token in piece.ids]
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return list(dict.fromkeys(ids))


def check_supervision(
    examples: Iterable[Example], *, tokenizer: Any, stop_ids: Collection[int], split: str = "train"
) -> None:
    """Refuse examples that teach nothing, and a dataset that never teaches the model to stop.

    Args:
        examples: All examples of a split.
        tokenizer: Decodes an example for the message.
        stop_ids: The tokens that end an answer.
        split: The split's name, for messages.

    Raises:
        DataError: If there is no example, one has no supervised token, or none has a supervised stop token.
    """
    stops = set(stop_ids)
    number, stop_found = 0, False
    for number, example in enumerate(examples, start=1):
        # The first label is no target: nothing comes before it.
        targets = set(example["labels"][1:])
        if targets <= {IGNORE_INDEX}:
            raise DataError(
                f"{split}, example {number}: no token is supervised, so nothing is learnt from it. "
                f"Its text: {excerpt(example['input_ids'], tokenizer)}"
            )
        stop_found = stop_found or not stops.isdisjoint(targets)
    if number == 0:
        raise DataError(f"{split} has no examples.")
    if not stop_found:
        names = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in sorted(stops)) or "none known"
        raise DataError(
            f"{split}: in none of the {number} examples a stop token ({names}) is supervised, so the model would never "
            "learn to end its answer. Set data.template.name to a format that ends each answer with one."
        )


class Piece(NamedTuple):
    """Tokens that are all supervised or all not."""

    ids: list[int]
    supervised: bool


def tokenize_segments(segments: Iterable[Segment], *, tokenizer: Any) -> Iterator[Piece]:
    """Tokens of each segment; neighbouring plain text that is not supervised is encoded as one.

    Raises:
        ConfigError: If a supervised stop or EOS is asked for and the tokenizer has no EOS token.
    """
    resolved = (resolve(segment, tokenizer) for segment in segments)
    for joinable, run in groupby(resolved, key=lambda item: isinstance(item, str)):
        if joinable:
            yield Piece(encode_text("".join(str(text) for text in run), tokenizer), supervised=False)
        else:
            yield from (item for item in run if isinstance(item, Piece))


def resolve(segment: Segment, tokenizer: Any) -> Piece | str:
    """A segment's tokens, or its text where it may be joined with the text beside it.

    Raises:
        ConfigError: As `tokenize_segments`.
    """
    if not segment.special:
        if segment.supervised:
            return Piece(encode_text(segment.text, tokenizer), supervised=True)
        return segment.text
    if segment.text == BOS:
        return Piece([] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id], segment.supervised)
    token = None if segment.text == EOS else token_id(segment.text, tokenizer)
    if token is None and segment.text != EOS and not segment.supervised:
        return segment.text
    return Piece([eos_id(tokenizer) if token is None else token], segment.supervised)


def token_id(text: str, tokenizer: Any) -> int | None:
    """The id of the token with this text, or None if the tokenizer has no such token."""
    token = tokenizer.convert_tokens_to_ids(text)
    # An unknown text gets the id of the unknown token.
    return token if token is not None and tokenizer.convert_ids_to_tokens(token) == text else None


def eos_id(tokenizer: Any) -> int:
    """The id of the EOS token.

    Raises:
        ConfigError: If the tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "The tokenizer has no EOS token, so no token can end an answer. Set model.tokenizer to one that has."
        )
    return int(tokenizer.eos_token_id)


def encode_text(text: str, tokenizer: Any) -> list[int]:
    """The tokens of plain text, such that decoding them gives the text back wherever the tokenizer can write it.

    Special tokens are not read out of the text: `</s>` becomes the tokens of four characters.
    """
    ids = encode_plainly(text, tokenizer)
    # SentencePiece puts a space before a text, but not before one that starts with a space; decoding takes one away
    # from either. A second space keeps the first.
    if text.startswith(" ") and decode(ids, tokenizer) != text:
        padded = encode_plainly(f" {text}", tokenizer)
        if decode(padded, tokenizer) == text:
            return padded
    return ids


def encode_plainly(text: str, tokenizer: Any) -> list[int]:
    """The tokens of a text in which nothing is special."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)) if text else []


def decode(ids: Sequence[int], tokenizer: Any) -> str:
    """The exact text of some tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def around_answer(history: Conversation, *, template: PromptTemplate) -> tuple[list[Segment], list[Segment]]:
    """The segments before and after the content of an assistant turn that follows a conversation.

    Raises:
        DataError: If the template cannot write the conversation with such a turn, or does not write its content.
    """
    segments = template.render([*history, Message("assistant", ANSWER_MARK)])
    for index in reversed(range(len(segments))):
        segment = segments[index]
        if ANSWER_MARK in segment.text:
            text_before, _, text_after = segment.text.rpartition(ANSWER_MARK)
            before = [replace(segment, text=text_before)] if text_before else []
            after = [replace(segment, text=text_after)] if text_after else []
            return [*segments[:index], *before], [*after, *segments[index + 1 :]]
    raise DataError(f"{type(template).__name__}.render does not write the assistant's content.")


def excerpt(ids: Sequence[int], tokenizer: Any, *, length: int = 200) -> str:
    """The start of an example's text, quoted."""
    text = decode(ids[: 4 * length], tokenizer)
    return repr(text if len(text) <= length else f"{text[:length]}...")
