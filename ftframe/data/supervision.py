"""From conversations to `input_ids` and `labels`: which tokens are learnt."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ftframe.api import IGNORE_INDEX, Conversation, Message, PromptTemplate, Row, Segment
from ftframe.data.examples import Examples
from ftframe.data.segments import SegmentEncoder, decode
from ftframe.errors import DataError

ANSWER_MARK = "\ue002answer\ue003"
"""Content that finds the last assistant turn among the segments of a template."""


def tokenize_conversation(messages: Conversation, *, template: PromptTemplate, tokenizer: Any) -> dict[str, list[int]]:
    """`input_ids` and `labels` of a conversation, each [length].

    Args:
        messages: The conversation.
        template: Writes it as segments.
        tokenizer: A transformers tokenizer.

    Raises:
        DataError: If the template cannot write the conversation.
        ConfigError: If an answer must end in an EOS token and the tokenizer has none.
    """
    encoder = SegmentEncoder(tokenizer)
    pieces = encoder.pieces(template.render(messages))
    input_ids: list[int] = []
    labels: list[int] = []
    for piece, ids in zip(pieces, encoder.encode(pieces), strict=True):
        input_ids += ids
        labels += ids if piece.supervised else [IGNORE_INDEX] * len(ids)
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
    try:
        before, _ = around_answer(history, template=template)
    except DataError:  # a template that writes earlier answers otherwise can be trained on the last one only
        before, _ = around_answer([replace(turn, masked=True) for turn in history], template=template)
    return segment_ids(before, tokenizer=tokenizer)


def stop_token_ids(*, template: PromptTemplate, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the one that the template teaches, then the tokenizer's EOS if it is another.

    Raises:
        ConfigError: As `tokenize_conversation`.
    """
    _, after = around_answer([Message("user", "question")], template=template)
    stops = [segment for segment in after if segment.special and segment.supervised]
    ids = segment_ids(stops, tokenizer=tokenizer)
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return list(dict.fromkeys(ids))


def segment_ids(segments: Iterable[Segment], *, tokenizer: Any) -> list[int]:
    """The token ids of some segments."""
    encoder = SegmentEncoder(tokenizer)
    return [token for ids in encoder.encode(encoder.pieces(segments)) for token in ids]


def check_supervision(
    examples: Examples,
    *,
    tokenizer: Any,
    stop_ids: Collection[int],
    split: str = "train",
    rows: Sequence[Row] | None = None,
) -> None:
    """Refuse examples that teach nothing, and a dataset that never teaches the model to stop.

    Args:
        examples: All examples of a split.
        tokenizer: Decodes an example for the message.
        stop_ids: The tokens that end an answer.
        split: The split's name, for messages.
        rows: Where the examples come from, for messages.

    Raises:
        DataError: If there is no example, one has no supervised token, or none has a supervised stop token.
    """
    if len(examples) == 0:
        raise DataError(f"{split} has no examples.")
    empty = np.flatnonzero(examples.targets == 0)
    if len(empty):
        example, number = examples[int(empty[0])], int(examples.rows[empty[0]])
        where = f"{split} row {number}" if rows is None else rows[number - 1].where
        raise DataError(
            f"{where}: no token is supervised, so nothing is learnt from it. "
            f"Its text: {excerpt(example['input_ids'], tokenizer)}"
        )
    learnt = examples.supervised.copy()
    learnt[examples.starts[:-1]] = False  # no target: nothing comes before it
    if not np.isin(examples.input_ids[learnt], list(stop_ids)).any():
        names = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in sorted(stop_ids)) or "none known"
        raise DataError(
            f"{split}: in none of the {len(examples)} examples a stop token ({names}) is supervised, so the model "
            "would never learn to end its answer. Set data.template.name to a format that ends each answer with one."
        )


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
