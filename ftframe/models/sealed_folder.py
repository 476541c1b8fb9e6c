"""A folder that is written whole or not at all, and is known later to be as it was written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ftframe.durable_files import sha256, sync
from ftframe.errors import FtframeError
from ftframe.models.weight_files import refuse_pickles

NOTES = (".md",)
"""Ends of the names of files that no loader reads, so that they may come and go."""


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `folder` once all of it is on the disk.

    It lies beside its place and is renamed, so a process that is killed leaves no `folder`, or the one of before. What
    an earlier attempt has left is swept, the folder that it was about to replace only when the new one stands.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    replaced = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            sync(path)
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            folder.rename(replaced)
        partial.rename(folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of each file that a loader may read, by its path relative to the folder."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in _read_by_loaders(folder)}


def verify(folder: Path, expected: Mapping[str, str], *, beside: str) -> None:
    """Refuse a folder that is not as it was written.

    Args:
        folder: The folder.
        expected: What `digests` gave then.
        beside: Name of the file that these stand in; it cannot hold its own.

    Raises:
        FtframeError: If a file is missing, has changed or has come since, or is a pickle; the message names it.
    """
    refuse_pickles(folder)
    present = {path.relative_to(folder).as_posix(): path for path in _read_by_loaders(folder)}
    present.pop(beside, None)
    for name in sorted(expected.keys() | present.keys()):
        if name not in present:
            raise FtframeError(f"{folder / name} is missing, which {beside} lists. Get the folder again, as a whole.")
        if name not in expected:
            raise FtframeError(
                f"{folder / name} is not in the list of {beside}, so it was not there when this was saved. Remove it: "
                "a loader could take it for a part of the model."
            )
        if sha256(present[name]) != expected[name]:
            raise FtframeError(
                f"{folder / name} is not what was saved: its sha256 is another than in {beside}. It is damaged or was "
                "changed. Get it again."
            )


def _read_by_loaders(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.suffix.lower() not in NOTES:
            yield path
