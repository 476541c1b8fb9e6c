"""Tokenised conversations in flat arrays: five bytes a token, and quick to write and to map back into memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ftframe.api import IGNORE_INDEX

Example = Mapping[str, Any]
"""`input_ids` and `labels` of one conversation, each [length]."""


@dataclass(frozen=True, eq=False)
class Examples(Sequence[Example]):
    """A sequence of examples over arrays that hold all of their tokens one behind the other.

    Attributes:
        input_ids: Token ids, [tokens], int32.
        supervised: Whether the loss counts the token, [tokens], bool.
        starts: Where each example begins, and the end of the last one, [examples + 1], int64.
        rows: The row that each example comes from, counted from 1, [examples], int64; a document may give several.
    """

    input_ids: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]

    @classmethod
    def concatenate(cls, parts: Iterable[Examples]) -> Examples:
        """The examples of all parts, in order."""
        parts = [part for part in parts if len(part)]
        if len(parts) == 1:
            return parts[0]  # still mapped into memory and not read
        parts.append(EMPTY)
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(
            np.concatenate([part.input_ids for part in parts]),
            np.concatenate([part.supervised for part in parts]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.concatenate([part.rows for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        """One example; labels are `IGNORE_INDEX` where no loss is wanted."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        span = slice(self.starts[index], self.starts[index + 1])
        input_ids = self.input_ids[span].astype(np.int64)  # a copy: what is mapped into memory cannot be written to
        return {"input_ids": input_ids, "labels": np.where(self.supervised[span], input_ids, IGNORE_INDEX)}

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example, [examples]."""
        return np.diff(self.starts)

    @cached_property
    def targets(self) -> npt.NDArray[np.int64]:
        """Tokens of each example that the loss counts, [examples]; an example's first token is none."""
        counted = self.supervised.copy()
        counted[self.starts[:-1][self.lengths > 0]] = False
        sums = np.concatenate([[0], np.cumsum(counted)])
        return np.asarray(sums[self.starts[1:]] - sums[self.starts[:-1]])

    def save(self, folder: Path) -> None:
        """Write one `.npy` file for each array."""
        for name in ("input_ids", "supervised", "starts", "rows"):
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path) -> Examples:
        """The examples in a folder, mapped into memory and not read.

        Raises:
            OSError: If a file is missing or cannot be read.
            EOFError: If a file is empty.
            ValueError: If a file is damaged.
        """
        names = ("input_ids", "supervised", "starts", "rows")
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))


EMPTY = Examples(np.zeros(0, np.int32), np.zeros(0, np.bool_), np.zeros(1, np.int64), np.zeros(0, np.int64))


def examples_of(items: Iterable[Example]) -> Examples:
    """The given examples in flat arrays; `rows` counts them."""
    kept = [(np.asarray(i["input_ids"], np.int32), np.asarray(i["labels"]) != IGNORE_INDEX) for i in items]
    starts = np.cumsum([0, *(len(input_ids) for input_ids, _ in kept)])
    return Examples(
        np.concatenate([EMPTY.input_ids, *(input_ids for input_ids, _ in kept)]),
        np.concatenate([EMPTY.supervised, *(supervised for _, supervised in kept)]),
        starts.astype(np.int64),
        np.arange(1, len(kept) + 1),
    )
