"""What the data is, in figures: rows, tokens, lengths, padding, and how often each task is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftframe.console import print_line, print_table
from ftframe.data.batching import BatchSampler
from ftframe.data.examples import Examples
from ftframe.data.streaming import Stream
from ftframe.data.task_data import PreparedTask
from ftframe.preparation import PreparedData

BINS = 12
"""Bars of the length histogram."""


@dataclass(frozen=True)
class TaskAccount:
    """One task's part of an epoch.

    Attributes:
        name: Its key in `data.tasks`; empty where there is only one.
        examples: Training examples.
        draws: Times that one of them is seen in an epoch.
        tokens: Tokens of these draws, on average.
        supervised_tokens: Those of them that are learnt.
        validation: Held-out examples.
    """

    name: str
    examples: int
    draws: int
    tokens: int
    supervised_tokens: int
    validation: int


@dataclass(frozen=True)
class Layout:
    """How an epoch lies in batches.

    Attributes:
        batches: Micro-batches of all ranks.
        rows: Rows of these batches.
        padding: Share of their tokens that is padding.
        packing_efficiency: Share of the rows' capacity that is filled; None if examples are not packed.
    """

    batches: int
    rows: int
    padding: float
    packing_efficiency: float | None


def account_tasks(data: PreparedData) -> list[TaskAccount]:
    """The part of each task, those that are only measured last."""
    trained = data.trained
    sizes = [_size(task) for task in trained]
    draws = data.mixture.draws if data.mixture else sizes
    seen = {task.name: (size, draw) for task, size, draw in zip(trained, sizes, draws, strict=True)}
    accounts = []
    for task in data.tasks:
        size, draw = seen.get(task.name, (0, 0))
        examples = task.train if isinstance(task.train, Examples) and size else None
        per_draw = draw / size if size else 0.0
        tokens = round(int(examples.lengths.sum()) * per_draw) if examples else 0
        supervised = round(int(examples.targets.sum()) * per_draw) if examples else 0
        accounts.append(TaskAccount(task.name, size, draw, tokens, supervised, len(task.validation)))
    return accounts


def _size(task: PreparedTask) -> int:
    """Training examples; 0 for a stream, whose end no one knows."""
    return len(task.train) if isinstance(task.train, Examples) else 0


def account_layout(sampler: BatchSampler) -> Layout:
    """How the first epoch lies in batches."""
    batches = sampler.batches(0)
    lengths = [[int(sum(sampler.lengths[row] for row in pack)) for pack in batch] for batch in batches]
    places = sum(max(batch) * len(batch) for batch in lengths)
    tokens = sum(map(sum, lengths))
    rows = sum(map(len, lengths))
    efficiency = tokens / (rows * sampler.capacity) if sampler.capacity else None
    return Layout(len(batches), rows, 1 - tokens / places, efficiency)


def histogram(lengths: Sequence[int] | np.ndarray[Any, Any]) -> list[tuple[int, int, int]]:
    """Examples by length: from, to, and how many, of equally wide bars over the range of lengths."""
    values = np.asarray(lengths)
    low, high = int(values.min()), int(values.max())
    width = max(1, -(-(high - low + 1) // BINS))
    counts = np.bincount((values - low) // width)
    return [(low + i * width, low + (i + 1) * width - 1, int(count)) for i, count in enumerate(counts)]


def warn_of_duplicates(data: PreparedData) -> None:
    """Say how much of the validation data stands in the training data too."""
    found = data.duplicates
    if any(isinstance(task.train, Stream) for task in data.tasks):
        print_line("The training rows are streamed, so validation rows were not looked for among them.")
    if found is None or not (found.conversations or found.prompts):
        return
    first = (found.first_conversations or found.first_prompts)[0]
    total = sum(len(task.kept["validation"]) for task in data.trained)
    print_line(
        f"warning: of {total} validation rows {found.conversations} stand in the training rows too, and the prompts of "
        f"{found.prompts}, so their figures flatter. The first: validation row {first[0]} is train row {first[1]}."
    )


MIXTURE_HEADER = ("task", "examples", "seen per epoch", "share", "times each", "share of tokens", "validation")


def print_mixture(data: PreparedData) -> None:
    """How often each task is seen in an epoch, where there are several."""
    if data.mixture is not None:
        print_table(MIXTURE_HEADER, mixture_rows(data), title="Mixture")


def mixture_rows(data: PreparedData) -> list[tuple[str, ...]]:
    """How often each task is seen in an epoch, as the cells of a table."""
    accounts = account_tasks(data)
    draws = sum(account.draws for account in accounts)
    tokens = sum(account.tokens for account in accounts)
    return [
        (
            account.name,
            f"{account.examples:,}",
            f"{account.draws:,}",
            f"{account.draws / draws:.1%}",
            f"{account.draws / account.examples:.2f}" if account.examples else "-",
            f"{account.tokens / tokens:.1%}",
            f"{account.validation:,}",
        )
        for account in accounts
    ]


def figures(data: PreparedData, layout: Layout | None) -> Mapping[str, Any]:
    """All of the account as plain values, for `preview.json`."""
    return {
        "rows": data.counts,
        "tasks": [vars(account) for account in account_tasks(data)],
        "layout": vars(layout) if layout else None,
        "rejected": data.rejected,
        "from_cache": [task.source.label(split) for task in data.tasks for split in task.from_cache],
    }
