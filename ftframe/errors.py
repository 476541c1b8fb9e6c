"""Errors that a user can mend. Each carries the exit code of the command."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    """The loss became NaN or infinite."""

    exit_code = 3


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest allowed name, or an empty string."""
    close = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
