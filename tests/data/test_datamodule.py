from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch

from ftframe.data import datamodule
from ftframe.data.datamodule import Loading, SFTDataModule
from ftframe.data.examples import Examples, examples_of
from ftframe.errors import DataError

from .positions import trainer_at


def examples(count: int, *, first: int = 0) -> Examples:
    """Examples of uneven length, each known by its first id."""
    return examples_of(
        {"input_ids": [first + i] * (i % 5 + 1), "labels": [first + i] * (i % 5 + 1)} for i in range(count)
    )


class Recorder(lightning.LightningModule):
    """Notes the rows that it is given, by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[list[int]]] = {"train": [], "validation": []}

    def note(self, split: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        epochs = self.seen[split]
        while len(epochs) <= self.current_epoch:
            epochs.append([])
        epochs[self.current_epoch] += batch["input_ids"][:, 0].tolist()
        return self.weight.sum()

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        return self.note("train", batch)

    def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
        self.note("validation", batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(datamodule: SFTDataModule, **flags: Any) -> Recorder:
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, **flags,
    )  # fmt: skip
    module = Recorder()
    trainer.fit(module, datamodule=datamodule)
    return module


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("group_by_length", [True, False], ids=["grouped", "ungrouped"])
def test_each_epoch_has_every_row_once_in_its_own_order(group_by_length: bool) -> None:
    loading = Loading(batch_size=4, validation_batch_size=3, seed=1, group_by_length=group_by_length)
    seen = fit(SFTDataModule(examples(23), examples(7, first=100), pad_token_id=0, loading=loading)).seen
    assert [sorted(rows) for rows in seen["train"]] == [list(range(23))] * 2
    assert seen["train"][0] != seen["train"][1]
    assert [sorted(rows) for rows in seen["validation"]] == [list(range(100, 107))] * 2
    assert seen["validation"][0] == seen["validation"][1]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_without_validation_examples_none_is_run() -> None:
    seen = fit(SFTDataModule(examples(5), pad_token_id=0, loading=Loading(batch_size=2))).seen
    assert sorted(seen["train"][1]) == list(range(5))
    assert seen["validation"] == []


def test_ranks_share_the_batches() -> None:
    module = SFTDataModule(examples(10), examples(10), pad_token_id=0, loading=Loading(batch_size=2))
    rows: dict[str, list[int]] = {"train": [], "validation": []}
    for rank in range(2):
        module.trainer = trainer_at(rank=rank, world_size=2)
        for batch in module.train_dataloader():
            rows["train"] += batch["input_ids"][:, 0].tolist()
        for batch in module.val_dataloader():
            rows["validation"] += batch["input_ids"][:, 0].tolist()
    # Five batches on two ranks: one is run twice in training, none in validation.
    assert len(rows["train"]) == 12
    assert set(rows["train"]) == set(range(10))
    assert sorted(rows["validation"]) == list(range(10))


@pytest.mark.slow
def test_workers_give_the_same_batches() -> None:
    def batches(num_workers: int) -> list[list[int]]:
        loading = Loading(batch_size=4, num_workers=num_workers)
        loader = SFTDataModule(examples(9), pad_token_id=0, loading=loading).train_dataloader()
        return [batch["input_ids"][:, 0].tolist() for batch in loader]

    assert batches(2) == batches(0)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)], ids=["here", "workers"])
@pytest.mark.parametrize("capacity", [None, 12], ids=["padded", "packed"])
def test_batches_begin_where_training_stands(capacity: int | None, num_workers: int) -> None:
    def batches(epoch: int, first: int, **more: Any) -> list[list[Any]]:
        loading = Loading(batch_size=4, num_workers=num_workers, capacity=capacity)
        module = SFTDataModule(examples(23), pad_token_id=0, loading=loading)
        module.trainer = trainer_at(epoch, first, **more)
        return [batch["rows"] for batch in module.train_dataloader()]

    for epoch in (0, 3):
        whole = batches(epoch, 0)
        assert sorted(row for rows in whole for row in rows) == list(range(23))
        assert batches(epoch, 2) == whole[2:]
    assert batches(2, 5, is_last_batch=True) == batches(3, 0)
    assert batches(0, 0) != batches(3, 0)


@pytest.mark.parametrize(("examples", "ranks"), [(5, 4), (16, 2), (7, 7), (9, 2)])
def test_every_rank_gets_validation_batches_and_every_example_is_seen_once(examples, ranks):
    rows = examples_of({"input_ids": [i, i], "labels": [i, i]} for i in range(examples))
    seen = []
    for rank in range(ranks):
        module = SFTDataModule(rows, rows, pad_token_id=0, loading=Loading(batch_size=64))
        module.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)
        batches = list(module.val_dataloader())
        assert batches
        seen += [row[0].item() for batch in batches for row in batch["input_ids"]]
    assert sorted(seen) == list(range(examples))


def test_fewer_validation_examples_than_ranks_are_refused():
    rows = examples_of([{"input_ids": [1, 2], "labels": [1, 2]}])
    module = SFTDataModule(rows, rows, pad_token_id=0, loading=Loading(batch_size=64))
    module.trainer = SimpleNamespace(global_rank=0, world_size=2)
    with pytest.raises(DataError, match="too few for 2 ranks"):
        module.val_dataloader()


@pytest.mark.parametrize("capacity", [None, 12], ids=["padded", "packed"])
def test_a_collator_that_hides_the_pad_token_is_refused(capacity: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pad token is EOS here, which ends every answer."""
    eos = 2
    rows = examples_of({"input_ids": [7, 8, eos], "labels": [-100, 8, eos]} for _ in range(6))
    module = SFTDataModule(rows, pad_token_id=eos, loading=Loading(batch_size=2, capacity=capacity))
    module.check_labels()
    honest = datamodule._collate

    def by_id(packs: Any, **flags: Any) -> Any:
        batch = honest(packs, **flags)
        return {**batch, "labels": batch["labels"].masked_fill(batch["input_ids"] == eos, -100)}

    monkeypatch.setattr(datamodule, "_collate", by_id)
    with pytest.raises(DataError, match=r"supervised tokens, and the batch has \d+: padding \(token 2\)"):
        module.check_labels()


@pytest.mark.parametrize(
    ("capacity", "one_row"), [(None, False), (12, False), (12, True)], ids=["padded", "packed", "in one row"]
)
def test_shapes_of_batches_are_those_of_the_first_epoch(capacity: int | None, one_row: bool) -> None:
    loading = Loading(batch_size=3, capacity=capacity, one_row=one_row)
    made = SFTDataModule(examples(40), pad_token_id=0, loading=loading)
    assert made.batch_shapes() == {tuple(batch["input_ids"].shape) for batch in made.train_dataloader()}


def test_no_one_knows_the_shapes_of_a_stream() -> None:
    made = SFTDataModule(lambda epoch: iter([]), pad_token_id=0, loading=Loading(batch_size=3))
    assert made.batch_shapes() is None
