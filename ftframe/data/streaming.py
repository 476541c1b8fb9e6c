"""Rows that are read and tokenised while training runs, in bounded memory."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from ftframe.api import BadRow, Conversation, PromptTemplate, Row
from ftframe.data.conversations import as_row
from ftframe.data.examples import Example, Examples
from ftframe.data.packing import pack_window
from ftframe.data.tokenizing import Limit, tokenize_rows
from ftframe.errors import DataError

TOKENIZE = 64
"""Rows of a stream that are tokenised in one call."""


class Account(Protocol):
    """What becomes of rows that give no example or less."""

    def reject(self, where: str, reason: str, detail: str, *, seen: int, record: bool) -> None:
        """Take note of a row that is left out, or refuse it; `seen` rows were read so far."""

    def count(self, name: str, number: int) -> None:
        """Add to the number of rows that were truncated or chunked."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Examples of an iterable that starts anew each epoch.

    Attributes:
        rows: What a dataset builder returned.
        template: Writes each conversation as segments.
        tokenizer: A transformers tokenizer.
        limit: What becomes of long examples.
        account: Called in the first epoch with each row that is left out; with a bad row in every epoch, and it raises
            where none may be.
        seed: Chooses the order, together with the epoch.
        buffer: Rows among which the next one is drawn, and examples among which a pack is filled.
    """

    rows: Iterable[Conversation | Row | BadRow]
    template: PromptTemplate
    tokenizer: Any
    limit: Limit
    account: Account
    seed: int
    buffer: int

    def batches(self, epoch: int, *, batch_size: int, capacity: int | None) -> Iterator[list[list[Example]]]:
        """Batches of packs; the last may be smaller.

        Args:
            epoch: Chooses the order; the account of rows is kept in epoch 0.
            batch_size: Packs in a batch.
            capacity: Tokens of a pack; None if each example is one.

        Raises:
            DataError: If a row is left out that may not be, or teaches nothing.
        """
        examples = self._examples(self._shuffled(epoch), record=epoch == 0)
        packs: Iterator[list[Example]] = ([example] for example in examples)
        if capacity is not None:
            sized = ((len(example["input_ids"]), example) for example in examples)
            packs = pack_window(sized, capacity, window=self.buffer)
        while batch := list(islice(packs, batch_size)):
            yield batch

    def first(self, count: int) -> Examples:
        """The examples of the first rows, to look at before training.

        Raises:
            DataError: As `batches`.
        """
        rows = list(islice(self._good_rows(record=False), count))
        return tokenize_rows(rows, template=self.template, tokenizer=self.tokenizer, limit=self.limit).examples

    def _examples(self, rows: Iterator[Row], *, record: bool) -> Iterator[Example]:
        """The examples of rows, in order."""
        seen = 0
        while some := list(islice(rows, TOKENIZE)):
            seen += len(some)
            made = tokenize_rows(some, template=self.template, tokenizer=self.tokenizer, limit=self.limit)
            for number, reason, detail in made.rejected:
                self.account.reject(some[number - 1].where, reason, detail, seen=seen, record=record)
            for outcome, number in made.counts.items() if record else ():
                self.account.count(f"train_{outcome}", number)
            for index, targets in enumerate(made.examples.targets):
                where = some[made.examples.rows[index] - 1].where
                if targets == 0:
                    raise DataError(f"{where}: no token is supervised, so nothing is learnt from it.")
                yield {**made.examples[index], "row": where}

    def _good_rows(self, *, record: bool) -> Iterator[Row]:
        for number, item in enumerate(self.rows, start=1):
            row = as_row(item, f"train row {number}")
            if isinstance(row, BadRow):
                fault = f"{row.column} {row.rule}"
                self.account.reject(row.where, "bad_row", fault, seen=number, record=record)
            else:
                yield row

    def _shuffled(self, epoch: int) -> Iterator[Row]:
        """The good rows, each drawn from a buffer that the stream refills."""
        rng = random.Random(f"{self.seed}/{epoch}")
        rows = self._good_rows(record=epoch == 0)
        waiting = list(islice(rows, self.buffer))
        for row in rows:
            index = rng.randrange(len(waiting))
            yield waiting[index]
            waiting[index] = row
        rng.shuffle(waiting)
        yield from waiting
