"""Tokenizers are read without running code of theirs, and without names that lead out of their folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ftframe.errors import ConfigError
from ftframe.models.weight_files import is_plain_name

TOKENIZER_CONFIG = "tokenizer_config.json"


def read_tokenizer(path: str, *, trust_remote_code: bool, revision: str | None = None) -> Any:
    """A tokenizer from a folder or a hub.

    Args:
        path: The folder, or the id of a repository.
        trust_remote_code: Whether code that comes with it may run; what the user has typed, and nothing else.
        revision: Of the repository.

    Raises:
        ConfigError: If it needs code that is not trusted, or one of its files or templates is named after a place
            outside its folder.
        OSError: If there is none.
        ValueError: If it is damaged.
    """
    config = Path(path) / TOKENIZER_CONFIG
    if config.is_file():
        _refuse_places(json.loads(config.read_text(encoding="utf-8")), config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except ValueError as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise ConfigError(code_refused(path)) from error
        raise
    templates = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    for name in templates:
        if not is_plain_name(name):  # the name becomes a file's when the tokenizer is saved
            raise ConfigError(f"The tokenizer in {path} has a chat template of the name {name!r}, which is refused.")
    return tokenizer


def code_refused(path: str) -> str:
    """The message for a model or tokenizer that cannot be had without running its code."""
    return (
        f"{path} needs Python code that comes with it (`auto_map`), and code is not run because a model brings it. "
        "Read it, and if you trust it, say so: model.trust_remote_code=true, or trust_remote_code=true base=... for "
        "ftframe evaluate and predict."
    )


def _refuse_places(content: Any, config: Path) -> None:
    """Refuse files that are looked for outside of the folder.

    Releases of transformers before 5.23 open what stands there.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{config} is damaged: it is no JSON object.")
    for name in ("vocab_file", "merges_file", "tokenizer_file", "spm_file"):
        value = content.get(name)
        if isinstance(value, str) and not is_plain_name(value):
            raise ConfigError(
                f"{config} has {name}={value!r}: files outside of the folder are not read. Remove the key."
            )
