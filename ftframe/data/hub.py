"""Rows that the `datasets` library reads: Parquet, Arrow, and the datasets of the Hugging Face hub."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ftframe.data.files import File, RawRow
from ftframe.errors import DataError


def table_rows(file: File) -> Iterator[RawRow]:
    """The rows of a Parquet or Arrow file, without a copy of it in the library's cache.

    Raises:
        DataError: If it cannot be read.
    """
    loader = file.path.suffix.removeprefix(".")
    # The library takes a path for a pattern.
    pattern = glob.escape(str(file.path))
    try:
        table = load_dataset(loader, data_files=pattern, split="train", streaming=True)
        for number, row in enumerate(table, start=1):
            yield RawRow(f"{file.name}, row {number}", row)
    except Exception as error:  # the library's readers raise their own kinds
        raise DataError(f"{file.label}: the file cannot be read: {cause_of(error)}") from error


@dataclass(frozen=True)
class HubRows:
    """The rows of one split of a dataset on the hub; may be iterated again."""

    table: Any
    name: str
    label: str

    def __iter__(self) -> Iterator[RawRow]:
        """Start at the first row.

        Raises:
            DataError: If the hub breaks off.
        """
        try:
            for number, row in enumerate(self.table, start=1):
                yield RawRow(f"{self.name}, row {number}", row)
        except Exception as error:  # the hub's client raises its own kinds
            raise DataError(f"{self.label}: {cause_of(error)}") from error


def hub_rows(
    path: str, *, split: str, key: str, revision: str | None = None, subset: str | None = None, streaming: bool = False
) -> HubRows:
    """One split of a dataset on the hub.

    Args:
        path: `owner/name`.
        split: The split's name.
        key: The config key that gives the path, for messages.
        revision: Branch, tag or commit.
        subset: The name of one of the dataset's configurations.
        streaming: Whether rows are fetched as they are needed.

    Raises:
        DataError: If the hub cannot be reached or has no such dataset.
    """
    label = f"{key}={path} is no local file or folder, and the Hugging Face hub was tried (split '{split}')"
    try:
        table = load_dataset(path, subset, split=split, revision=revision, streaming=streaming)
    except Exception as error:  # parsers and the hub's client raise their own kinds
        raise DataError(
            f"{label}: {cause_of(error)}\n"
            f"{key} may be a hub id that this machine can reach, a local file or a folder of files; the key split "
            "names the split, subset the dataset's configuration."
        ) from error
    return HubRows(table, path if split == "train" else f"{path}, {split}", label)


def load_dataset(*arguments: Any, **keywords: Any) -> Any:
    """What the library loads; it takes a second to import."""
    import datasets

    return datasets.load_dataset(*arguments, **keywords)


def cause_of(error: Exception) -> str:
    """The parser's error, which the library wraps in one that says only that something failed."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


def looks_like_hub_id(path: str) -> bool:
    """Whether a path can be `name` or `owner/name` rather than a local path."""
    return path.count("/") <= 1 and not path.startswith((".", "/", "~")) and "\\" not in path
