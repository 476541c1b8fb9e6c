"""Which examples share a row: best-fit packing of lengths to a token budget. Knows nothing of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Payload = TypeVar("Payload")

_BAD_LENGTH = "A row has {} tokens; a pack takes rows of 1 to {} tokens."


def pack_best_fit(lengths: Sequence[int] | Rows, capacity: int, *, order: Rows | None = None) -> list[list[int]]:
    """Packs of row numbers: every row in one pack, no pack above `capacity` tokens.

    Best-fit decreasing: from the longest row down, each goes where it leaves the least space. How many packs there are,
    and which lengths meet in each, depends on how often each length occurs and on nothing else; `order` chooses among
    rows of one length. A pack holds its rows longest first.

    Args:
        lengths: Tokens of each row, 1 or more.
        capacity: Tokens that a pack may hold.
        order: A permutation of the row numbers. Of rows of one length, those that stand earlier in it are placed
            first; by default the order of the rows.

    Returns:
        The packs, those that were opened first, with the longest rows, first.

    Raises:
        ValueError: If a row is longer than `capacity` or has no token, or `order` is no permutation of the rows.
    """
    tokens = np.asarray(lengths, dtype=np.int64)
    _check(tokens, capacity)
    rows = np.arange(len(tokens)) if order is None else _permutation(order, len(tokens))
    rows = rows[np.argsort(-tokens[rows], kind="stable")]
    found, counts = np.unique(tokens, return_counts=True)
    pack_of = _assign(found[::-1].tolist(), counts[::-1].tolist(), capacity)
    members = rows[np.argsort(pack_of, kind="stable")].tolist()
    ends = np.cumsum(np.bincount(pack_of)).tolist() if len(pack_of) else []
    return [members[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def packing_efficiency(lengths: Sequence[int] | Rows, packs: Sequence[Sequence[int]], capacity: int) -> float:
    """The share of the packs' capacity that their rows' tokens fill; 1 where there is no pack."""
    if not packs:
        return 1.0
    rows = np.fromiter(chain.from_iterable(packs), dtype=np.int64)
    return float(np.asarray(lengths, dtype=np.int64)[rows].sum() / (len(packs) * capacity))


def pack_window(rows: Iterable[tuple[int, Payload]], capacity: int, *, window: int) -> Iterator[list[Payload]]:
    """Packs of a stream, in which never more than `window` rows wait.

    Whenever the window is full its rows are packed by best fit, and the packs are given out in the order of their
    oldest rows. The emptiest pack waits for better company, but once only: no row waits longer than the next window.
    The packs are a function of the stream, so that a stream that is replayed is packed alike. A window that holds
    fewer tokens than a few packs makes poor packs.

    Args:
        rows: The tokens of each row, and the row.
        capacity: Tokens that a pack may hold.
        window: Rows that may wait.

    Raises:
        ValueError: If `window` is below 1, or a row is longer than `capacity` or has no token.
    """
    if window < 1:
        raise ValueError(f"window={window} must be 1 or more.")
    waiting: list[tuple[int, Payload]] = []
    old = 0  # rows at the head of `waiting` that have waited once already
    for length, payload in rows:
        if not 0 < length <= capacity:
            raise ValueError(_BAD_LENGTH.format(length, capacity))
        waiting.append((length, payload))
        if len(waiting) == window:
            packs = _oldest_first(waiting, capacity)
            emptiest = _emptiest(waiting, packs)
            may_wait = len(packs) > 1 and min(packs[emptiest]) >= old
            held = sorted(packs.pop(emptiest)) if may_wait else []
            yield from ([waiting[row][1] for row in pack] for pack in packs)
            waiting, old = [waiting[row] for row in held], len(held)
    yield from ([waiting[row][1] for row in pack] for pack in _oldest_first(waiting, capacity))


def _assign(lengths: list[int], counts: list[int], capacity: int) -> Rows:
    """The pack of each row, the rows being sorted by length, longest first.

    Packs with equal space are alike, and a pack that takes one row of a length goes on taking rows of that length
    while they fit, for it is then the fullest of all. So whole groups of packs move from one space to a smaller one at
    once: there are at most `capacity` spaces, whatever the number of rows. The spaces in use are the bits of an
    integer, in which the smallest one that is large enough is the lowest bit set.

    Args:
        lengths: The different lengths, longest first.
        counts: How many rows have each.
        capacity: Tokens that a pack may hold.
    """
    by_space: dict[int, list[range]] = {}  # packs with this much space left, as stretches of pack numbers
    spaces = 0
    packs = 0
    takers: list[tuple[range, int]] = []  # packs, and how many rows each of them takes, in the order of the rows
    for length, count in zip(lengths, counts, strict=True):
        while count:
            fitting = spaces >> length
            if fitting:
                space = length + (fitting & -fitting).bit_length() - 1
                group = by_space[space].pop()
                if not by_space[space]:
                    spaces ^= 1 << space
            else:
                space = capacity
                group = range(packs, packs - (-count // (capacity // length)))
                packs = group.stop
            each = min(space // length, count)
            taken, rest = group[: count // each], group[count // each :]
            takers.append((taken, each))
            count -= len(taken) * each
            for stretch, left in ((rest, space), (taken, space - each * length)):
                if stretch and left:
                    by_space.setdefault(left, []).append(stretch)
                    spaces |= 1 << left
    if not takers:
        return np.empty(0, dtype=np.int64)
    numbers = np.fromiter(chain.from_iterable(taken for taken, _ in takers), dtype=np.int64)
    each_takes = np.repeat([each for _, each in takers], [len(taken) for taken, _ in takers])
    return np.repeat(numbers, each_takes)


def _oldest_first(waiting: list[tuple[int, Payload]], capacity: int) -> list[list[int]]:
    packs = pack_best_fit([length for length, _ in waiting], capacity)
    return sorted(packs, key=min)


def _emptiest(waiting: list[tuple[int, Payload]], packs: list[list[int]]) -> int:
    """Which pack holds the fewest tokens; of several, the one with the youngest rows."""
    return min(range(len(packs)), key=lambda index: (sum(waiting[row][0] for row in packs[index]), -index))


def _check(tokens: Rows, capacity: int) -> None:
    if capacity < 1:
        raise ValueError(f"capacity={capacity} must be 1 or more.")
    bad = np.flatnonzero((tokens < 1) | (tokens > capacity))
    if len(bad):
        raise ValueError(_BAD_LENGTH.format(tokens[bad[0]], capacity))


def _permutation(order: Rows, rows: int) -> Rows:
    order = np.asarray(order, dtype=np.int64)
    if len(order) != rows or not np.array_equal(np.sort(order), np.arange(rows)):
        raise ValueError(f"order must be a permutation of the {rows} row numbers.")
    return order
