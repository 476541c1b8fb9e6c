"""Fixtures that every floor's tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Machines that run tests are shared: a slow draw says nothing about the code.
settings.register_profile("ftframe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ftframe")

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tokenised data of the tests, and of the commands that they start, is kept apart from the user's."""
    os.environ["FTFRAME_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real input data, which is not part of the project."""
    folder = Path(os.environ.get("FTFRAME_SHARED_DATA", CHECKOUT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder; set FTFRAME_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def llama2_folder(shared_data: Path) -> Path:
    """The real Llama 2 tokenizer's files."""
    return shared_data / "llama2_tokenizer"


@pytest.fixture(scope="session")
def llama2_tokenizer(llama2_folder: Path) -> Any:
    """The real Llama 2 tokenizer. Tests that change it load their own."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(llama2_folder)
