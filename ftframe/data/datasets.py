"""The built-in datasets: functions from keyword arguments to conversations."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ftframe.api import Conversation, Message, Splits
from ftframe.data.files import PATH_KEY, NumberedRow, check_limit, read_json_lines, read_text
from ftframe.data.hub import JSON_LINES, load_rows
from ftframe.data.rows import ALPACA, COLUMNS_KEY, FORMATS, TEXT, RowFormat, choose_reader
from ftframe.errors import ConfigError, DataError

VALIDATION_KEY = "data.dataset.validation_path"


def jsonl(
    *,
    path: str,
    validation_path: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Splits:
    """Conversations in local JSON Lines files.

    Args:
        path: The file of training rows.
        validation_path: The file of validation rows.
        columns: The file's column for a field of ours: `messages`, `conversations`, `prompt`, `completion`,
            `instruction`, `input`, `output` or `text`.
        limit: The most rows to read of each file.

    Raises:
        ConfigError: If a file is missing or its columns fit no format.
        DataError: If a row is not valid.
    """
    splits = {"train": read_conversations(read_json_lines(path, limit=limit), columns=columns)}
    if validation_path is not None:
        rows = read_json_lines(validation_path, key=VALIDATION_KEY, limit=limit)
        splits["validation"] = read_conversations(rows, columns=columns)
    return splits


def alpaca(
    *,
    path: str = "tatsu-lab/alpaca",
    split: str = "train",
    limit: int | None = None,
    validation_path: str | None = None,
) -> Splits:
    """Rows of `instruction`, `input` and `output`, from the hub or local files.

    Args:
        path: A hub id, file or folder.
        split: The split of a hub dataset or folder.
        limit: The most rows to read of each split.
        validation_path: A hub id, file or folder of validation rows.

    Raises:
        ConfigError: If a file is missing or the columns are not Alpaca's.
        DataError: If the hub cannot be reached or a row is not valid.
    """
    splits = {"train": read_conversations(load_rows(path, split=split, limit=limit), formats=[ALPACA])}
    if validation_path is not None:
        rows = load_rows(validation_path, split=split, key=VALIDATION_KEY, limit=limit)
        splits["validation"] = read_conversations(rows, formats=[ALPACA])
    return splits


def guanaco(
    *,
    path: str = "mlabonne/guanaco-llama2-1k",
    split: str = "train",
    limit: int | None = None,
    validation_path: str | None = None,
) -> Splits:
    """Rows of one `text` in Llama 2's chat format, taken apart into messages.

    Args:
        path: A hub id, file or folder.
        split: The split of a hub dataset or folder.
        limit: The most rows to read of each split.
        validation_path: A hub id, file or folder of validation rows.

    Raises:
        ConfigError: If a file is missing or has no column `text`.
        DataError: If the hub cannot be reached or a row does not parse.
    """
    splits = {"train": read_guanaco(load_rows(path, split=split, limit=limit))}
    if validation_path is not None:
        splits["validation"] = read_guanaco(load_rows(validation_path, split=split, key=VALIDATION_KEY, limit=limit))
    return splits


def text(
    *,
    path: str,
    validation_path: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    separator: str | None = "\n\n",
) -> Splits:
    """Documents of which every token is learnt, from plain text files or JSON Lines with a column `text`.

    Args:
        path: The file of training documents; JSON Lines if it ends in `.jsonl` or `.ndjson`.
        validation_path: The file of validation documents.
        columns: `text` and the column that holds it, in JSON Lines.
        limit: The most documents to read of each file.
        separator: What stands between two documents of a text file, by default a blank line; null if the whole file
            is one document.

    Raises:
        ConfigError: If a file is missing, has no such column, or an option has no meaning for it.
        DataError: If a file holds no document or a row is not valid.
    """
    check_limit(limit)
    if separator == "":
        raise ConfigError("data.dataset.separator is empty; give a text, or null if the whole file is one document.")
    splits = {}
    for name, key, file in (("train", PATH_KEY, path), ("validation", VALIDATION_KEY, validation_path)):
        if file is None:
            continue
        if Path(file).suffix in JSON_LINES:
            rows = read_json_lines(file, key=key, limit=limit)
        else:
            if any(column is not None for column in (columns or {}).values()):
                raise ConfigError(f"{COLUMNS_KEY} has no meaning for {key}={file}: only JSON Lines have columns.")
            rows = read_documents(file, key=key, separator=separator)[:limit]
        splits[name] = read_conversations(rows, columns=columns, formats=[TEXT])
    return splits


def split_validation(conversations: Sequence[Conversation], *, fraction: float, seed: int) -> Splits:
    """A seeded `train` and `validation` split that keeps the order of rows; for datasets that have only one part.

    Args:
        conversations: All rows.
        fraction: The share of rows for validation.
        seed: Chooses the rows.

    Raises:
        ConfigError: If either side would be empty.
    """
    count = round(len(conversations) * fraction)
    if not 0 < count < len(conversations):
        raise ConfigError(
            f"A validation fraction of {fraction} takes {count} of {len(conversations)} rows; at least one row must "
            f"stay on either side. Change the fraction, or set {VALIDATION_KEY}."
        )
    chosen = set(random.Random(seed).sample(range(len(conversations)), count))
    return {
        "train": [row for index, row in enumerate(conversations) if index not in chosen],
        "validation": [row for index, row in enumerate(conversations) if index in chosen],
    }


def read_conversations(
    rows: Sequence[NumberedRow],
    *,
    columns: Mapping[str, str] | None = None,
    formats: Sequence[RowFormat] = FORMATS,
) -> list[Conversation]:
    """The conversation of each row.

    Raises:
        ConfigError: If the columns fit no format.
        DataError: If a row is not valid.
    """
    # A column counts as present if any row has it, so that a row that lacks it is reported by its number.
    present = list(dict.fromkeys(name for row in rows if isinstance(row.value, Mapping) for name in row.value))
    if not present:
        raise DataError(f"{rows[0].where}: no row is an object with columns.")
    reader = choose_reader(present, columns=columns, formats=formats)
    return [reader.read(row.value, where=row.where) for row in rows]


def read_documents(path: str, *, key: str, separator: str | None) -> list[NumberedRow]:
    """The documents of a text file, as rows with a column `text`.

    Raises:
        ConfigError: If there is no such file.
        DataError: If it holds nothing but space, or is not valid UTF-8.
    """
    whole = read_text(path, key=key)
    documents = [whole] if separator is None else [part.strip("\n") for part in whole.split(separator)]
    rows = [{"text": document} for document in documents if document.strip()]
    if not rows:
        raise DataError(f"{key}={path}: the file holds no text.")
    return [NumberedRow(f"{path}, document {number}", row) for number, row in enumerate(rows, start=1)]


GUANACO_TURN = re.compile(r"<s>\s*\[INST\](.*?)\[/INST\](.*?)</s>\s*", re.DOTALL)
GUANACO_SYSTEM = re.compile(r" ?<<SYS>>\n(.*?)\n<</SYS>>\n\n(.*)", re.DOTALL)
GUANACO_MARKERS = ("<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


def read_guanaco(rows: Sequence[NumberedRow]) -> list[Conversation]:
    """The conversations that a column `text` holds in Llama 2's chat format.

    Raises:
        ConfigError: If there is no such column.
        DataError: If a row does not parse.
    """
    documents = read_conversations(rows, formats=[TEXT])
    return [
        parse_llama2_text(document[0].content, where=row.where) for document, row in zip(documents, rows, strict=True)
    ]


def parse_llama2_text(text: str, *, where: str) -> list[Message]:
    """The messages of `<s>[INST] user [/INST] assistant </s><s>[INST] ...`.

    The format's own space on either side of a content is taken off, and no other.

    Raises:
        DataError: If anything stands outside of the turns, or a marker inside of one.
    """
    messages = []
    position = 0
    while turn := GUANACO_TURN.match(text, position):
        user, assistant = turn.groups()
        if position == 0 and (system := GUANACO_SYSTEM.fullmatch(user)):
            messages.append(Message("system", system[1]))
            user = system[2]
        messages += [Message("user", without_padding(user)), Message("assistant", without_padding(assistant))]
        position = turn.end()
    if position < len(text) or not messages:
        raise DataError(
            f"{where}: column 'text' does not parse: '<s>[INST] user [/INST] assistant </s>' is needed where it reads "
            f"{text[position : position + 60]!r}"
        )
    for marker in GUANACO_MARKERS:
        if any(marker in message.content for message in messages):
            raise DataError(f"{where}: column 'text' does not parse: it has the marker {marker} inside of a turn")
    return messages


def without_padding(text: str) -> str:
    """A content without one space at either end."""
    return text.removeprefix(" ").removesuffix(" ")
