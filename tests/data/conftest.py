"""Tokenizers with the markers of the known chat formats, and files with rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EMBEDDED = Path(__file__).parents[2] / "ftframe" / "embedded" / "tiny"
Write = Callable[[str, object], str]
MARKERS = [
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>",
    "<end_of_turn>", "<|end|>", "<think>", "</think>",
]  # fmt: skip


@pytest.fixture(scope="session", params=["llama2", "embedded"])
def chat_tokenizer_as_loaded(request: pytest.FixtureRequest) -> Any:
    """The real Llama 2 tokenizer, which is SentencePiece's, and the embedded one, with markers."""
    from transformers import AutoTokenizer

    folder = EMBEDDED if request.param == "embedded" else request.getfixturevalue("llama2_folder")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(MARKERS, special_tokens=True)
    return tokenizer


@pytest.fixture
def chat_tokenizer(chat_tokenizer_as_loaded: Any) -> Any:
    """The tokenizer without a chat template, for a test that gives it one."""
    chat_tokenizer_as_loaded.chat_template = None
    return chat_tokenizer_as_loaded


@pytest.fixture(scope="session")
def chat_templates() -> dict[str, str]:
    """Jinja texts in the style of known models, by name."""
    folder = Path(__file__).parent / "chat_templates"
    return {path.stem: path.read_text("utf-8") for path in folder.glob("*.jinja")}


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
