import json
import random
from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftframe.data.packing import pack_best_fit, pack_window, packing_efficiency

CAPACITY = 40
LENGTHS = st.lists(st.integers(1, CAPACITY), max_size=80)


def bins_needed(lengths, capacity):
    """Best-fit decreasing row by row, as the textbooks have it."""
    spaces = []
    for length in sorted(lengths, reverse=True):
        fitting = [space for space in spaces if space >= length]
        if fitting:
            spaces.remove(min(fitting))
            spaces.append(min(fitting) - length)
        else:
            spaces.append(capacity - length)
    return len(spaces)


def filled(lengths, packs):
    return [sum(lengths[row] for row in pack) for pack in packs]


@given(LENGTHS)
def test_each_row_once_and_no_pack_too_full(lengths):
    packs = pack_best_fit(lengths, CAPACITY)
    assert sorted(chain.from_iterable(packs)) == list(range(len(lengths)))
    assert all(packs)
    assert max(filled(lengths, packs), default=0) <= CAPACITY


@given(LENGTHS)
def test_packs_exactly_as_the_textbook_does(lengths):
    packs = pack_best_fit(lengths, CAPACITY)
    assert len(packs) == bins_needed(lengths, CAPACITY)
    # Rows over half of the capacity need a pack each, so this bounds the best possible number from below.
    at_least = max(-(-sum(lengths) // CAPACITY), sum(2 * length > CAPACITY for length in lengths))
    assert at_least <= len(packs)


@given(st.lists(st.integers(1, 10), max_size=7))
def test_near_the_best_possible(lengths):
    """Best-fit decreasing stays within 11/9 of the best packing, plus 6/9 of a pack."""

    def fits(rows, spaces):
        if not rows:
            return True
        return any(
            fits(rows[1:], [*spaces[:i], space - rows[0], *spaces[i + 1 :]])
            for i, space in enumerate(spaces)
            if space >= rows[0]
        )

    best = next(number for number in range(len(lengths) + 1) if fits(sorted(lengths, reverse=True), [10] * number))
    assert len(pack_best_fit(lengths, 10)) <= 11 / 9 * best + 6 / 9


@given(LENGTHS, st.randoms(use_true_random=False))
def test_order_changes_who_meets_and_nothing_else(lengths, rng):
    plain = pack_best_fit(lengths, CAPACITY)
    order = np.array(rng.sample(range(len(lengths)), len(lengths)), dtype=np.int64)
    packs = pack_best_fit(lengths, CAPACITY, order=order)
    as_lengths = [[[lengths[row] for row in pack] for pack in found] for found in (plain, packs)]
    assert as_lengths[0] == as_lengths[1]
    assert packs == pack_best_fit(lengths, CAPACITY, order=order)
    # The same rows in another order on disk: as many packs.
    assert len(pack_best_fit([lengths[row] for row in order], CAPACITY)) == len(plain)


def test_epochs_differ_in_composition():
    lengths = [random.Random(0).randint(1, 200) for _ in range(1000)]
    epochs = [pack_best_fit(lengths, 512, order=np.random.default_rng(seed).permutation(1000)) for seed in range(2)]
    together = [{frozenset(pack) for pack in packs} for packs in epochs]
    assert len(together[0] & together[1]) < len(epochs[0]) / 10


def test_rows_of_one_length_go_in_the_given_order():
    order = np.random.default_rng(0).permutation(1000)
    packs = pack_best_fit([6, 4] * 500, 10, order=order)  # even rows are the long ones
    assert packs == np.stack([order[order % 2 == 0], order[order % 2 == 1]], axis=1).tolist()


@pytest.mark.parametrize(
    ("lengths", "packs"),
    [
        ([], []),
        ([10], [[0]]),
        ([5, 5, 5], [[0, 1], [2]]),
        ([7, 6, 4, 3], [[0, 3], [1, 2]]),
        ([1] * 21, [list(range(10)), list(range(10, 20)), [20]]),
        # The 4 goes beside the 6, where it leaves nothing, and not beside the 5, which was the last one opened.
        ([6, 5, 4], [[0, 2], [1]]),
    ],
    ids=["nothing", "exactly full", "remainder", "pairs", "many alike", "tightest"],
)
def test_worked_examples(lengths, packs):
    assert pack_best_fit(lengths, 10) == packs


@pytest.mark.parametrize(
    ("lengths", "capacity", "order", "message"),
    [
        ([3, 11], 10, None, "A row has 11 tokens; a pack takes rows of 1 to 10"),
        ([3, 0], 10, None, "A row has 0 tokens"),
        ([3], 0, None, "capacity=0"),
        ([3, 4], 10, [0, 0], "permutation of the 2 row numbers"),
        ([3, 4], 10, [0], "permutation of the 2 row numbers"),
    ],
    ids=["too long", "empty", "no capacity", "order repeats", "order too short"],
)
def test_refused(lengths, capacity, order, message):
    with pytest.raises(ValueError, match=message):
        pack_best_fit(lengths, capacity, order=order)


def test_efficiency():
    assert packing_efficiency([6, 4, 5], [[0, 1], [2]], 10) == 0.75
    assert packing_efficiency([], [], 10) == 1.0


def test_gsm8k_is_packed_to_99_percent(shared_data, llama2_tokenizer):
    rows = [json.loads(line) for file in sorted((shared_data / "gsm8k").glob("*train*.jsonl")) for line in file.open()]
    texts = [f"{row['question']}\n{row['answer']}" for row in rows]
    assert len(texts) == 7473
    lengths = [len(ids) for ids in llama2_tokenizer(texts)["input_ids"]]
    packs = pack_best_fit(lengths, 2048)
    assert packing_efficiency(lengths, packs, 2048) >= 0.99
    streamed = list(pack_window(zip(lengths, range(len(lengths)), strict=True), 2048, window=512))
    assert packing_efficiency(lengths, streamed, 2048) >= 0.97


@given(LENGTHS, st.integers(1, 30))
def test_window_gives_each_row_once(lengths, window):
    packs = list(pack_window(zip(lengths, range(len(lengths)), strict=True), CAPACITY, window=window))
    assert sorted(chain.from_iterable(packs)) == list(range(len(lengths)))
    assert all(packs)
    assert max(filled(lengths, packs), default=0) <= CAPACITY
    assert packs == list(pack_window(zip(lengths, range(len(lengths)), strict=True), CAPACITY, window=window))


@given(st.lists(st.integers(1, CAPACITY), min_size=1, max_size=200), st.integers(1, 20))
def test_window_bounds_what_waits_and_how_long(lengths, window):
    read = 0

    def stream():
        nonlocal read
        for row, length in enumerate(lengths):
            read += 1
            yield length, row

    given_out = 0
    for pack in pack_window(stream(), CAPACITY, window=window):
        assert read - given_out <= window
        assert read - min(pack) <= 2 * window
        given_out += len(pack)


def test_window_keeps_the_emptiest_pack_for_better_company():
    assert list(pack_window([(6, "a"), (6, "b"), (4, "c"), (4, "d")], 10, window=3)) == [["a", "c"], ["b", "d"]]


def test_window_lets_a_row_without_company_go():
    rows = [(3, "lonely"), *((10, "full") for _ in range(8))]
    assert [pack[0] for pack in pack_window(rows, 10, window=3)].index("lonely") == 2


def test_window_reads_an_endless_stream():
    def endless():
        rng = random.Random(1)
        while True:
            length = rng.randint(1, CAPACITY)
            yield length, length

    packs = list(islice(pack_window(endless(), CAPACITY, window=64), 500))
    assert sum(map(sum, packs)) / (500 * CAPACITY) > 0.9


@pytest.mark.parametrize(("window", "length"), [(0, 3), (4, 0), (4, 41)], ids=["no window", "empty", "too long"])
def test_window_refused(window, length):
    with pytest.raises(ValueError, match=r"window=0|A row has"):
        list(pack_window([(length, "row")], CAPACITY, window=window))
