"""Secrets out of what a run writes down: by the name of the key, by the shape of the value, and by the value itself.

A value is secret if it stands under a key such as `api_key` or in an environment variable such as `HF_TOKEN`, or looks
like a token. Wherever else the same value turns up, in the config, the log or a message, it is left out as well.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

REDACTED = "<redacted>"

SHORTEST = 6
"""Characters of the shortest value that is looked for elsewhere: a shorter one would take words apart."""

_NAME = (
    r"(?:[\w.-]*[_.-])?"
    r"(?:api[_-]?key|access[_-]?key|private[_-]?key|password|passwd|passphrase|secret|secret[_-]?key|credentials?|authorization|token)"
)
_NO_SECRET = r"(?!(?:[\w.-]*\.)?(?:bos|eos|pad|unk|sep|cls|mask)_token\b)"
"""Tokens of a tokenizer, which are text."""
_KEY = re.compile(_NO_SECRET + _NAME, re.IGNORECASE)
_VALUE = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\[[^\]]*\]|\{[^}]*\}|[^\s,;&}\])"']+)"""
_ASSIGNED = re.compile(
    rf"(?<![\w.-])({_NO_SECRET}{_NAME}\s*=\s*)({_VALUE})"  # token=x
    rf"|((['\"]){_NO_SECRET}{_NAME}\4\s*:\s*)({_VALUE})"  # 'token': x
    rf"|([{{,]\s*{_NO_SECRET}{_NAME}\s*:\s*)({_VALUE})",  # {token: x
    re.IGNORECASE,
)
_WITHIN = re.compile(rf"(?<![\w.-])['\"]?{_NO_SECRET}{_NAME}['\"]?\s*[:=]", re.IGNORECASE)
_VARIABLE = re.compile(r"(?:^|_)(?:TOKEN|API_?KEY|ACCESS_KEY|PRIVATE_KEY|PASSWORD|PASSWD|SECRET(?:_KEY)?|CREDENTIALS)$")
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}"
    r"|glpat-[\w-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|xox[abeoprs]-[\w-]{10,}|AIza[\w-]{30,}|npm_[A-Za-z0-9]{30,}"
    r"|pypi-[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
    r"|(?<=bearer )[\w.~+/=-]{6,}"
    r"|(?<=://)(?!git@)[^\s/@'\"]+(?=@)",  # user:password of an address
    re.IGNORECASE,
)

_learnt: set[str] = set()


def redact(node: Any, key: str = "") -> Any:
    """The same tree without secrets; what stands under a secret's key is also left out of all that is written later."""
    learn(node, key)
    return _without(node, key)


def redact_text(text: str) -> str:
    """The same text without secrets: those that are known, what looks like one, and what is assigned to such a key."""
    for secret in sorted({*_learnt, *_of_environment()}, key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    text = _ASSIGNED.sub(lambda found: f"{found[1] or found[3] or found[6]}{REDACTED}", text)
    return _SHAPES.sub(REDACTED, text)


def redact_overrides(overrides: Sequence[str]) -> list[str]:
    """The same overrides without secrets; a list or mapping that holds one is left out whole."""
    for override in overrides:
        learn_override(override)
    return [_without_override(override) for override in overrides]


def learn(node: Any, key: str = "") -> None:
    """Know from now on every value that stands under a secret's key."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            learn(value, key if is_secret(key) else str(name))
    elif isinstance(node, (list, tuple)):
        for value in node:
            learn(value, key)
    elif is_secret(key) and not isinstance(node, bool) and len(str(node)) >= SHORTEST and node is not None:
        _learnt.update(_spellings(str(node)))


def learn_override(override: str) -> None:
    """Know the secrets of one argument of the command line."""
    key, _, value = override.partition("=")
    learn(value.strip("'\""), key.lstrip("+~"))
    for found in _ASSIGNED.finditer(value):
        learn((found[2] or found[5] or found[7]).strip("'\""), "secret")


def is_secret(key: str) -> bool:
    """Whether a key names a secret: `api_key`, `logger.hf_token`, `client-secret`; `eos_token` names none."""
    return _KEY.fullmatch(key) is not None


class RedactingFormatter(logging.Formatter):
    """Log lines, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return redact_text(super().format(record))


def _without(node: Any, key: str) -> Any:
    if isinstance(node, Mapping):
        of_secret = is_secret(key)
        return {
            redact_text(name) if isinstance(name, str) else name: _without(value, key if of_secret else str(name))
            for name, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return [_without(value, key) for value in node]
    if is_secret(key):
        return REDACTED if node else node
    if isinstance(node, str):
        return redact_text(node)
    return REDACTED if str(node) in _learnt and not isinstance(node, bool) else node


def _without_override(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return redact_text(override)
    hides = is_secret(key.lstrip("+~")) or (value[:1] in ("{", "[") and _WITHIN.search(value))
    return f"{redact_text(key)}={REDACTED if hides else redact_text(value)}"


def _spellings(secret: str) -> set[str]:
    """A value as it stands, and as it stands in JSON, in Python's own notation and in an address."""
    return {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe="")}


def _of_environment() -> Iterator[str]:
    """Values of the variables whose name says that they are secret."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and _VARIABLE.search(name):
            yield from _spellings(value)
