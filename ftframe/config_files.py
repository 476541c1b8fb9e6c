"""Files of configs, held to bounds before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import yaml

from ftframe.errors import ConfigError

LARGEST = 1 << 18
"""Bytes of a file, and characters of its values once every alias is written out."""
MOST_VALUES = 10_000
"""Values of a file once every alias is written out."""
DEEPEST = 50
"""Lists and mappings inside of each other."""


def check_file(path: Path) -> None:
    """Refuse a file that a config cannot be, or that a few anchors would make immense.

    Raises:
        ConfigError: If it cannot be read, is too large, or is not YAML.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path}: the file has {path.stat().st_size:,} bytes; a config has at most {LARGEST:,}.")
        text = path.read_text(encoding="utf-8")
        _measure(yaml.parse(text, Loader=yaml.SafeLoader), path)
    except OSError as error:
        raise ConfigError(f"{path}: the file cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise ConfigError(f"{path}: the file is not valid YAML: {error}") from error


class _Total(NamedTuple):
    """What stands in a document up to some place, each alias written out."""

    values: int = 0
    characters: int = 0

    def plus(self, other: _Total) -> _Total:
        return _Total(self.values + other.values, self.characters + other.characters)

    def minus(self, other: _Total) -> _Total:
        return _Total(self.values - other.values, self.characters - other.characters)


def _measure(events: Iterable[yaml.Event], path: Path) -> None:
    """Add up what stands in a document; nothing of it is held in memory.

    Raises:
        ConfigError: If that is more than the bounds allow, or an anchor stands inside of itself.
    """
    total = _Total()
    anchored: dict[str | None, _Total] = {}
    begun: list[tuple[str | None, _Total]] = []
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in begun):
                raise ConfigError(f"{path}: *{event.anchor} stands inside of what it stands for.")
            total = total.plus(anchored.get(event.anchor, _Total()))
        elif isinstance(event, yaml.ScalarEvent):
            anchored[event.anchor] = _Total(1, len(event.value))
            total = total.plus(anchored[event.anchor])
        elif isinstance(event, yaml.CollectionStartEvent):
            begun.append((event.anchor, total))
            total = total.plus(_Total(1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = begun.pop()
            anchored[anchor] = total.minus(before)
        if total.values > MOST_VALUES or total.characters > LARGEST or len(begun) > DEEPEST:
            raise ConfigError(
                f"{path}: it is too large for a config, its aliases written out: more than {MOST_VALUES:,} values, "
                f"{LARGEST:,} characters, or {DEEPEST} lists and mappings inside of each other."
            )
