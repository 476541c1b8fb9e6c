from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftframe.api import IGNORE_INDEX
from ftframe.data.examples import EMPTY, Example, Examples, examples_of

tokens = st.lists(st.tuples(st.integers(0, 40_000), st.booleans()), max_size=8)


def plain(examples: Examples) -> list[dict[str, list[int]]]:
    return [{name: values.tolist() for name, values in example.items()} for example in examples]


def given_back(items: list[list[tuple[int, bool]]]) -> list[dict[str, list[int]]]:
    return [
        {"input_ids": [i for i, _ in item], "labels": [i if learnt else IGNORE_INDEX for i, learnt in item]}
        for item in items
    ]


@given(items=st.lists(tokens, max_size=8))
def test_what_goes_in_comes_out(items: list[list[tuple[int, bool]]]) -> None:
    expected = given_back(items)
    examples = examples_of(expected)
    assert plain(examples) == expected
    assert examples.lengths.tolist() == [len(item) for item in items]
    assert examples.targets.tolist() == [sum(learnt for _, learnt in item[1:]) for item in items]


def test_parts_are_concatenated_in_order(tmp_path: Path) -> None:
    parts = [examples_of(given_back([[(i, True), (i, False)], [(i + 1, True)]])) for i in (1, 5)]
    whole = Examples.concatenate([parts[0], EMPTY, parts[1]])
    assert plain(whole) == plain(parts[0]) + plain(parts[1])
    assert whole.rows.tolist() == [1, 2, 1, 2]
    assert Examples.concatenate([EMPTY, parts[1]]) is parts[1]
    assert len(Examples.concatenate([])) == 0


def test_saved_and_mapped_back(tmp_path: Path) -> None:
    examples = examples_of(given_back([[(1, False), (2, True)], [], [(3, True)]]))
    examples.save(tmp_path)
    loaded = Examples.load(tmp_path)
    assert plain(loaded) == plain(examples)
    assert isinstance(loaded.input_ids, np.memmap)
    assert loaded.input_ids.dtype == np.int32


@pytest.mark.parametrize("index", [2, -3, 99])
def test_an_index_out_of_range(index: int) -> None:
    examples = examples_of(given_back([[(1, True)], [(2, True)]]))
    with pytest.raises(IndexError):
        examples[index]


def test_slices_and_negative_indices() -> None:
    examples: list[Example] = list(examples_of(given_back([[(i, True)] for i in range(4)]))[1:3])
    assert [example["input_ids"].tolist() for example in examples] == [[1], [2]]
    assert examples_of(given_back([[(7, True)], [(8, True)]]))[-1]["input_ids"].tolist() == [8]
