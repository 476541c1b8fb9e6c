"""Rows of CSV and TSV, every value a text.

The `datasets` library reads them through pandas, which turns texts such as `None` and `NA` into nulls, cuts off the
surplus of a row that is too wide and fills up one that is too short, in silence, and refuses the whole file for one
byte that is not UTF-8 (seen in datasets 5.2 with pandas 3.1).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import Any

from ftframe.api import BadRow
from ftframe.data.files import File, RawRow, opened_text
from ftframe.errors import DataError

LARGEST_CELL = 2**31 - 1
"""Characters; the csv module's own limit of 131,072 is less than a long document."""


def csv_rows(file: File) -> Iterator[RawRow | BadRow]:
    """The rows below the header; blank lines are skipped.

    Raises:
        DataError: If the header is no list of different names, or a quote never closes.
    """
    csv.field_size_limit(LARGEST_CELL)
    with opened_text(file, newline="") as text:
        reader = csv.reader(text, delimiter="\t" if file.path.suffix == ".tsv" else ",", strict=True)
        header = next((cells for _, cells in records(reader, file) if not isinstance(cells, str)), None)
        if header is None:
            return
        check_header(header, file)
        for number, (line, cells) in enumerate(records(reader, file), start=1):
            yield read_record(cells, header, where=f"{file.name}, row {number}", line=line)


def records(reader: Any, file: File) -> Iterator[tuple[int, list[str] | str]]:
    """The line on which each record starts, and its cells, or what is wrong with it.

    Raises:
        DataError: If a quote never closes.
    """
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            # The rest of the file has gone into this one cell.
            if "unexpected end of data" in str(error):
                raise DataError(f"{file.label}: the row on line {line} opens a quote that never closes.") from error
            yield line, str(error)
            continue
        if cells is None:
            return
        if cells:
            yield line, cells


def check_header(header: Sequence[str], file: File) -> None:
    """Refuse a header whose names are empty or not different.

    Raises:
        DataError: If it is so.
    """
    if all(name.strip() for name in header) and len(set(header)) == len(header):
        return
    raise DataError(
        f"{file.label}: the first line must name the columns, each by a name of its own; it reads "
        f"{', '.join(map(repr, header))}."
    )


def read_record(cells: list[str] | str, header: Sequence[str], *, where: str, line: int) -> RawRow | BadRow:
    """One record as an object."""
    if isinstance(cells, str):
        return BadRow(where, f"line {line}", f"is not valid CSV ({cells}); quotes around a whole value are needed")
    if len(cells) != len(header):
        values = f"{len(cells)} value{'s' * (len(cells) != 1)}"
        return BadRow(where, f"line {line}", f"has {values}; {len(header)} are needed, as in the header")
    return RawRow(where, dict(zip(header, cells, strict=True)))
