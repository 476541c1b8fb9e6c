"""The chat template that a tokenizer brings along, taken apart into segments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from ftframe.api import Conversation, Segment
from ftframe.data.chat_jinja import ChatJinja
from ftframe.data.chat_layout import ANOTHER, ChatLayouts, Layout, Span
from ftframe.errors import ConfigError, DataError


class Strips(NamedTuple):
    """On which sides a special token takes the space beside it along."""

    lstrip: bool
    rstrip: bool


class Frame(NamedTuple):
    """What does not depend on contents.

    Attributes:
        learnt: Whether each content is learnt.
        segments: The segments before, between and after the contents.
    """

    learnt: list[bool]
    segments: list[list[Segment]]


class TokenizerTemplate:
    """The tokenizer's own Jinja chat template.

    The template is rendered with a mark in place of each content, and split at the marks. So special tokens are read
    out of the template's text and never out of a message. Contents are kept as given, even where the template would
    trim them; one that changes more of them is refused.

    Where the template has `{% generation %}`, it decides what is learnt. Where it has none, each answer and the
    special token that follows it are, and so is what stands between the generation prompt and the answer, such as
    empty thoughts, since it is for the model to write. Such a template must write the same text before an answer when
    it asks for it as when it was given: only then is the model trained on what it will see.
    """

    def __init__(self, tokenizer: Any, date: str = "2024-07-26") -> None:
        """Read the template and find the tokenizer's special tokens.

        Args:
            tokenizer: A transformers tokenizer.
            date: What a template that writes today's date writes instead, so that tokens do not change from day to
                day. The default is the day that Llama 3.1's template falls back on.

        Raises:
            ConfigError: If the tokenizer has no chat template, or one that cannot be used.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "data.template.name=tokenizer asks for the tokenizer's own chat template, but the tokenizer has none. "
                "Set data.template.name to alpaca, chatml, llama2, llama3, mistral or plain, or model.tokenizer to a "
                "tokenizer that has one."
            )
        self.jinja = ChatJinja(tokenizer, date=date)
        self.tokens = special_tokens(tokenizer)
        self.pattern = re.compile(f"({'|'.join(map(re.escape, self.tokens)) or '(?!)'})")
        self.layouts = ChatLayouts(self.jinja, self.pattern)
        # SentencePiece puts a space before each text that it encodes, so the answer's own encoding already starts
        # with the space that a template writes between its last marker and the answer.
        self.prepends_space = encode(tokenizer, " a") == encode(tokenizer, "a")
        self._frames: dict[tuple[tuple[str, bool | None], ...], Frame] = {}

    def render(self, messages: Conversation) -> list[Segment]:
        """The conversation as segments.

        Raises:
            DataError: If the template refuses the conversation, drops, repeats, reorders or changes messages, writes no
                special token after a turn that is learnt or leaves it out of `{% generation %}`, or is not
                prefix-preserving.
        """
        if not messages:
            raise DataError(f"{self.jinja.title} was given a conversation without messages.")
        key = tuple([(turn.role, turn.masked) for turn in messages])
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = self._build_frame([role for role, _ in key], [masked for _, masked in key])
        self.layouts.check_contents([turn.role for turn in messages], [turn.content for turn in messages])
        before, *after = frame.segments
        segments = list(before)
        for turn, learnt, following in zip(messages, frame.learnt, after, strict=True):
            segments.append(Segment(turn.content, learnt))
            segments += following
        return segments

    def _build_frame(self, roles: Sequence[str], masks: Sequence[bool | None]) -> Frame:
        """Which contents are learnt, and the segments around them.

        Raises:
            DataError: As `render`.
        """
        layout = self.layouts.layout(roles)
        if self.jinja.says_what_is_learnt:
            usual = [any(holds(span, layout, number) for span in layout.spans) for number in range(len(roles))]
        else:
            usual = [role == "assistant" for role in roles]
        learnt = [rule if masked is None else not masked for rule, masked in zip(usual, masks, strict=True)]
        if self.jinja.says_what_is_learnt:
            masked = {number for number, mask in enumerate(masks) if mask}
            spans = [span for span in layout.spans if not span.owners or not masked.issuperset(span.owners)]
        else:
            spans = self.layouts.written_before_answers(roles, learnt)
        gaps = [self._split(layout, number, roles, spans) for number in range(len(layout.gaps))]
        for number, role in enumerate(roles):
            if role == "assistant" or learnt[number]:
                by_template = self.jinja.says_what_is_learnt and masks[number] is None
                gaps[number + 1] = self._end_turn(role, gaps[number + 1], learnt[number], by_template=by_template)
        return Frame(learnt, gaps)

    def _split(self, layout: Layout, number: int, roles: Sequence[str], spans: Sequence[Span]) -> list[Segment]:
        """A stretch of the template's own text as plain and special segments, those in one of the spans learnt."""
        text, end = layout.gaps[number], layout.starts[number]
        if self.prepends_space and number < len(roles) and roles[number] == "assistant":
            text = text.removesuffix(" ")
        pieces = self.pattern.split(text)  # plain, special, plain, ..., plain
        segments = []
        for index, piece in enumerate(pieces):
            start, end = end, end + len(piece)
            if index % 2 == 1:
                segments.append(Segment(piece, within(start, end, spans), special=True))
                continue
            if index > 0 and self.tokens[pieces[index - 1]].rstrip:
                piece = piece.lstrip()
            start = end - len(piece)
            if index + 1 < len(pieces) and self.tokens[pieces[index + 1]].lstrip:
                piece = piece.rstrip()
            segments += cut(piece, start, spans)
        return segments

    def _end_turn(self, role: str, segments: list[Segment], learnt: bool, *, by_template: bool) -> list[Segment]:
        """The template's text after a turn, its first special token learnt if the turn is.

        Raises:
            DataError: If the turn is learnt and text or nothing stands where the special token must, or the template
                says that the token is not learnt.
        """
        # Space between answer and stop token is left out: as a masked token it would keep the model from learning to
        # stop after the answer, as a supervised one it would become part of the answer.
        start = next((index for index, segment in enumerate(segments) if segment.text.strip()), None)
        if start is not None and segments[start].special:
            stop = segments[start].text
            if learnt and by_template and not segments[start].supervised:
                raise DataError(
                    f"{self.jinja.title} leaves {stop!r} out of {{% generation %}}, so the model would never learn to "
                    f"stop. Put {{% endgeneration %}} behind it, or set data.template.name to another format."
                )
            return [Segment(stop, learnt, special=True), *segments[start + 1 :]]
        if not learnt:
            return segments
        given = "nothing" if start is None else repr(segments[start].text[:40])
        raise DataError(
            f"{self.jinja.title} writes {given} after the {role}'s content and no special token, so the model would "
            f"never learn to stop. {ANOTHER}."
        )


def holds(span: Span, layout: Layout, number: int) -> bool:
    """Whether the content of a message stands in the span."""
    return span.start <= layout.place(number) < span.end


def within(start: int, end: int, spans: Sequence[Span]) -> bool:
    """Whether a stretch lies in one of the spans."""
    return any(span.start <= start and end <= span.end for span in spans)


def cut(text: str, start: int, spans: Sequence[Span]) -> list[Segment]:
    """Plain text that starts somewhere in a rendering, cut where a span begins or ends."""
    end = start + len(text)
    edges = {edge for span in spans for edge in (span.start, span.end) if start < edge < end}
    stretches = pairwise(sorted({start, end, *edges}))
    return [Segment(text[a - start : b - start], within(a, b, spans)) for a, b in stretches]


def encode(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text alone, without the tokens that a tokenizer puts around it."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def special_tokens(tokenizer: Any) -> dict[str, Strips]:
    """The tokens that the tokenizer reads out of text before it tokenises the rest, longest first."""
    tokens = {str(token): Strips(lstrip=False, rstrip=False) for token in tokenizer.all_special_tokens}
    for token in tokenizer.added_tokens_decoder.values():
        tokens[token.content] = Strips(lstrip=token.lstrip, rstrip=token.rstrip)
    return {token: tokens[token] for token in sorted(tokens, key=len, reverse=True) if token}
