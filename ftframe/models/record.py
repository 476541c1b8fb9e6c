"""`ftframe.json`: how to use an artifact. Names and numbers only, checked before anything is done with them."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import BitsAndBytesConfig

from ftframe.errors import ConfigError
from ftframe.models.base import BaseSpec
from ftframe.models.fp8 import Fp8Config
from ftframe.models.precision import DTYPES
from ftframe.models.quantisation import means_fp8

RECORD = "ftframe.json"
FORMAT = 1
KINDS = ("adapter", "model")


@dataclass(frozen=True, slots=True)
class Record:
    """How to use an artifact.

    Attributes:
        kind: `adapter`, or `model` after full fine-tuning.
        base: Fields of `BaseSpec`.
        dtype: Type of the base's weights while it was trained.
        quant: Arguments of `BitsAndBytesConfig` or `Fp8Config`, or None.
        template: Name and arguments of the prompt template.
        stop_token_ids: Tokens that end an answer.
        max_new_tokens: Longest answer that was asked for in the run.
        tasks: The prompt template of each task, where tasks have their own.
        template_sha256: Hash of the prompt template, its source included; empty where it was not recorded.
        base_fingerprint: As `fingerprint_base` gives it; empty where it was not recorded.
        files: The sha256 of each file beside this one that a loader may read; empty where it was not recorded.
    """

    kind: str
    base: Mapping[str, Any]
    dtype: str
    quant: Mapping[str, Any] | None
    template: Mapping[str, Any]
    stop_token_ids: list[int] = field(default_factory=list)
    max_new_tokens: int = 128
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    template_sha256: str = ""
    base_fingerprint: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def base_spec(self, *, path: str | None, trust_remote_code: bool) -> BaseSpec:
        """The base model to load; trust is never taken from a file.

        Args:
            path: Where the base model is, if not where it was in training.
            trust_remote_code: Whether the user trusts the code of that base.

        Raises:
            ConfigError: If code is trusted and the user has not said whose: an adapter names any base it likes.
        """
        if trust_remote_code and path is None and self.kind == "adapter":
            raise ConfigError(
                f"trust_remote_code=true: the adapter names the base {self.base['path']}, and code is not run because "
                f"an artifact names it. If you trust that model, say so: base={self.base['path']}"
            )
        changed = {"path": path or self.base["path"], "trust_remote_code": trust_remote_code}
        if not re.fullmatch(r"\w+", self.base.get("attn_implementation", "sdpa")):
            changed["attn_implementation"] = "sdpa"  # the others are kernels on a hub, which are code
        return BaseSpec(**{**self.base, **changed})


def write_record(record: Record, folder: Path) -> None:
    """Put the record beside the weights."""
    content = {"format": FORMAT, **asdict(record)}
    content["base"] = {k: v for k, v in content["base"].items() if k != "trust_remote_code"}
    content["sha256"] = _sha256(content)
    (folder / RECORD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> Record:
    """The record beside the weights.

    Raises:
        ConfigError: If there is none, it is not one that this version writes, or it has changed since it was written.
    """
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("format")
        if version != FORMAT:
            raise ConfigError(f"{path} has format {version}; this version of ftframe reads format {FORMAT}.")
        stated = content.pop("sha256", None)
        if stated not in (None, _sha256({"format": version, **content})):
            raise ConfigError(f"{path} is damaged, or was changed: it is not what its own sha256 says. Get it again.")
        record = Record(**content)
    except OSError as error:
        raise ConfigError(f"{folder} holds no {RECORD}, so it was not written by ftframe.") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    for name, holds in _CHECKS.items():
        if not holds(getattr(record, name)):
            raise ConfigError(f"{path} is damaged: {name}={getattr(record, name)!r} is nothing that ftframe writes.")
    return record


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_template(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("name"), str) and _is_plain(value)


def _is_plain(value: Any) -> bool:
    """Whether a value is one that JSON holds, without `_target_` and the like, which some libraries build."""
    if isinstance(value, Mapping):
        return not any(str(key).startswith("_") for key in value) and all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool))


def _is_base(value: Any) -> bool:
    names = {entry.name for entry in fields(BaseSpec)} - {"trust_remote_code"}
    if not isinstance(value, Mapping) or not {"path"} <= value.keys() <= names:
        return False
    texts = ("path", "init", "attn_implementation")
    optional = ("tokenizer", "revision")
    return (
        all(isinstance(value.get(name, ""), str) for name in texts)
        and all(isinstance(value.get(name), (str, type(None))) for name in optional)
        and value.get("init", "pretrained") in ("pretrained", "random")
        and isinstance(value.get("config", {}), Mapping)
        and _is_plain(value.get("config", {}))
        and isinstance(value.get("seed", 0), int)
    )


def _is_quant(value: Any) -> bool:
    config = Fp8Config if means_fp8(value) else BitsAndBytesConfig
    names = set(inspect.signature(config.__init__).parameters) - {"self", "kwargs"}
    types = {*DTYPES, "uint8", "int8", None}
    return value is None or (
        isinstance(value, Mapping)
        and value.keys() <= names
        and all(not isinstance(option, Mapping) and _is_plain(option) for option in value.values())
        # the library looks such a name up in torch
        and all(value.get(name) in types for name in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"))
    )


def _is_relative(name: str) -> bool:
    parts = name.split("/")
    return not set(name) & set("\\\0:") and not any(part in ("", ".", "..") for part in parts)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "kind": lambda kind: kind in KINDS,
    "base": _is_base,
    "dtype": lambda name: isinstance(name, str) and name in DTYPES,
    "quant": _is_quant,
    "template": _is_template,
    "stop_token_ids": lambda ids: isinstance(ids, list) and all(type(token) is int for token in ids),
    "max_new_tokens": lambda number: type(number) is int and number > 0,
    "tasks": lambda tasks: isinstance(tasks, Mapping) and all(map(_is_template, tasks.values())),
    "template_sha256": lambda digest: isinstance(digest, str),
    "base_fingerprint": lambda digest: isinstance(digest, str),
    "files": lambda files: (
        isinstance(files, Mapping) and all(_is_relative(k) and isinstance(v, str) for k, v in files.items())
    ),
}
