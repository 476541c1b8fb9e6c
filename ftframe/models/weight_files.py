"""The safetensors files of a model, in a folder or on a hub; a pickle, which runs code when it is loaded, is refused.

safetensors hold numbers only. Their names come from a JSON index that whoever made the model has written, so a name
that leaves the model's folder is refused too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from ftframe.errors import ConfigError

ADAPTER_CONFIG = "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz")
"""Ends of the names of files that are pickles, or may hold some."""


def weight_files(path: str, *, revision: str | None = None, key: str = "model.path") -> list[Path]:
    """The files that transformers would read a model's weights from; those of a hub are downloaded if they must be.

    Args:
        path: A folder, or the id of a repository on a hub.
        revision: Of the repository.
        key: The config's key that says so, for messages.

    Raises:
        ConfigError: If there are none, or only pickles, the index names a file elsewhere, or the folder is an adapter,
            under which transformers would load the model that the adapter names.
    """
    if _find(path, ADAPTER_CONFIG, revision) is not None:
        raise ConfigError(
            f"{key}={path} holds an {ADAPTER_CONFIG}: it is an adapter, or has one inside, which would be loaded "
            "without being asked for. Give a base model; ftframe evaluate and predict take an adapter by run=..."
        )
    whole = _find(path, SAFE_WEIGHTS_NAME, revision)
    if whole is not None:
        return [whole]
    index = _find(path, SAFE_WEIGHTS_INDEX_NAME, revision)
    if index is None:
        raise ConfigError(_no_weights(path, key))
    found = {name: _find(path, name, revision) for name in shards(index)}
    missing = [name for name, file in found.items() if file is None]
    if missing:
        raise ConfigError(f"{key}={path} lacks {missing[0]}, which its {index.name} names.")
    return [file for file in found.values() if file is not None]


def shards(index: Path) -> list[str]:
    """The names in a `model.safetensors.index.json`, in order.

    Raises:
        ConfigError: If it is damaged, or names anything but safetensors files beside it.
    """
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{index} is damaged: {type(error).__name__}: {error}") from error
    for name in names:
        if not is_plain_name(name) or not name.endswith(".safetensors"):
            raise ConfigError(f"{index} names {name!r}: only safetensors files beside it are read.")
    return names


def is_plain_name(name: object) -> bool:
    """Whether a name stands for something directly inside of a folder, and cannot lead out of it."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0:")


def refuse_pickles(folder: Path) -> None:
    """Refuse a folder with a file that is a pickle by its name.

    Raises:
        ConfigError: If there is one.
    """
    found = pickles(folder.rglob("*"))
    if found:
        raise ConfigError(
            f"{found[0]} is a pickle, which can run code when it is loaded, so it is not: ftframe writes and reads "
            "safetensors only. Remove it if it is not needed; if it is, do not use this folder."
        )


def pickles(files: Iterable[Path]) -> list[Path]:
    """The files that are pickles by their name, in order."""
    return sorted(file for file in files if file.suffix.lower() in PICKLES and not file.is_dir())


def _find(path: str, name: str, revision: str | None) -> Path | None:
    """A file of the model; None where there is none, or the hub cannot be reached and it is not in the cache."""
    if Path(path).is_dir():
        file = Path(path) / name
        return file if file.is_file() else None
    found = cached_file(
        path,
        name,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found is not None else None


def _no_weights(path: str, key: str) -> str:
    found = pickles(Path(path).iterdir()) if Path(path).is_dir() else []
    if not found:
        return (
            f"{key}={path} holds no {SAFE_WEIGHTS_NAME} and no {SAFE_WEIGHTS_INDEX_NAME}, or the hub cannot be "
            "reached. Other formats are not read."
        )
    return (
        f"{key}={path} holds {found[0].name} and no safetensors. It is a pickle, which can run code when it is loaded, "
        "so it is not. Use a copy, or a revision, that has safetensors; if you trust it, convert it: python -c "
        '"from transformers import AutoModelForCausalLM as M; '
        f"M.from_pretrained('{path}').save_pretrained('NEW_FOLDER')\""
    )
