"""Which examples go together in a batch, and how they become tensors."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ftframe.api import IGNORE_INDEX
from ftframe.data.supervision import Example

MEGA_BATCH = 50
"""Batches that are sorted by length together: enough for little padding, few enough that the order stays random."""


def pad_batch(examples: Sequence[Example], *, pad_token_id: int) -> dict[str, Tensor]:
    """Tensors of several examples, padded on the right.

    The mask follows each example's length, never the ids: the pad token may be EOS, which must be learnt.

    Args:
        examples: `input_ids` and `labels`, each [length].
        pad_token_id: Fills `input_ids` past an example's end.

    Returns:
        `input_ids`, `attention_mask` and `labels`, each [batch, length of the longest example].
    """
    shape = (len(examples), max(len(example["input_ids"]) for example in examples))
    input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORE_INDEX, dtype=torch.long)
    for index, example in enumerate(examples):
        length = len(example["input_ids"])
        input_ids[index, :length] = torch.as_tensor(example["input_ids"], dtype=torch.long)
        labels[index, :length] = torch.as_tensor(example["labels"], dtype=torch.long)
        attention_mask[index, :length] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


@dataclass(kw_only=True, eq=False)
class LengthGroupedBatchSampler(Sampler[list[int]]):
    """Batches of row numbers, of similar length if wished, dealt to the ranks in turn.

    The order is a function of `seed` and the epoch alone, and the batches of all ranks together are the same for any
    number of ranks. No row is left out; the last batch may be smaller. When shuffled, for training, every rank gets
    as many batches as any other, which repeats some of the first ones; else, for validation, none is repeated.

    Attributes:
        lengths: The length of each row, in tokens.
        batch_size: Rows in a batch of one rank.
        seed: Chooses the order, together with the epoch.
        shuffle: Whether the order changes each epoch; else it is the rows' own, or longest first if grouped.
        group_by_length: Whether rows of similar length go together, for less padding.
        rank: Which rank's batches to give out.
        world_size: Number of ranks.
    """

    lengths: Sequence[int]
    batch_size: int
    seed: int
    shuffle: bool = True
    group_by_length: bool = True
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"batch_size={self.batch_size} must be positive, and rank={self.rank} below world_size="
                f"{self.world_size}."
            )
        self.epoch = 0
        self.skipped = 0

    @property
    def sampler(self) -> LengthGroupedBatchSampler:
        """Itself: Lightning calls `dataloader.batch_sampler.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def skip(self, batches: int) -> None:
        """Leave out the first batches, the next time only: a resumed run has seen them."""
        self.skipped = batches

    def __len__(self) -> int:
        batches = -(-len(self.lengths) // self.batch_size)
        if self.shuffle:
            return -(-batches // self.world_size)
        return len(range(self.rank, batches, self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.batches()
        first, self.skipped = self.skipped, 0
        for index in range(first, len(self)):
            yield batches[(self.rank + index * self.world_size) % len(batches)]

    def batches(self) -> list[list[int]]:
        """The batches of all ranks in this epoch."""
        rng = random.Random(f"{self.seed}/{self.epoch}")
        order = list(range(len(self.lengths)))
        if self.shuffle:
            rng.shuffle(order)
        if self.group_by_length:
            order = self._sorted_in_parts(order)
        batches = self._cut(order, self.batch_size)
        if self.shuffle and self.group_by_length:
            self._shuffle_all_but_the_longest(batches, rng)
        return batches

    def _sorted_in_parts(self, order: list[int]) -> list[int]:
        """Row numbers, longest first within each mega-batch, or as a whole if not shuffled."""
        size = MEGA_BATCH * self.batch_size if self.shuffle else max(len(order), 1)
        return [row for part in self._cut(order, size) for row in sorted(part, key=lambda row: -self.lengths[row])]

    def _shuffle_all_but_the_longest(self, batches: list[list[int]], rng: random.Random) -> None:
        """Mix the batches in place, but begin with the longest row's, so that running out of memory shows at once."""
        rng.shuffle(batches)
        longest = max(
            range(len(batches)), key=lambda index: max(self.lengths[row] for row in batches[index]), default=0
        )
        batches[:1], batches[longest : longest + 1] = batches[longest : longest + 1], batches[:1]

    @staticmethod
    def _cut(order: list[int], size: int) -> list[list[int]]:
        """Stretches of a list; the last may be shorter."""
        return [order[start : start + size] for start in range(0, len(order), size)]
