"""Tokenised splits on disk, found by what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock

from ftframe.api import Row
from ftframe.data.examples import Examples
from ftframe.data.tokenizing import Limit, Rejected, Tokenized
from ftframe.errors import ConfigError

CACHE_VARIABLE = "FTFRAME_CACHE"
FORMAT = 1


def default_cache_dir() -> Path:
    """`$FTFRAME_CACHE`, or `ftframe` in the user's cache folder."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ftframe"


def fingerprint_rows(rows: Sequence[Row]) -> str:
    """A digest of what the conversations say, as 64 hexadecimal digits; where they come from does not matter.

    The content and not the files are looked at: whatever a dataset's code does, other rows have another fingerprint.
    """
    content = [[(turn.role, turn.content, turn.masked) for turn in row.messages] for row in rows]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def cache_key(**parts: str | Limit) -> str:
    """One digest of all that decides the tokens, as 64 hexadecimal digits."""
    plain = {name: asdict(part) if isinstance(part, Limit) else part for name, part in parts.items()}
    return hashlib.sha256(json.dumps({"format": FORMAT, **plain}, sort_keys=True).encode()).hexdigest()


def cached(key: str, folder: Path, make: Callable[[], Tokenized]) -> tuple[Tokenized, bool]:
    """What `make` returns, from the cache if it is there, and whether it was.

    Of several processes that ask at once, one makes it and the others wait.

    Args:
        key: Names the entry.
        folder: The cache.
        make: Tokenises the rows.

    Raises:
        ConfigError: If the folder cannot be written to.
    """
    entry = folder / "tokenized" / key
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{entry}.lock")
        lock.acquire()
    except OSError as error:
        raise ConfigError(
            f"data.cache_dir={folder}: {error.strerror or error}. Choose a folder that can be written to, or set "
            "data.cache=false."
        ) from error
    try:
        found = _load(entry)
        if found is not None:
            return found, True
        made = make()
        _save(made, entry)
        return made, False
    finally:
        lock.release()


def _load(entry: Path) -> Tokenized | None:
    """The entry; None if it is not there, or damaged."""
    try:
        facts = json.loads((entry / "facts.json").read_text(encoding="utf-8"))
        examples = Examples.load(entry)
        return Tokenized(examples, [Rejected(*item) for item in facts["rejected"]], facts["counts"])
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def _save(made: Tokenized, entry: Path) -> None:
    """Write the entry beside its place and move it there whole; the caller holds its lock."""
    partial = entry.with_name(f"{entry.name}.partial")
    for folder in (partial, entry):  # a process that was killed has left it, or it is damaged
        shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir()
    made.examples.save(partial)
    facts = {"rejected": made.rejected, "counts": made.counts}
    (partial / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    partial.rename(entry)
