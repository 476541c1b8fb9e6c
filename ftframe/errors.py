"""Errors that a user can mend. Each carries the exit code of the command."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class FtframeError(Exception):
    """Something went wrong that one message explains; no traceback is shown."""

    exit_code = 1


class ConfigError(FtframeError):
    """The configuration cannot be run as it stands."""

    exit_code = 2


class DataError(FtframeError):
    """The data cannot be trained on as it stands."""

    exit_code = 2


class PluginError(FtframeError):
    """An extension cannot be found, imported or built."""

    exit_code = 2


class NonFiniteError(FtframeError):
    """The loss or a gradient became NaN or infinite.

    Attributes:
        facts: The step, the numbers, and the rows that were trained on, for a report.
    """

    exit_code = 3

    def __init__(self, message: str, facts: Mapping[str, Any] | None = None) -> None:
        """Keep what is known beside the message."""
        super().__init__(message)
        self.facts = dict(facts or {})


class OutOfMemoryError(FtframeError):
    """The device or the host has not enough memory for this configuration."""

    exit_code = 4


class Interrupted(FtframeError):  # noqa: N818 (nothing is wrong)
    """A signal ended the command."""

    def __init__(self, message: str, signum: int) -> None:
        """Keep the signal's number: a shell expects 128 more than that."""
        super().__init__(message)
        self.exit_code = 128 + signum


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest allowed name, or an empty string."""
    close = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
