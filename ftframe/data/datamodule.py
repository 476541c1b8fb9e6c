"""Tokenised examples as Lightning dataloaders."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ftframe.api import IGNORE_INDEX
from ftframe.data.batching import Batch, BatchSampler, Pack, pack_batch, pad_batch
from ftframe.data.examples import EMPTY, Example, Examples
from ftframe.data.mixing import Mixture
from ftframe.errors import DataError

Position = tuple[int, int]
"""An epoch, and how many of its batches on this rank have been trained on."""


class ResumableDataLoader(DataLoader[Batch]):
    """A dataloader that begins where training stands; it keeps no count of its own, which could disagree."""

    def __init__(
        self, dataset: Any, *, position: Callable[[], Position] | None = None, seed: int = 0, **options: Any
    ) -> None:
        """Keep where to ask for the position; without it, every pass begins at the first batch of epoch 0.

        Args:
            dataset: Gives the batches.
            position: Where training stands.
            seed: Seeds the workers, together with the epoch.
            options: Of torch's own loader.
        """
        # A generator of its own: torch would draw the workers' seeds from the one that training draws from.
        super().__init__(dataset, generator=torch.Generator(), **options)
        self._position = position
        self._seed = seed

    def __iter__(self) -> Any:
        """Batches, without those that a resumed run has seen."""
        epoch, batches = self._position() if self._position is not None else (0, 0)
        self.generator.manual_seed(random.Random(f"{self._seed}/{epoch}").getrandbits(63))
        if self._position is not None:
            source: Any = self.dataset if isinstance(self.dataset, StreamedBatches) else self.batch_sampler
            source.set_epoch(epoch)  # Lightning tells samplers only, and workers fetch before it does
            source.skip(batches)
        return super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: Lightning's own progress is the position. It warns of loaders without this method."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing, likewise."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How examples are put into batches.

    Attributes:
        batch_size: Rows in a training batch of one rank.
        validation_batch_size: Rows in a validation batch of one rank; `batch_size` if None.
        seed: Chooses the order of training examples.
        num_workers: Processes that pad batches; none if 0.
        group_by_length: Whether examples of similar length go together, for less padding.
        capacity: Tokens of a training row that several examples share; None if each has its own. Validation examples
            always have their own.
        one_row: Whether the packs of a batch lie in one row, for attention of variable length.
    """

    batch_size: int
    validation_batch_size: int | None = None
    seed: int = 0
    num_workers: int = 0
    group_by_length: bool = True
    capacity: int | None = None
    one_row: bool = False


class Packs(Dataset[list[Example]]):
    """The examples of each pack."""

    def __init__(self, examples: Examples, task_starts: Sequence[int] = (0,)) -> None:
        """Keep the examples; `task_starts` says with which example each task begins."""
        self.examples = examples
        self.task_starts = task_starts

    def __getitem__(self, pack: Pack) -> list[Example]:
        return [{**self.examples[index], "task": self._task(index), "row": index} for index in pack]

    def _task(self, index: int) -> int:
        return sum(start <= index for start in self.task_starts) - 1


class StreamedBatches(IterableDataset[Batch]):
    """Batches that are made while training runs, dealt to the ranks in turn.

    Every rank reads the whole stream and takes its share, so that all agree on where it ends; a last round that does
    not reach all ranks is left out.
    """

    def __init__(self, batches: Callable[[int], Iterable[list[list[Example]]]], collate: Callable[..., Batch]) -> None:
        """Keep a function from the epoch to its batches of packs, and how a batch becomes tensors."""
        self.batches = batches
        self.collate = collate
        self.rank, self.world_size, self.epoch, self.skipped = 0, 1, 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def skip(self, batches: int) -> None:
        """Leave out the first batches of this rank, the next time only: a resumed run has seen them."""
        self.skipped = batches

    def __iter__(self) -> Iterator[Batch]:
        first, self.skipped = self.skipped, 0
        mine, index = None, -1
        for index, batch in enumerate(self.batches(self.epoch)):
            if index % self.world_size == self.rank:
                mine = batch
            if index % self.world_size == self.world_size - 1 and index // self.world_size >= first:
                assert mine is not None
                yield self.collate(mine)
        if index < 0:
            raise DataError("The stream of training rows is empty.")


class SFTDataModule(lightning.LightningDataModule):
    """Dataloaders of examples that are tokenised already, or are while training runs.

    Rank and world size are read from the trainer, which must be made with `use_distributed_sampler=False`: Lightning
    would put a sampler of its own in place of this one.
    """

    def __init__(
        self,
        train: Examples | Callable[[int], Iterable[list[list[Example]]]],
        validation: Examples = EMPTY,
        *,
        pad_token_id: int,
        loading: Loading,
        mixture: Mixture | None = None,
        validation_starts: Sequence[int] = (0,),
    ) -> None:
        """Keep the examples.

        Args:
            train: Training examples, `input_ids` and `labels` each [length]; or a function from the epoch to streamed
                batches of packs.
            validation: Validation examples; without any, no validation is run.
            pad_token_id: Fills `input_ids` past an example's end.
            loading: How examples are put into batches.
            mixture: Which examples an epoch has, where there are several tasks; each once if None.
            validation_starts: With which validation example each task begins.
        """
        super().__init__()
        self.train = train
        self.validation = Packs(validation, validation_starts)
        self.loading = loading
        self.mixture = mixture
        self.pad_token_id = pad_token_id

    @property
    def streams(self) -> bool:
        """Whether training examples are made while training runs, and no one knows how many there are."""
        return callable(self.train)

    def train_sampler(self, world_size: int) -> BatchSampler:
        """The order of training examples that are not streamed, as the first of so many ranks sees it."""
        assert not callable(self.train)
        return self._sampler(self.train, self.loading.batch_size, world_size=world_size, shuffle=True)

    def tokens_per_batch(self, world_size: int) -> float:
        """Supervised tokens of a training batch, about."""
        if callable(self.train):
            some = list(islice(self.train(-1), 4))
            labels = [example["labels"] for batch in some for pack in batch for example in pack]
            return sum(int((values[1:] >= 0).sum()) for values in labels) / len(some)
        sampler = self.train_sampler(world_size)
        return float(self.train.targets[sampler.rows(0)].sum()) / (len(sampler) * world_size)

    def batch_shapes(self) -> set[tuple[int, int]] | None:
        """Rows and padded length of the first epoch's training batches; of a stream no one knows."""
        if callable(self.train):
            return None
        sampler, capacity = self.train_sampler(world_size=1), self.loading.capacity
        batches = sampler.batches(0)
        if capacity is not None and self.loading.one_row:
            return {(1, len(batch) * capacity) for batch in batches}
        lengths = sampler.lengths
        return {(len(batch), max(int(sum(lengths[row] for row in pack)) for pack in batch)) for batch in batches}

    def check_labels(self) -> None:
        """Refuse batches that teach less or more than their examples: the last gate before a model loads.

        A collator that masks labels by the pad token's id would hide the EOS of every answer where the two are one.

        Raises:
            DataError: If a batch of the first epoch has another number of supervised tokens than its examples.
        """
        if callable(self.train) or not len(self.train):
            return
        sampler = self.train_sampler(world_size=1)
        batches = sampler.batches(0)
        packs, examples = Packs(self.train), self.train
        for rows in (batches[0], batches[-1]):
            batch = _collate([packs[pack] for pack in rows], pad_token_id=self.pad_token_id, loading=self.loading)
            expected = int(examples.targets[[row for pack in rows for row in pack]].sum())
            found = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
            if found != expected:
                raise DataError(
                    f"The examples of a batch have {expected} supervised tokens, and the batch has {found}: padding "
                    f"(token {self.pad_token_id}) or packing hides labels."
                )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of training examples, in an order that changes each epoch."""
        collate = partial(_collate, pad_token_id=self.pad_token_id, loading=self.loading)
        if callable(self.train):
            stream = StreamedBatches(self.train, collate)
            if self.trainer:
                stream.rank, stream.world_size = self.trainer.global_rank, self.trainer.world_size
            return ResumableDataLoader(
                stream,
                position=self._position,
                seed=self.loading.seed,
                batch_size=None,
                num_workers=self.loading.num_workers,
                pin_memory=torch.cuda.is_available(),
            )
        sampler = self._sampler(self.train, self.loading.batch_size, shuffle=True)
        return self._dataloader(Packs(self.train), sampler, collate, position=self._position)

    def _position(self) -> Position:
        """Where training stands; on resuming, Lightning has restored its progress before it asks for batches."""
        if self.trainer is None:
            return 0, 0
        loop: Any = self.trainer.fit_loop
        progress, epoch = loop.epoch_loop.batch_progress, loop.epoch_progress.current.processed
        return (epoch + 1, 0) if progress.is_last_batch else (epoch, progress.current.processed)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Batches of validation examples, each example once; an empty list if there are none.

        Smaller batches than asked for where some rank would get none: the ranks add up their sums together.

        Raises:
            DataError: If there are fewer examples than ranks.
        """
        examples = self.validation.examples
        if not len(examples):
            return []
        world_size = self.trainer.world_size if self.trainer else 1
        if len(examples) < world_size:
            raise DataError(
                f"{len(examples)} validation examples are too few for {world_size} ranks, which need one each. "
                "Raise data.validation_fraction, or lower trainer.devices."
            )
        batch_size = self.loading.validation_batch_size or self.loading.batch_size
        sampler = self._sampler(examples, min(batch_size, len(examples) // world_size), shuffle=False)
        return self._dataloader(self.validation, sampler, partial(_pad, pad_token_id=self.pad_token_id))

    def _sampler(
        self, examples: Examples, batch_size: int, *, shuffle: bool, world_size: int | None = None
    ) -> BatchSampler:
        if world_size is None:
            world_size = self.trainer.world_size if self.trainer else 1
        return BatchSampler(
            lengths=examples.lengths,
            batch_size=batch_size,
            seed=self.loading.seed,
            shuffle=shuffle,
            group_by_length=self.loading.group_by_length,
            capacity=self.loading.capacity if shuffle else None,
            mixture=self.mixture if shuffle else None,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=world_size,
        )

    def _dataloader(
        self,
        packs: Packs,
        sampler: BatchSampler,
        collate: Callable[..., Batch],
        *,
        position: Callable[[], Position] | None = None,
    ) -> DataLoader[Batch]:
        return ResumableDataLoader(
            packs,
            position=position,
            seed=self.loading.seed,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.loading.num_workers,
            persistent_workers=self.loading.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def _collate(packs: list[list[Example]], *, pad_token_id: int, loading: Loading) -> Batch:
    """The tensors of a training batch."""
    if loading.capacity is not None:
        one_row = loading.capacity if loading.one_row else None
        return pack_batch(packs, pad_token_id=pad_token_id, one_row=one_row)
    return _pad(packs, pad_token_id=pad_token_id)


def _pad(packs: list[list[Example]], *, pad_token_id: int) -> Batch:
    """The tensors of a batch of which each row is one example."""
    return pad_batch([example for (example,) in packs], pad_token_id=pad_token_id)
