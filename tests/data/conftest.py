"""What the tests of sources share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[[str, object], str]


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Relative paths start at the test's folder; nothing is cached outside of it, and no hub is asked."""
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.fixture
def write(own_folder: Path) -> Write:
    """Writes rows by the file's suffix, or text or bytes as they are, and gives the path."""
    return write_rows


def write_rows(name: str, content: object) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list) and path.suffix in (".parquet", ".arrow"):
        write_table(path, content)
    elif isinstance(content, list) and path.suffix == ".json":
        path.write_text(json.dumps(content))
    elif isinstance(content, list):
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    return name


def write_table(path: Path, rows: list[dict[str, object]]) -> None:
    import pyarrow as pa
    from pyarrow import ipc, parquet

    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
        return
    with path.open("wb") as file, ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
