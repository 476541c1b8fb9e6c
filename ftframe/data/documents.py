"""Documents of plain text files, as rows with a column `text`."""

from __future__ import annotations

from collections.abc import Iterator

from ftframe.api import BadRow
from ftframe.data.files import File, RawRow, opened_text

PIECE = 1 << 20
"""Characters that are read at a time."""


def documents(file: File) -> Iterator[RawRow | BadRow]:
    """The documents of a file that hold more than space; line ends are newlines."""
    number = 0
    for text in pieces(file):
        # The newlines beside a separator belong to neither document; a file that is one document is left as it is.
        document = text if file.separator is None else text.strip("\n")
        if document.strip():
            number += 1
            yield RawRow(f"{file.name}, document {number}", {"text": document})


def pieces(file: File) -> Iterator[str]:
    """What stands between the separators, read piece by piece."""
    with opened_text(file, newline=None) as stream:
        if file.separator is None:
            yield stream.read()
            return
        rest = ""
        while piece := stream.read(PIECE):
            *whole, rest = (rest + piece).split(file.separator)
            yield from whole
        yield rest
