"""The contracts that plugins are written against. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

from ftframe.errors import ConfigError, DataError

__all__ = [
    "API_VERSION",
    "BOS",
    "EOS",
    "IGNORE_INDEX",
    "METRIC_KINDS",
    "ROLES",
    "BadRow",
    "ConfigError",
    "Conversation",
    "DataError",
    "DatasetBuilder",
    "Message",
    "MetricKind",
    "PromptTemplate",
    "Role",
    "Row",
    "Rows",
    "Segment",
    "Splits",
    "TextMetric",
    "TokensMetric",
]

API_VERSION = "1"
"""Changes when a plugin written for the contracts below would no longer work. A distribution says which versions it is
written for by entry points in the group `ftframe.api`: `v1 = "its_package"`."""

IGNORE_INDEX = -100
"""Label that the loss skips: the default `ignore_index` of `torch.nn.functional.cross_entropy`."""

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `masked=None` means the usual rule: the assistant's turns are learnt, all others are not.
    """

    role: Role
    content: str
    masked: bool | None = None

    @property
    def supervised(self) -> bool:
        """Whether the loss counts this turn."""
        return self.role == "assistant" if self.masked is None else not self.masked


Conversation = Sequence[Message]
"""One example: its turns in order."""


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation that knows where it comes from.

    Attributes:
        messages: The conversation.
        where: File and row, for messages and reports.
    """

    messages: Conversation
    where: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """What a builder gives in place of a row that is no conversation; `data.on_bad_row` says what becomes of it.

    Attributes:
        where: File and row.
        column: The column or key at fault, or what else of the row.
        rule: What is there and what is needed instead.
    """

    where: str
    column: str
    rule: str

    def __str__(self) -> str:
        return f"{self.where}: {self.column} {self.rule}"


Rows = Iterable[Conversation | Row | BadRow]
"""The rows of a split. A sequence is read and tokenised before training; any other iterable is streamed while training,
and must start anew each time it is iterated."""

Splits = Mapping[str, Rows]
"""What a dataset builder returns: `train`, and `validation` where the dataset has one."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a rendered conversation.

    Attributes:
        text: Plain text, tokenised without reading special tokens out of it, so that content cannot forge a turn.
            If `special`, the name of one token instead: `BOS`, `EOS`, or a token's own text such as `<|im_end|>`.
        supervised: Whether the loss counts its tokens.
        special: Whether `text` names one special token.
    """

    text: str
    supervised: bool = False
    special: bool = False


BOS = "bos_token"
"""Name of the tokenizer's own beginning-of-sequence token; no token where the tokenizer has none."""

EOS = "eos_token"
"""Name of the tokenizer's own end-of-sequence token."""


class DatasetBuilder(Protocol):
    """A function from keyword arguments, the keys beside `name` in `data.dataset`, to conversations."""

    def __call__(self, **kwargs: object) -> Splits:
        """The conversations of each split."""


@runtime_checkable
class PromptTemplate(Protocol):
    """Writes a conversation as text and says which part of it is learnt.

    A class registered in `ftframe.prompt_templates`. Its constructor takes the keys beside `name` in `data.template`;
    if it has a parameter `tokenizer`, the run's tokenizer is passed there.
    """

    def render(self, messages: Conversation) -> list[Segment]:
        """The conversation as segments, in order.

        Each supervised turn ends in a supervised special segment: the token that stops generation.
        """


MetricKind = Literal["text", "tokens"]
METRIC_KINDS: tuple[str, ...] = get_args(MetricKind)


class TextMetric(Protocol):
    """A `torchmetrics.Metric` of generated answers as strings, registered in `ftframe.metrics`.

    Its constructor takes the keys beside `name` in the list `metrics`. What it counts is kept in states made by
    `Metric.add_state`, and `full_state_update = False`, so that several GPUs add up.

    Attributes:
        kind: `text`; a class that does not say so is taken for one of these.
    """

    kind: ClassVar[MetricKind]

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:
        """Take in one batch: the model's answers, and as many references in the same order."""

    def compute(self) -> Any:
        """The value over all that was taken in: one number in a tensor."""

    def reset(self) -> None:
        """Forget what was taken in."""


class TokensMetric(Protocol):
    """As `TextMetric`, of answers as token ids.

    Attributes:
        kind: `tokens`.
    """

    kind: ClassVar[MetricKind]

    def update(self, preds: Sequence[Sequence[int]], target: Sequence[Sequence[int]]) -> None:
        """Take in one batch: the ids of each answer as they were generated and of its reference as it would be taught.

        Neither holds the token that ends an answer.
        """

    def compute(self) -> Any:
        """The value over all that was taken in: one number in a tensor."""

    def reset(self) -> None:
        """Forget what was taken in."""
