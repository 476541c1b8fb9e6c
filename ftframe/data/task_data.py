"""What the data of a task is made from, and what has become of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftframe.api import BadRow, Conversation, PromptTemplate, Row, Splits
from ftframe.data.examples import EMPTY, Examples
from ftframe.data.streaming import Stream
from ftframe.data.tokenizing import Limit
from ftframe.errors import DataError

MEND = "Mend it, or set data.on_bad_row=skip."


@dataclass(frozen=True, slots=True)
class Prompt:
    """A validation prompt that is answered by generation.

    Attributes:
        conversation: Where it comes from, the right answer last.
        ids: Its token ids.
        task: The name of its task.
    """

    conversation: Conversation
    ids: list[int]
    task: str

    @property
    def reference(self) -> str:
        """The right answer."""
        return self.conversation[-1].content


@dataclass(frozen=True, slots=True)
class BadRowPolicy:
    """What becomes of rows that are no conversation.

    Attributes:
        skip: Whether they are left out; else the first is an error.
        max_fraction: The largest share of rows that may be left out.
    """

    skip: bool = False
    max_fraction: float = 0.05

    def check(self, bad: Sequence[BadRow], total: int, split: str) -> None:
        """Refuse bad rows that the policy does not allow.

        Raises:
            DataError: Naming the first.
        """
        if not bad:
            return
        count = f"{split}: {len(bad)} of {total} rows {'is' if len(bad) == 1 else 'are'} bad. The first:\n{bad[0]}"
        if not self.skip:
            raise DataError(f"{count}\n{MEND}")
        if len(bad) > self.max_fraction * total:
            raise DataError(f"{count}\nThat is more than data.max_bad_fraction={self.max_fraction} allows to skip.")


@dataclass(frozen=True, kw_only=True)
class TaskSource:
    """What the examples of a task are made from.

    Attributes:
        name: Its key in `data.tasks`; empty where there is only one.
        splits: What its dataset builder returned.
        template: Writes each conversation as segments.
        tokenizer: A transformers tokenizer.
        limit: What becomes of long examples.
        policy: What becomes of bad rows.
        validation_fraction: Share held out where there is no validation split.
        generate_examples: The most held-out prompts that are answered.
        weight: Its share where tasks are mixed by weight; 0 if it is only measured.
        seed: Chooses the rows held out, and the order of a stream.
        buffer: Rows of a stream among which the next one is drawn.
        fingerprints: Digests of the code and files that decide the tokens, by name.
        cache_dir: Where tokenised rows are kept; None for nowhere.
    """

    name: str
    splits: Splits
    template: PromptTemplate
    tokenizer: Any
    limit: Limit
    policy: BadRowPolicy
    validation_fraction: float
    generate_examples: int
    weight: float = 1.0
    seed: int = 0
    buffer: int = 1000
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    cache_dir: Path | None = None

    def label(self, split: str) -> str:
        """The split as messages call it."""
        return f"{self.name} {split}".strip()


@dataclass
class PreparedTask:
    """The tokenised data of one task.

    Attributes:
        source: What it was made from.
        train: Training examples, or a stream of them.
        validation: Held-out examples.
        prompts: The held-out prompts that are answered.
        stop_token_ids: The tokens that end an answer.
        counts: Rows, and rows left out or shortened, by name.
        rejected: Rows left out, each with split, place, reason and detail.
        rows: The good rows of each split.
        kept: Those of them that gave examples.
        fingerprints: Digests of the rows of each split.
        from_cache: The splits that were tokenised before.
    """

    source: TaskSource
    train: Examples | Stream = EMPTY
    validation: Examples = EMPTY
    prompts: list[Prompt] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    rejected: list[dict[str, str]] = field(default_factory=list)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    kept: dict[str, list[Row]] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    from_cache: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its key in `data.tasks`; empty where there is only one."""
        return self.source.name

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count; a count that stays 0 is not there."""
        if number:
            self.counts[name] = self.counts.get(name, 0) + number

    def reject(self, split: str, where: str, reason: str, detail: str) -> None:
        """Note a row that is left out."""
        self.count(f"{split}_{reason}")
        self.rejected.append({"split": self.source.label(split), "where": where, "reason": reason, "detail": detail})
