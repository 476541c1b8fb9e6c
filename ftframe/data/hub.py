"""Datasets of the Hugging Face hub, and local tables in the formats that the `datasets` library reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftframe.data.files import PATH_KEY, NumberedRow, check_limit, existing_file, read_json_lines
from ftframe.errors import DataError

LOADERS = {".json": "json", ".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}
"""File suffixes, and the loader of the `datasets` library that reads them."""

JSON_LINES = (".jsonl", ".ndjson")


def load_rows(path: str, *, split: str, key: str = PATH_KEY, limit: int | None = None) -> list[NumberedRow]:
    """The rows of a local file or folder, or else of a dataset on the hub.

    Args:
        path: A file, a folder, or a hub id such as `owner/name`.
        split: The split to take from a folder or the hub.
        key: The key that gives the path, for messages.
        limit: The most rows to read.

    Raises:
        ConfigError: If the path can only be a file, and there is none; or `limit` is not positive.
        DataError: If the rows cannot be read, or there are none.
    """
    check_limit(limit)
    file = Path(path).expanduser()
    if file.suffix in JSON_LINES and not file.is_dir():
        return read_json_lines(path, key=key, limit=limit)
    if file.suffix in LOADERS and not file.is_dir():
        existing_file(path, key=key)
        table = load_table(LOADERS[file.suffix], data_files=str(file), split="train", tried=f"{key}={path}")
    elif file.exists() or not looks_like_hub_id(path):
        if not file.is_dir():
            existing_file(path, key=key)
            known = ", ".join([*LOADERS, *JSON_LINES])
            raise DataError(f"{key}={path}: unknown kind of file '{file.suffix}'. Known: {known}.")
        table = load_table(str(file), split=split, tried=f"{key}={path}, split '{split}'")
    else:
        tried = f"{key}={path} is no local file or folder, and the Hugging Face hub was tried (split '{split}')"
        table = load_table(path, split=split, tried=tried)
    rows = table if limit is None else table.select(range(min(limit, len(table))))
    if len(rows) == 0:
        raise DataError(f"{key}={path}: it holds no rows.")
    return [NumberedRow(f"{path}, row {number}", row) for number, row in enumerate(rows, start=1)]


def load_table(name: str, *, split: str, tried: str, data_files: str | None = None) -> Any:
    """One split of a dataset as the `datasets` library loads it.

    Raises:
        DataError: If that fails.
    """
    import datasets

    try:
        return datasets.load_dataset(name, data_files=data_files, split=split)
    except Exception as error:  # parsers and the hub's client raise their own kinds
        # The library wraps a parser's error in one that says only that something failed.
        cause = error.__cause__ or error
        raise DataError(
            f"{tried}: {type(cause).__name__}: {cause}\n"
            f"{PATH_KEY} may be a hub id that this machine can reach, a local file (JSON Lines, JSON, Parquet, CSV) or "
            "a folder of such files; data.dataset.split names the split."
        ) from error


def looks_like_hub_id(path: str) -> bool:
    """Whether a path can be `name` or `owner/name` rather than a local path."""
    return path.count("/") <= 1 and not path.startswith((".", "/", "~")) and "\\" not in path
