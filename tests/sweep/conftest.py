"""Sweeps in folders of their own, and a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .browser import Browser, missing_programs, open_browser
from .folders import SweepFolder

MakeSweep = Callable[..., SweepFolder]


@pytest.fixture
def make_sweep(tmp_path: Path) -> MakeSweep:
    """Makes sweeps in folders of their own: `make_sweep("first", objectives=[...])`."""
    return lambda name="sweep", **asked: SweepFolder(tmp_path / name, **asked)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} here (Debian: apt-get install chromium chromium-driver)")
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened
