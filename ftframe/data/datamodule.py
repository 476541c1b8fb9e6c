"""Tokenised examples as Lightning dataloaders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ftframe.data.batching import LengthGroupedBatchSampler, pad_batch
from ftframe.data.supervision import Example
from ftframe.errors import DataError


class ResumableDataLoader(DataLoader[dict[str, Tensor]]):
    """A dataloader that knows how many batches it has given out; Lightning saves that into checkpoints."""

    _given = 0
    _seen = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore[override]
        """Batches, without those that the resumed run has seen."""
        self._given, self._seen = self._seen, 0
        self.batch_sampler.skip(self._given)  # type: ignore[union-attr]
        for batch in super().__iter__():
            self._given += 1
            yield batch
        self._given = 0

    def state_dict(self) -> dict[str, int]:
        """Batches of this epoch that were given out."""
        return {"batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind them; a whole epoch given out means that a new one begins."""
        self._seen = state["batches"] % len(self)


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How examples are put into batches.

    Attributes:
        batch_size: Examples in a training batch of one rank.
        validation_batch_size: Examples in a validation batch of one rank; `batch_size` if None.
        seed: Chooses the order of training examples.
        num_workers: Processes that pad batches; none if 0.
        group_by_length: Whether examples of similar length go together, for less padding.
    """

    batch_size: int
    validation_batch_size: int | None = None
    seed: int = 0
    num_workers: int = 0
    group_by_length: bool = True


class SFTDataModule(lightning.LightningDataModule):
    """Dataloaders of examples that are tokenised already.

    Rank and world size are read from the trainer, which must be made with `use_distributed_sampler=False`: Lightning
    would put a sampler of its own in place of this one.
    """

    def __init__(
        self,
        train: Sequence[Example],
        validation: Sequence[Example] = (),
        *,
        pad_token_id: int,
        loading: Loading,
    ) -> None:
        """Keep the examples.

        Args:
            train: Training examples, `input_ids` and `labels` each [length].
            validation: Validation examples; without any, no validation is run.
            pad_token_id: Fills `input_ids` past an example's end.
            loading: How examples are put into batches.
        """
        super().__init__()
        self.train = train
        self.validation = validation
        self.loading = loading
        self.collate = partial(pad_batch, pad_token_id=pad_token_id)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of training examples, in an order that changes each epoch."""
        return self._dataloader(self.train, batch_size=self.loading.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[Any]:
        """Batches of validation examples, each example once; an empty list if there are none.

        Smaller batches than asked for where some rank would get none: the ranks add up their sums together.

        Raises:
            DataError: If there are fewer examples than ranks.
        """
        if not self.validation:
            return []
        world_size = self.trainer.world_size if self.trainer else 1
        if len(self.validation) < world_size:
            raise DataError(
                f"{len(self.validation)} validation examples are too few for {world_size} ranks, which need one each. "
                "Raise data.validation_fraction, or lower trainer.devices."
            )
        batch_size = self.loading.validation_batch_size or self.loading.batch_size
        fitting = min(batch_size, len(self.validation) // world_size)
        return self._dataloader(self.validation, batch_size=fitting, shuffle=False)

    def _dataloader(
        self, examples: Sequence[Example], *, batch_size: int, shuffle: bool
    ) -> DataLoader[dict[str, Tensor]]:
        sampler = LengthGroupedBatchSampler(
            lengths=[len(example["input_ids"]) for example in examples],
            batch_size=batch_size,
            seed=self.loading.seed,
            shuffle=shuffle,
            group_by_length=self.loading.group_by_length,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
        return ResumableDataLoader(
            examples,  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=self.collate,
            num_workers=self.loading.num_workers,
            persistent_workers=self.loading.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
