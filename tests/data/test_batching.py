from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftframe.api import IGNORE_INDEX
from ftframe.data.batching import BOUNDARIES, BatchSampler, pack_batch, pad_batch
from ftframe.data.mixing import plan_mixture

EOS_ID = 2


def test_pad_batch_masks_by_length_and_keeps_a_supervised_pad_id() -> None:
    batch = pad_batch(
        [
            {"input_ids": [1, 5, EOS_ID], "labels": [IGNORE_INDEX, 5, EOS_ID], "row": 7},
            {"input_ids": [1], "labels": [1], "row": "a.jsonl, row 3"},
        ],
        pad_token_id=EOS_ID,
    )
    plain = {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    assert plain == {
        "input_ids": [[1, 5, EOS_ID], [1, EOS_ID, EOS_ID]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[IGNORE_INDEX, 5, EOS_ID], [1, IGNORE_INDEX, IGNORE_INDEX]],
        "task": [0, 0],
        "supervised_positions": [0, 1],
        "tokens": 4,
        "supervised_tokens": 2,
        "squared_lengths": 10,
        "rows": [7, "a.jsonl, row 3"],
    }


lengths = st.lists(st.integers(1, 50), min_size=1, max_size=150)
sizes = st.integers(1, 9)
options = st.fixed_dictionaries({"shuffle": st.booleans(), "group_by_length": st.booleans()})


def ranks(world_size: int, **arguments: Any) -> list[list[list[int]]]:
    """The batches of each rank."""
    samplers = [BatchSampler(rank=r, world_size=world_size, **arguments) for r in range(world_size)]
    dealt = [list(sampler) for sampler in samplers]
    assert [len(batches) for batches in dealt] == [len(sampler) for sampler in samplers]
    return [[[row for pack in batch for row in pack] for batch in batches] for batches in dealt]


def in_global_order(dealt: list[list[list[int]]]) -> list[list[int]]:
    """The batches of all ranks, as they run beside each other."""
    steps = max(len(batches) for batches in dealt)
    return [batches[step] for step in range(steps) for batches in dealt if step < len(batches)]


@given(lengths=lengths, batch_size=sizes, world_size=sizes, options=options, seed=st.integers())
def test_batches_do_not_depend_on_the_number_of_ranks(
    lengths: list[int], batch_size: int, world_size: int, options: dict[str, bool], seed: int
) -> None:
    arguments: dict[str, Any] = {"lengths": lengths, "batch_size": batch_size, "seed": seed, **options}
    (alone,) = ranks(1, **arguments)
    assert sorted(row for batch in alone for row in batch) == list(range(len(lengths)))
    assert [len(batch) for batch in alone].count(batch_size) >= len(lengths) // batch_size
    dealt = ranks(world_size, **arguments)
    together = in_global_order(dealt)
    assert together[: len(alone)] == alone
    if options["shuffle"]:
        assert len({len(batches) for batches in dealt}) == 1
        extra = len(together) - len(alone)
        assert extra < world_size
        assert together[len(alone) :] == [alone[index % len(alone)] for index in range(extra)]
    else:
        assert together == alone


@given(lengths=lengths, batch_size=sizes, seed=st.integers())
def test_the_longest_row_comes_first_and_rows_in_a_batch_are_sorted(
    lengths: list[int], batch_size: int, seed: int
) -> None:
    sampler = BatchSampler(lengths=lengths, batch_size=batch_size, seed=seed)
    batches = [[lengths[row] for (row,) in batch] for batch in sampler]
    assert batches[0][0] == max(lengths)
    assert all(batch == sorted(batch, reverse=True) for batch in batches)


def order(*, epoch: int = 0, seed: int = 7, **options: bool) -> list[list[int]]:
    sampler = BatchSampler(lengths=[3, 1, 2, 9, 5, 4, 8] * 9, batch_size=4, seed=seed, **options)
    sampler.sampler.set_epoch(epoch)
    first = list(sampler)
    assert list(sampler) == first
    return [[row for (row,) in batch] for batch in first]


@pytest.mark.parametrize("group_by_length", [True, False], ids=["grouped", "ungrouped"])
def test_order_is_a_function_of_seed_and_epoch(group_by_length: bool) -> None:
    assert order(epoch=3, group_by_length=group_by_length) == order(epoch=3, group_by_length=group_by_length)
    assert order(epoch=3, group_by_length=group_by_length) != order(epoch=4, group_by_length=group_by_length)
    assert order(seed=8, group_by_length=group_by_length) != order(group_by_length=group_by_length)


def test_unshuffled_orders() -> None:
    assert [row for batch in order(shuffle=False, group_by_length=False) for row in batch] == list(range(63))
    by_length = [[3, 1, 2, 9, 5, 4, 8][row % 7] for batch in order(shuffle=False) for row in batch]
    assert by_length == sorted(by_length, reverse=True)
    assert order(shuffle=False, epoch=1) == order(shuffle=False)


def test_grouping_saves_padding() -> None:
    lengths = [(row * 7919) % 400 + 1 for row in range(2000)]

    def padded(group_by_length: bool) -> int:
        sampler = BatchSampler(lengths=lengths, batch_size=8, seed=0, group_by_length=group_by_length)
        return sum(len(batch) * max(lengths[row] for (row,) in batch) for batch in sampler)

    assert padded(True) < 1.03 * sum(lengths)
    assert padded(False) > 1.5 * sum(lengths)


@pytest.mark.parametrize(("batch_size", "rank"), [(0, 0), (2, 1)], ids=["batch-size", "rank"])
def test_impossible_arguments(batch_size: int, rank: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size={batch_size} must be positive, and rank={rank}"):
        BatchSampler(lengths=[1], batch_size=batch_size, seed=0, rank=rank)


def example(*ids: int, masked: int = 0) -> dict[str, list[int]]:
    return {"input_ids": list(ids), "labels": [IGNORE_INDEX] * masked + list(ids[masked:])}


def test_pack_batch_restarts_positions_and_gives_no_target_across_a_border() -> None:
    batch = pack_batch([[example(1, 2, 3), example(4, 5)], [example(6, 7, 8, masked=2)]], pad_token_id=0)
    assert "attention_mask" not in batch
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 0, 1]]
    ignored = IGNORE_INDEX
    assert batch["labels"].tolist() == [[ignored, 2, 3, ignored, 5], [ignored, ignored, 8, ignored, ignored]]
    assert (batch["tokens"], batch["supervised_tokens"]) == (8, 4)


def test_pack_batch_in_one_row_says_where_examples_begin_and_fills_whole_packs() -> None:
    packs = [[example(1, 2, 3), example(4, 5)], [example(6, 7, 8)]]
    batch = pack_batch(packs, pad_token_id=0, one_row=5)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 0, 1]]
    starts = batch["cu_seq_lens_q"]
    assert starts.tolist() == batch["cu_seq_lens_k"].tolist() == [0, 3, 5, 8] + [10] * (BOUNDARIES - 4)
    assert starts.dtype == torch.int32
    assert (batch["max_length_q"], batch["max_length_k"]) == (5, 5)
    assert (batch["tokens"], batch["squared_lengths"], batch["supervised_tokens"]) == (8, 9 + 4 + 9, 5)


@given(
    counts=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=150), min_size=1, max_size=4),
    spare=st.integers(0, 5),
)
def test_one_row_has_few_shapes_and_its_boundaries_cover_it(counts: list[list[int]], spare: int) -> None:
    capacity = max(map(sum, counts)) + spare
    packs = [[example(*range(1, length + 1)) for length in lengths] for lengths in counts]
    batch = pack_batch(packs, pad_token_id=0, one_row=capacity)
    starts, lengths = batch["cu_seq_lens_q"].tolist(), [length for pack in counts for length in pack]
    assert starts[: len(lengths) + 1] == [0, *itertools.accumulate(lengths)]
    assert starts == sorted(starts) and starts[-1] == batch["input_ids"].shape[1]
    assert batch["input_ids"].shape[1] % capacity == 0 and len(starts) % BOUNDARIES == 0
    assert batch["input_ids"].shape[1] - sum(lengths) < capacity == batch["max_length_q"]


@pytest.mark.parametrize("one_row", [None, 8], ids=["rows", "one row"])
def test_supervised_positions_stand_before_each_supervised_token(one_row: int | None) -> None:
    packs = [[example(1, 2, 3, masked=2), example(4, 5)], [example(6, 7, 8, masked=1)]]
    batch = pack_batch(packs, pad_token_id=0, one_row=one_row)
    labels = batch["labels"].flatten()
    targets = labels[batch["supervised_positions"] + 1].tolist()
    assert targets == [3, 5, 7, 8] and batch["supervised_tokens"] == len(targets)


@given(lengths=lengths, batch_size=sizes, world_size=sizes, seed=st.integers(), capacity=st.integers(50, 200))
def test_packed_batches_hold_every_example_once_and_fit(
    lengths: list[int], batch_size: int, world_size: int, seed: int, capacity: int
) -> None:
    sampler = BatchSampler(lengths=lengths, batch_size=batch_size, seed=seed, capacity=capacity)
    batches = list(sampler)
    packs = [pack for batch in batches for pack in batch]
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    assert max(sum(lengths[row] for row in pack) for pack in packs) <= capacity
    assert len(batches) == len(sampler) == -(-len(packs) // batch_size)
    dealt = [
        list(
            BatchSampler(
                lengths=lengths, batch_size=batch_size, seed=seed, capacity=capacity, rank=r, world_size=world_size
            )
        )
        for r in range(world_size)
    ]
    assert in_global_order(dealt)[: len(batches)] == batches  # type: ignore[arg-type, comparison-overlap]


def test_epochs_of_packs_are_as_long_and_composed_anew() -> None:
    sampler = BatchSampler(lengths=[3, 1, 2, 9, 5, 4, 8] * 9, batch_size=2, seed=1, capacity=16)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append([frozenset(pack) for batch in sampler for pack in batch])
    assert len({len(packs) for packs in epochs}) == 1
    assert set(epochs[0]) != set(epochs[1]) != set(epochs[2])


def test_a_mixture_gives_each_task_its_draws() -> None:
    mixture = plan_mixture([10, 30], weights=[3, 1])
    sampler = BatchSampler(lengths=[1] * 40, batch_size=4, seed=0, mixture=mixture)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        rows = [row for batch in sampler for (row,) in batch]
        assert len(sampler) == 10
        assert sum(row < 10 for row in rows) == 30
        assert sum(row >= 10 for row in rows) == 10
