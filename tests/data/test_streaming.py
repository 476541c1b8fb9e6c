from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from transformers import AutoTokenizer

from ftframe.api import BadRow, Message, Row
from ftframe.data.datamodule import Loading, ResumableDataLoader, SFTDataModule
from ftframe.data.examples import EMPTY
from ftframe.data.prompt_templates import Plain
from ftframe.data.streaming import Stream
from ftframe.data.tokenizing import Limit
from ftframe.errors import DataError
from ftframe.models.base import resolve_path

from .positions import trainer_at

TOKENIZER = AutoTokenizer.from_pretrained(resolve_path("pkg://ftframe.embedded/tiny"))


class Source:
    """Rows that start anew each time, and count how many are held at once."""

    def __init__(self, count: int, bad: tuple[int, ...] = ()) -> None:
        self.count, self.bad, self.given = count, bad, 0

    def __iter__(self) -> Iterator[Row | BadRow]:
        self.given = 0
        for number in range(self.count):
            self.given += 1
            where = f"s, row {number}"
            messages = [Message("user", f"{number}"), Message("assistant", "yes " * (number % 5 + 1))]
            yield BadRow(where, "column 'x'", "is null") if number in self.bad else Row(messages, where)


def stream(source: Source, rejected: list[str] | None = None, **changed: Any) -> Stream:
    class Noted:
        """Keeps the places of rejected rows, or refuses them."""

        def reject(self, where: str, reason: str, detail: str, *, seen: int, record: bool) -> None:
            if rejected is None:
                raise DataError(f"{where}: {detail}")
            if record:
                rejected.append(f"{reason} {where}")

        def count(self, name: str, number: int) -> None:
            (rejected if rejected is not None else []).append(f"{name} {number}")

    defaults: dict[str, Any] = {"limit": Limit(64), "seed": 0, "buffer": 16}
    return Stream(rows=source, template=Plain(), tokenizer=TOKENIZER, account=Noted(), **{**defaults, **changed})


def numbers(batches: Any) -> list[str]:
    """The question of each example."""
    return [
        TOKENIZER.decode(example["input_ids"], skip_special_tokens=True).split("\n")[0]
        for batch in batches
        for pack in batch
        for example in pack
    ]


@pytest.mark.parametrize("capacity", [None, 64], ids=["padded", "packed"])
def test_each_epoch_has_every_row_once_in_an_order_of_its_own(capacity: int | None) -> None:
    examples = stream(Source(100))
    epochs = [numbers(examples.batches(epoch, batch_size=4, capacity=capacity)) for epoch in (0, 1, 0)]
    assert sorted(epochs[0], key=int) == [str(number) for number in range(100)]
    assert sorted(epochs[1]) == sorted(epochs[0])
    assert epochs[0] == epochs[2] != epochs[1]


def test_packs_of_a_stream_fit() -> None:
    batches = list(stream(Source(100)).batches(0, batch_size=2, capacity=64))
    sizes = [sum(len(example["input_ids"]) for example in pack) for batch in batches for pack in batch]
    assert max(sizes) <= 64
    assert sum(sizes) / (64 * len(sizes)) > 0.8
    assert {len(batch) for batch in batches[:-1]} == {2}


def test_a_stream_is_read_no_further_than_its_buffer() -> None:
    source = Source(10_000)
    batches = stream(source).batches(0, batch_size=4, capacity=None)
    next(batches)
    assert source.given <= 16 + 64 + 4


def test_bad_rows_are_refused_or_passed_over() -> None:
    with pytest.raises(DataError, match="s, row 7: column 'x' is null"):
        list(stream(Source(20, bad=(7,))).batches(0, batch_size=4, capacity=None))
    rejected: list[str] = []
    rows = numbers(stream(Source(20, bad=(7, 9)), rejected).batches(0, batch_size=4, capacity=None))
    assert sorted(rejected) == ["bad_row s, row 7", "bad_row s, row 9"]
    assert len(rows) == 18


def test_long_rows_of_a_stream_are_noted_in_the_first_epoch_only() -> None:
    rejected: list[str] = []
    examples = stream(Source(20), rejected, limit=Limit(8, "drop"))
    kept = numbers(examples.batches(0, batch_size=4, capacity=None))
    assert rejected and all(note.startswith("too_long s, row ") for note in rejected)
    assert len(kept) + len(rejected) == 20
    before = list(rejected)
    list(examples.batches(1, batch_size=4, capacity=None))
    assert rejected == before
    cut: list[str] = []
    list(stream(Source(20), cut, limit=Limit(8, "truncate")).batches(0, batch_size=4, capacity=None))
    assert cut == [f"train_truncated {len(before)}"]


def loader(rows: int = 50, **position: int) -> ResumableDataLoader:
    examples = stream(Source(rows))
    module = SFTDataModule(
        lambda epoch: examples.batches(epoch, batch_size=4, capacity=None),
        EMPTY,
        pad_token_id=0,
        loading=Loading(batch_size=4),
    )
    module.trainer = trainer_at(**position)
    made = module.train_dataloader()
    assert isinstance(made, ResumableDataLoader)
    return made


def ids(batches: Any) -> list[Any]:
    return [batch["input_ids"].tolist() for batch in batches]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_a_stream_and_stop_together(world_size: int) -> None:
    alone = ids(loader())
    dealt = [ids(loader(rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert {len(batches) for batches in dealt} == {len(alone) // world_size}
    together = [batch for step in zip(*dealt, strict=True) for batch in step]
    assert together == alone[: len(together)]


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_stream_begins_where_training_stands(epoch: int, world_size: int) -> None:
    whole = ids(loader(epoch=epoch, world_size=world_size))
    assert len(whole) > 5
    for batches in range(len(whole) + 1):
        assert ids(loader(epoch=epoch, batches=batches, world_size=world_size)) == whole[batches:]


def test_each_epoch_of_a_stream_has_an_order_of_its_own() -> None:
    assert ids(loader(epoch=0)) != ids(loader(epoch=1))


def test_an_empty_stream_is_refused() -> None:
    with pytest.raises(DataError, match="stream of training rows is empty"):
        list(loader(rows=0))
