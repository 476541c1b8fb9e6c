"""The chat template that a tokenizer brings along, taken apart into segments."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ftframe.api import Conversation, Message, Segment
from ftframe.errors import ConfigError, DataError


class Strips(NamedTuple):
    """On which sides a special token takes the space beside it along."""

    lstrip: bool
    rstrip: bool


class TokenizerTemplate:
    """The tokenizer's own Jinja chat template.

    The template is rendered once with a mark in place of each content, and split at the marks. So special tokens are
    read out of the template's text and never out of a message, and which text is whose does not depend on
    `{% generation %}`, which few templates have. Contents are kept as given, even where the template would trim them.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Find the tokenizer's special tokens.

        Raises:
            ConfigError: If the tokenizer has no chat template.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "data.template.name=tokenizer asks for the tokenizer's own chat template, but the tokenizer has none. "
                "Set data.template.name to alpaca, chatml, llama2, mistral or plain, or model.tokenizer to a tokenizer "
                "that has one."
            )
        self.tokenizer = tokenizer
        self.tokens = special_tokens(tokenizer)
        self.pattern = re.compile(f"({'|'.join(map(re.escape, self.tokens)) or '(?!)'})")
        # SentencePiece puts a space before each text that it encodes, so the answer's own encoding already starts
        # with the space that a template writes between its last marker and the answer.
        self.prepends_space = encode(tokenizer, " a") == encode(tokenizer, "a")

    def render(self, messages: Conversation) -> list[Segment]:
        """The conversation as segments.

        Raises:
            DataError: If the template refuses the conversation, drops, repeats or reorders messages, or writes no
                special token after a turn that is learnt.
        """
        before, *after = self._texts_around(messages)
        segments = self._split(before, next_turn=messages[0])
        for turn, text, next_turn in zip(messages, after, [*messages[1:], None], strict=True):
            segments.append(Segment(turn.content, turn.supervised))
            segments += self._end_turn(turn, self._split(text, next_turn=next_turn))
        return segments

    def _texts_around(self, messages: Conversation) -> list[str]:
        """The template's own text before, between and after the contents.

        Raises:
            DataError: As `render`.
        """
        if not messages:
            raise DataError("The tokenizer's chat template was given a conversation without messages.")
        marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
        turns = [{"role": turn.role, "content": mark} for turn, mark in zip(messages, marks, strict=True)]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        except Exception as error:  # a template may raise anything
            raise DataError(
                f"The tokenizer's chat template refuses the roles {describe_roles(messages)}: {error}"
            ) from error
        found = re.findall("\ue000\\d+\ue001", text)
        if found != marks:
            order = ", ".join(str(int(mark[1:-1]) + 1) for mark in found) or "none"
            raise DataError(
                "The tokenizer's chat template does not write each message once and in order: of the messages 1 to "
                f"{len(marks)} ({describe_roles(messages)}) it writes {order}. "
                "Set data.template.name to another format."
            )
        return re.split("\ue000\\d+\ue001", text)

    def _split(self, text: str, *, next_turn: Message | None) -> list[Segment]:
        """A stretch of the template's own text as plain and special segments."""
        if self.prepends_space and next_turn is not None and next_turn.role == "assistant":
            text = text.removesuffix(" ")
        pieces = self.pattern.split(text)  # plain, special, plain, ..., plain
        segments = []
        for index, piece in enumerate(pieces):
            if index % 2 == 1:
                segments.append(Segment(piece, special=True))
                continue
            if index > 0 and self.tokens[pieces[index - 1]].rstrip:
                piece = piece.lstrip()
            if index + 1 < len(pieces) and self.tokens[pieces[index + 1]].lstrip:
                piece = piece.rstrip()
            if piece:
                segments.append(Segment(piece))
        return segments

    def _end_turn(self, turn: Message, segments: list[Segment]) -> list[Segment]:
        """The template's text after a turn, its first special token learnt if the turn is.

        Raises:
            DataError: If the turn is learnt and text or nothing stands where the special token must.
        """
        if turn.role != "assistant" and not turn.supervised:
            return segments
        # Space between answer and stop token is left out: as a masked token it would keep the model from learning to
        # stop after the answer, as a supervised one it would become part of the answer.
        start = next((index for index, segment in enumerate(segments) if segment.text.strip()), None)
        if start is not None and segments[start].special:
            stop = Segment(segments[start].text, turn.supervised, special=True)
            return [stop, *segments[start + 1 :]]
        if not turn.supervised:
            return segments
        given = "nothing" if start is None else repr(segments[start].text[:40])
        raise DataError(
            f"The tokenizer's chat template writes {given} after the {turn.role}'s content and no special token, so "
            "the model would never learn to stop. Set data.template.name to another format."
        )


def encode(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text alone, without the tokens that a tokenizer puts around it."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def special_tokens(tokenizer: Any) -> dict[str, Strips]:
    """The tokens that the tokenizer reads out of text before it tokenises the rest, longest first."""
    tokens = {str(token): Strips(lstrip=False, rstrip=False) for token in tokenizer.all_special_tokens}
    for token in tokenizer.added_tokens_decoder.values():
        tokens[token.content] = Strips(lstrip=token.lstrip, rstrip=token.rstrip)
    return {token: tokens[token] for token in sorted(tokens, key=len, reverse=True) if token}


def describe_roles(messages: Conversation) -> str:
    """The roles of a conversation, in order."""
    return ", ".join(turn.role for turn in messages)
