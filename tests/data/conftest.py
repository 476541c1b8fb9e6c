"""Tokenizers that have the markers of the known chat formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

EMBEDDED = Path(__file__).parents[2] / "ftframe" / "embedded" / "tiny"
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
