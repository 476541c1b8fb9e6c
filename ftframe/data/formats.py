"""The ways in which datasets write conversations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ftframe.api import Message
from ftframe.data.cells import Cell
from ftframe.data.llama2_text import read_llama2_text
from ftframe.data.messages import read_messages
from ftframe.data.prompt_templates import INPUT_HEADER


@dataclass(frozen=True)
class RowFormat:
    """A way in which datasets write conversations.

    Attributes:
        name: What `format` calls it.
        required: Our names for the columns that it needs.
        read: From the cell of each field to the conversation; raises `RowError`.
        optional: Our names for further columns.
        turns: The field that each message comes from; empty where all come from one.
    """

    name: str
    required: tuple[str, ...]
    read: Callable[[Mapping[str, Cell]], list[Message]]
    optional: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields, required ones first."""
        return self.required + self.optional


def read_alpaca(cells: Mapping[str, Cell]) -> list[Message]:
    """The instruction, with the input below a heading where there is one, and the output."""
    content = cells["instruction"].text()
    if cells["input"].given and (given := cells["input"].text()):
        content += INPUT_HEADER + given
    return [Message("user", content), Message("assistant", cells["output"].text())]


def read_prompt(cells: Mapping[str, Cell]) -> list[Message]:
    """The prompt and its completion."""
    return [Message("user", cells["prompt"].text()), Message("assistant", cells["completion"].text())]


def read_document(cells: Mapping[str, Cell]) -> list[Message]:
    """A text of which every token is learnt."""
    return [Message("assistant", cells["text"].text())]


def read_openai(cells: Mapping[str, Cell]) -> list[Message]:
    """A list of messages."""
    return read_messages(cells["messages"])


def read_sharegpt(cells: Mapping[str, Cell]) -> list[Message]:
    """A list of messages."""
    return read_messages(cells["conversations"])


def read_llama2(cells: Mapping[str, Cell]) -> list[Message]:
    """A text in Llama 2's chat format."""
    return read_llama2_text(cells["text"])


DETECTED = (
    RowFormat("messages", ("messages",), read_openai),
    RowFormat("sharegpt", ("conversations",), read_sharegpt),
    RowFormat("alpaca", ("instruction", "output"), read_alpaca, ("input",), turns=("instruction", "output")),
    RowFormat("prompt_completion", ("prompt", "completion"), read_prompt, turns=("prompt", "completion")),
    RowFormat("text", ("text",), read_document, turns=("text",)),
)
"""In the order in which they are tried: Alpaca's own rows have a column `text` beside the others."""

LLAMA2_TEXT = RowFormat("llama2_text", ("text",), read_llama2)
"""Only by name: its column is that of plain documents."""

FORMATS: Mapping[str, RowFormat] = {format.name: format for format in (*DETECTED, LLAMA2_TEXT)}


def describe_formats(formats: Sequence[RowFormat]) -> str:
    """The columns of each format, in words."""
    optional = {format: "".join(f", optionally {field}" for field in format.optional) for format in formats}
    columns = "; ".join(f"{f.name} ({' and '.join(f.required)}{optional[f]})" for f in formats)
    return f"Known formats: {columns}."
