"""Which examples go together in a batch, and how they become tensors."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

from ftframe.api import IGNORE_INDEX
from ftframe.data.examples import Example
from ftframe.data.mixing import Mixture
from ftframe.data.packing import pack_best_fit

MEGA_BATCH = 50
"""Batches that are sorted by length together: enough for little padding, few enough that the order stays random."""

BOUNDARIES = 64
"""The boundaries of a packed row are a multiple of these, for the same reason as its tokens are one of the rows'."""

Pack = tuple[int, ...]
"""The numbers of the examples that make one row of a batch: a single one, unless examples are packed."""

Batch = dict[str, Any]


def pad_batch(examples: Sequence[Example], *, pad_token_id: int) -> Batch:
    """Tensors of several examples, padded on the right.

    The mask follows each example's length, never the ids: the pad token may be EOS, which must be learnt.

    Args:
        examples: `input_ids` and `labels`, each [length]; `task`, a number, where there are several tasks; `row`, what
            the example is known by.
        pad_token_id: Fills `input_ids` past an example's end.

    Returns:
        `input_ids`, `attention_mask` and `labels`, each [batch, length of the longest example]; `task`, [batch];
        `supervised_positions`, the places, row after row, behind which a supervised token stands; and as plain values
        the non-padding `tokens`, the `supervised_tokens`, the examples' `squared_lengths`, added up, by which attention
        takes its time, and a list of the examples' `rows`.
    """
    lengths = [len(example["input_ids"]) for example in examples]
    rows = _Rows(len(examples), max(lengths), pad_token_id)
    attention_mask = torch.zeros_like(rows.input_ids)
    for index, example in enumerate(examples):
        rows.write(example, index, 0)
        attention_mask[index, : lengths[index]] = 1
    task = torch.tensor([example.get("task", 0) for example in examples])
    counted = {**_counted(lengths), "rows": _rows_of(examples)}
    return {**rows.tensors(), "attention_mask": attention_mask, "task": task, **counted}


def pack_batch(packs: Sequence[Sequence[Example]], *, pad_token_id: int, one_row: int | None = None) -> Batch:
    """Tensors of several packs, each a row of examples one behind the other.

    Positions start anew with each example, and there is no `attention_mask`: from the two, attention knows that no
    example sees another. An example's first token is no target, for what stands before it is another example's end.

    Args:
        packs: The examples of each row.
        pad_token_id: Fills `input_ids` past the last example's end, with positions of its own.
        one_row: The most tokens of a pack, if all of them go into a single row, with the boundaries that attention of
            variable length asks for. The row is as long as so many full packs: a compiler has one shape to compile
            for, and the padding, an example of its own to attention, is little.

    Returns:
        `input_ids`, `position_ids` and `labels`, each [rows, length of the longest row]; `supervised_positions` as in
        `pad_batch`; `tokens`, `supervised_tokens`, `squared_lengths` and `rows` likewise; with `one_row` also
        `cu_seq_lens_q`, `cu_seq_lens_k`, [examples + 1 or more, the last ones empty], int32, and the numbers
        `max_length_q` and `max_length_k`.
    """
    if one_row is not None:
        packs = [[example for pack in packs for example in pack]]
    lengths = [[len(example["input_ids"]) for example in pack] for pack in packs]
    longest = max(map(sum, lengths))
    rows = _Rows(len(packs), longest if one_row is None else -(-longest // one_row) * one_row, pad_token_id)
    position_ids = torch.zeros_like(rows.input_ids)
    for index, pack in enumerate(packs):
        start = 0
        for example, length in zip(pack, lengths[index], strict=True):
            rows.write(example, index, start)
            rows.labels[index, start] = IGNORE_INDEX
            position_ids[index, start : start + length] = torch.arange(length)
            start += length
        position_ids[index, start:] = torch.arange(position_ids.shape[1] - start)
    counted = {**_counted(itertools.chain(*lengths)), "rows": [row for pack in packs for row in _rows_of(pack)]}
    batch = {**rows.tensors(), "position_ids": position_ids, **counted}
    return batch if one_row is None else {**batch, **_boundaries(lengths[0], rows.input_ids.shape[1], one_row)}


def _counted(lengths: Iterable[int]) -> dict[str, int]:
    """Figures of examples of these lengths."""
    known = list(lengths)
    return {"tokens": sum(known), "squared_lengths": sum(length * length for length in known)}


def _rows_of(examples: Sequence[Example]) -> list[Any]:
    """What each example is known by: its number, or of a stream its place."""
    return [example["row"] for example in examples if "row" in example]


def _boundaries(lengths: Sequence[int], end: int, longest: int) -> Batch:
    """Where each example of a row begins, in the words of transformers' `FlashAttentionKwargs`.

    Args:
        lengths: Of the examples.
        end: Of the row; behind the last example there is padding.
        longest: No example is longer, nor is the padding.
    """
    starts = [0, *itertools.accumulate(lengths)]
    ends = torch.full((-(-(len(starts) + 1) // BOUNDARIES) * BOUNDARIES,), end, dtype=torch.int32)
    ends[: len(starts)] = torch.tensor(starts)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


class _Rows:
    """`input_ids` and `labels` of a batch while they are being filled, each [rows, length]."""

    def __init__(self, rows: int, length: int, pad_token_id: int) -> None:
        self.input_ids = torch.full((rows, length), pad_token_id, dtype=torch.long)
        self.labels = torch.full((rows, length), IGNORE_INDEX, dtype=torch.long)

    def write(self, example: Example, row: int, start: int) -> None:
        """Put an example into a row."""
        span = slice(start, start + len(example["input_ids"]))
        self.input_ids[row, span] = torch.as_tensor(example["input_ids"], dtype=torch.long)
        self.labels[row, span] = torch.as_tensor(example["labels"], dtype=torch.long)

    def tensors(self) -> Batch:
        """The tensors, and which labels count."""
        rows, columns = (self.labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
        positions = rows * self.labels.shape[1] + columns
        counted = {"supervised_positions": positions, "supervised_tokens": len(positions)}
        return {"input_ids": self.input_ids, "labels": self.labels, **counted}


@dataclass(kw_only=True, eq=False)
class BatchSampler(Sampler[list[Pack]]):
    """Batches of example numbers, packed or of similar length if wished, dealt to the ranks in turn.

    The order is a function of `seed` and the epoch alone, and the batches of all ranks together are the same for any
    number of ranks. No example is left out; the last batch may be smaller. When shuffled, for training, every rank gets
    as many batches as any other, which repeats some of the first ones; else, for validation, none is repeated.

    Attributes:
        lengths: The length of each example, in tokens.
        batch_size: Rows in a batch of one rank.
        seed: Chooses the order, together with the epoch.
        shuffle: Whether the order changes each epoch; else it is the examples' own, or longest first if grouped.
        group_by_length: Whether examples of similar length go together, for less padding.
        capacity: Tokens of a row that several examples share; None if each has its own.
        mixture: Which examples an epoch has; each once if None.
        rank: Which rank's batches to give out.
        world_size: Number of ranks.
    """

    lengths: npt.NDArray[np.int64]
    batch_size: int
    seed: int
    shuffle: bool = True
    group_by_length: bool = True
    capacity: int | None = None
    mixture: Mixture | None = None
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"batch_size={self.batch_size} must be positive, and rank={self.rank} below world_size="
                f"{self.world_size}."
            )
        self.lengths = np.asarray(self.lengths, np.int64)
        self.epoch = 0
        self.skipped = 0

    @property
    def sampler(self) -> BatchSampler:
        """Itself: Lightning calls `dataloader.batch_sampler.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def skip(self, batches: int) -> None:
        """Leave out the first batches, the next time only: a resumed run has seen them."""
        self.skipped = batches

    def __len__(self) -> int:
        if self.shuffle:
            return -(-self._number_of_batches // self.world_size)
        return len(range(self.rank, self._number_of_batches, self.world_size))

    def __iter__(self) -> Iterator[list[Pack]]:
        batches = self.batches()
        first, self.skipped = self.skipped, 0
        for index in range(first, len(self)):
            yield batches[(self.rank + index * self.world_size) % len(batches)]

    @cached_property
    def _number_of_batches(self) -> int:
        """Batches of all ranks in the first epoch. Later ones may be a few more or less where packs meet a mixture;
        the length stays, so that the number of steps is known.
        """
        if self.capacity is None:
            return -(-self.rows(0).size // self.batch_size)
        return len(self.batches(0))

    def rows(self, epoch: int) -> npt.NDArray[np.int64]:
        """The example numbers of an epoch."""
        if self.mixture is None:
            return np.arange(len(self.lengths))
        return self.mixture.rows(seed=self.seed, epoch=epoch)

    def batches(self, epoch: int | None = None) -> list[list[Pack]]:
        """The batches of all ranks in an epoch, the present one unless said."""
        epoch = self.epoch if epoch is None else epoch
        rng = random.Random(f"{self.seed}/{epoch}")
        rows = self.rows(epoch).tolist()
        if self.shuffle:
            rng.shuffle(rows)
        if self.capacity is not None:
            return self._cut(self._packs(rows, self.capacity, rng))
        if self.group_by_length:
            rows = self._sorted_in_parts(rows)
        batches = self._cut([(row,) for row in rows])
        if self.shuffle and self.group_by_length:
            self._shuffle_all_but_the_longest(batches, rng)
        return batches

    def _packs(self, rows: list[int], capacity: int, rng: random.Random) -> list[Pack]:
        """Examples that share a row; which ones of equal length do depends on their order, and so on the epoch."""
        packs = [tuple(rows[index] for index in pack) for pack in pack_best_fit(self.lengths[rows], capacity)]
        if self.shuffle:
            rng.shuffle(packs)
        return packs

    def _sorted_in_parts(self, rows: list[int]) -> list[int]:
        """Example numbers, longest first within each mega-batch, or as a whole if not shuffled."""
        size = MEGA_BATCH * self.batch_size if self.shuffle else max(len(rows), 1)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        return [row for part in parts for row in sorted(part, key=lambda row: -self.lengths[row])]

    def _shuffle_all_but_the_longest(self, batches: list[list[Pack]], rng: random.Random) -> None:
        """Mix the batches in place, but begin with the longest one, so that running out of memory shows at once."""
        rng.shuffle(batches)
        longest = max(
            range(len(batches)), key=lambda index: max(self.lengths[row] for (row,) in batches[index]), default=0
        )
        batches[:1], batches[longest : longest + 1] = batches[longest : longest + 1], batches[:1]

    def _cut(self, packs: list[Pack]) -> list[list[Pack]]:
        """Stretches of a list; the last may be shorter."""
        return [packs[start : start + self.batch_size] for start in range(0, len(packs), self.batch_size)]
