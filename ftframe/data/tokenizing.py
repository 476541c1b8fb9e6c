"""Rows to examples, many at a time: rendered, tokenised, and cut to a length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from ftframe.api import PromptTemplate, Row
from ftframe.data.examples import EMPTY, Example, Examples, examples_of
from ftframe.data.segments import Piece, SegmentEncoder
from ftframe.data.supervision import excerpt
from ftframe.errors import DataError

BATCH = 1000
"""Rows that are tokenised in one call: enough for all cores, few enough for a progress bar to move."""


class Rejected(NamedTuple):
    """A row that nothing is learnt from.

    Attributes:
        row: Its number, counted from 1.
        reason: `bad_row` or `too_long`.
        detail: What is wrong with it.
    """

    row: int
    reason: Literal["bad_row", "too_long"]
    detail: str


@dataclass(frozen=True)
class Limit:
    """What becomes of long examples.

    Attributes:
        max_length: The most tokens of an example.
        on_too_long: `error`, `drop`, `truncate`, or `chunk` for documents.
    """

    max_length: int
    on_too_long: str = "error"


@dataclass
class Tokenized:
    """The examples of a split, and what became of the rows that gave none or less.

    Attributes:
        examples: What is learnt from.
        rejected: Rows left out.
        counts: `truncated` rows, and `chunked` documents.
    """

    examples: Examples = EMPTY
    rejected: list[Rejected] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, outcome: str) -> None:
        """Add one."""
        self.counts[outcome] = self.counts.get(outcome, 0) + 1


def tokenize_rows(
    rows: Sequence[Row],
    *,
    template: PromptTemplate,
    tokenizer: Any,
    limit: Limit,
    advance: Callable[[int], None] = lambda _: None,
) -> Tokenized:
    """The examples of rows.

    Args:
        rows: The conversations.
        template: Writes each as segments; one that it cannot write is rejected.
        tokenizer: A transformers tokenizer.
        limit: What becomes of long examples.
        advance: Called with the number of rows that were done, for a progress bar.

    Raises:
        DataError: If an example is too long and `limit` forbids it, or cannot be shortened as it says.
        ConfigError: If an answer must end in an EOS token and the tokenizer has none.
    """
    encoder = SegmentEncoder(tokenizer)
    result = Tokenized()
    parts = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        examples = _tokenize_batch(batch, template, encoder, result, first=start + 1)
        parts.append(_fit(examples, rows, limit, tokenizer, result))
        advance(len(batch))
    result.examples = Examples.concatenate(parts)
    return result


def _tokenize_batch(
    rows: Sequence[Row], template: PromptTemplate, encoder: SegmentEncoder, result: Tokenized, *, first: int
) -> Examples:
    pieces: list[Piece] = []
    counts, numbers = [], []
    for number, row in enumerate(rows, start=first):
        try:
            of_row = encoder.pieces(template.render(row.messages))
        except DataError as error:
            result.rejected.append(Rejected(number, "bad_row", str(error)))
            continue
        pieces += of_row
        counts.append(len(of_row))
        numbers.append(number)
    ids = encoder.encode(pieces)
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return Examples(
        np.fromiter(chain.from_iterable(ids), np.int32, int(ends[-1])),
        np.repeat(np.fromiter((piece.supervised for piece in pieces), np.bool_, len(pieces)), lengths),
        ends[np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])],
        np.array(numbers, np.int64),
    )


def _fit(examples: Examples, rows: Sequence[Row], limit: Limit, tokenizer: Any, result: Tokenized) -> Examples:
    """The examples of a batch, none longer than the limit."""
    if not (examples.lengths > limit.max_length).any():
        return examples
    kept: list[Example] = []
    numbers = []
    for index, length in enumerate(examples.lengths):
        number = int(examples.rows[index])
        example = examples[index]
        shortened = [example]
        if length > limit.max_length:
            shortened = _shorten(example, rows[number - 1].where, limit, tokenizer, result, number)
        kept += shortened
        numbers += [number] * len(shortened)
    fitting = examples_of(kept)
    return Examples(fitting.input_ids, fitting.supervised, fitting.starts, np.array(numbers, np.int64))


def _shorten(
    example: Example, where: str, limit: Limit, tokenizer: Any, result: Tokenized, number: int
) -> list[Example]:
    """What `data.on_too_long` makes of an example: none, one or several."""
    length = len(example["input_ids"])
    fact = f"{length} tokens, more than data.max_length={limit.max_length}"
    if limit.on_too_long == "drop":
        result.rejected.append(Rejected(number, "too_long", fact))
        return []
    if limit.on_too_long == "truncate":
        cut = {name: values[: limit.max_length] for name, values in example.items()}
        if (cut["labels"][1:] < 0).all():
            raise DataError(
                f"{where} has {fact}, and data.on_too_long=truncate would cut its whole answer away. Raise "
                f"data.max_length, or set data.on_too_long=drop. Its text: {excerpt(example['input_ids'], tokenizer)}"
            )
        result.count("truncated")
        return [cut]
    if limit.on_too_long == "chunk":
        if (example["labels"][1:] < 0).any():
            raise DataError(
                f"{where} has {fact}, and data.on_too_long=chunk cuts documents only, of which every token is learnt. "
                "Raise data.max_length, or set data.on_too_long=drop or truncate."
            )
        result.count("chunked")
        return list(_chunks(example, limit.max_length))
    raise DataError(
        f"{where} has {fact}. Raise data.max_length, or set data.on_too_long=drop or truncate"
        f"{', or chunk' if (example['labels'][1:] >= 0).all() else ''}."
    )


def _chunks(example: Example, max_length: int) -> Iterator[Example]:
    """Pieces of about one length, each from the last token of the one before, so that every token is a target."""
    targets = len(example["input_ids"]) - 1
    count = math.ceil(targets / (max_length - 1))
    cuts = [targets * number // count for number in range(count + 1)]
    for start, end in pairwise(cuts):
        yield {name: values[start : end + 1] for name, values in example.items()}
