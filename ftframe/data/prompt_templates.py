"""How a conversation is written as text, format by format. No format writes special tokens as text."""

from __future__ import annotations

from typing import NamedTuple

from ftframe.api import BOS, EOS, ROLES, Conversation, Message, Segment
from ftframe.data.tokenizer_template import TokenizerTemplate
from ftframe.errors import DataError

__all__ = ["Alpaca", "ChatML", "Llama2", "Llama3", "Mistral", "Plain", "TokenizerTemplate"]

INPUT_HEADER = "\n\n### Input:\n"
"""Stands between instruction and input in the user's content of an Alpaca row."""


class Llama2:
    """Meta's chat format: `[INST] <<SYS>> ... [/INST] answer`, BOS before each user turn and EOS after each answer.

    Source: https://github.com/meta-llama/llama/blob/main/llama/generation.py
    """

    def render(self, messages: Conversation) -> list[Segment]:
        """The conversation as segments.

        Raises:
            DataError: If the turns after the system text do not alternate between user and assistant.
        """
        system, turns = alternating_turns(messages, "llama2")
        header = "" if system is None else f"<<SYS>>\n{system}\n<</SYS>>\n\n"
        segments = []
        for index, turn in enumerate(turns):
            if turn.role == "user":
                text = f"[INST] {header if index == 0 else ''}{turn.content} [/INST]"
                segments += [Segment(BOS, special=True), Segment(text)]
            else:
                segments += answer(turn)
        return segments


class Mistral:
    """The format of Mistral 7B Instruct v0.1: one BOS, `[INST] user [/INST] answer`, EOS after each answer.

    It has no place for a system text; that goes in front of the first user message, with a blank line between.
    """

    def render(self, messages: Conversation) -> list[Segment]:
        """The conversation as segments.

        Raises:
            DataError: If the turns after the system text do not alternate between user and assistant.
        """
        system, turns = alternating_turns(messages, "mistral")
        header = "" if system is None else f"{system}\n\n"
        segments = [Segment(BOS, special=True)]
        for index, turn in enumerate(turns):
            if turn.role == "user":
                segments.append(Segment(f"[INST] {header if index == 0 else ''}{turn.content} [/INST]"))
            else:
                segments += answer(turn)
        return segments


class Alpaca:
    """Stanford Alpaca's headings. The preamble depends on whether the first user message carries an input.

    A system text takes the preamble's place. Further turns repeat the headings without it.

    Source: https://github.com/tatsu-lab/stanford_alpaca#data-release
    """

    PREAMBLE = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    )
    PREAMBLE_WITH_INPUT = (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request."
    )

    def render(self, messages: Conversation) -> list[Segment]:
        """The conversation as segments.

        Raises:
            DataError: If the turns after the system text do not alternate between user and assistant.
        """
        system, turns = alternating_turns(messages, "alpaca")
        segments = [Segment(BOS, special=True)]
        for index, turn in enumerate(turns):
            if turn.role == "user":
                if index == 0 and system is None:
                    system = self.PREAMBLE_WITH_INPUT if INPUT_HEADER in turn.content else self.PREAMBLE
                header = f"{system}\n\n" if index == 0 else "\n\n"
                segments.append(Segment(f"{header}### Instruction:\n{turn.content}\n\n### Response:\n"))
            else:
                segments += answer(turn)
        return segments


class ChatML:
    """`<|im_start|>role`, content, `<|im_end|>` for every turn, in any order of roles.

    With a tokenizer that lacks the markers they are plain text, and its EOS token ends the answers instead.
    """

    START = Segment("<|im_start|>", special=True)
    END = "<|im_end|>"

    def render(self, messages: Conversation) -> list[Segment]:
        """The conversation as segments.

        Raises:
            DataError: If there are no messages, or a role is unknown.
        """
        check_roles(messages, "chatml")
        segments = []
        for turn in messages:
            segments += [self.START, Segment(f"{turn.role}\n"), *answer(turn, stop=self.END), Segment("\n")]
        return segments


class Llama3:
    """Meta's Llama 3 format: BOS, then a header with the role, content and `<|eot_id|>` for every turn, in any order.

    With a tokenizer that lacks the markers they are plain text, and its EOS token ends the answers instead.

    Source: https://github.com/meta-llama/llama3/blob/main/llama/tokenizer.py
    """

    START = Segment("<|start_header_id|>", special=True)
    CONTENT = (Segment("<|end_header_id|>", special=True), Segment("\n\n"))
    END = "<|eot_id|>"

    def render(self, messages: Conversation) -> list[Segment]:
        """The conversation as segments.

        Raises:
            DataError: If there are no messages, or a role is unknown.
        """
        check_roles(messages, "llama3")
        segments = [Segment(BOS, special=True)]
        for turn in messages:
            segments += [self.START, Segment(turn.role), *self.CONTENT, *answer(turn, stop=self.END)]
        return segments


class Plain:
    """No format: BOS, then the system's and users' texts with a separator after each, and EOS after each answer.

    A document, a conversation of one assistant turn, becomes BOS, its text and EOS.
    """

    def __init__(self, *, separator: str = "\n") -> None:
        """Keep what stands behind a user's or the system's text: a newline, or nothing to have the text continued."""
        self.separator = separator

    def render(self, messages: Conversation) -> list[Segment]:
        """The conversation as segments.

        Raises:
            DataError: If there are no messages, a role is unknown, or a turn is to be learnt that no token ends.
        """
        check_roles(messages, "plain")
        check_only_answers_are_learnt(messages, "plain")
        segments = [Segment(BOS, special=True)]
        for turn in messages:
            segments += answer(turn) if turn.role == "assistant" else [Segment(f"{turn.content}{self.separator}")]
        return segments


class Turns(NamedTuple):
    """A conversation taken apart: the system text where there is one, and the turns that follow it."""

    system: str | None
    turns: Conversation


def answer(turn: Message, *, stop: str = EOS) -> list[Segment]:
    """A turn's content, and the token that ends it, both learnt or both not."""
    return [Segment(turn.content, turn.supervised), Segment(stop, turn.supervised, special=True)]


def alternating_turns(messages: Conversation, name: str) -> Turns:
    """The system text and the turns after it, for a format that knows no other order than user, assistant, user, ...

    Args:
        messages: The conversation.
        name: The format's name, for messages.

    Raises:
        DataError: If the turns come in another order, or a turn is to be learnt that no token ends.
    """
    check_roles(messages, name)
    check_only_answers_are_learnt(messages, name)
    system = messages[0].content if messages[0].role == "system" else None
    turns = messages if system is None else messages[1:]
    for index, turn in enumerate(turns):
        expected = ("user", "assistant")[index % 2]
        if turn.role != expected:
            raise DataError(
                f"The format '{name}' cannot write the roles {', '.join(turn.role for turn in messages)}: it takes an "
                f"optional system message, then user and assistant in turn, and message "
                f"{len(messages) - len(turns) + index + 1} is '{turn.role}' where '{expected}' must stand."
            )
    if not turns:
        raise DataError(f"The format '{name}' cannot write a system message alone: a user message must follow it.")
    return Turns(system, turns)


def check_roles(messages: Conversation, name: str) -> None:
    """Refuse an empty conversation and unknown roles.

    Raises:
        DataError: In either case.
    """
    if not messages:
        raise DataError(f"The format '{name}' was given a conversation without messages.")
    for number, turn in enumerate(messages, start=1):
        if turn.role not in ROLES:
            raise DataError(f"Message {number} has the unknown role '{turn.role}'. Roles: {', '.join(ROLES)}.")


def check_only_answers_are_learnt(messages: Conversation, name: str) -> None:
    """Refuse a supervised system or user turn, for a format in which no token ends such a turn.

    Raises:
        DataError: If there is one.
    """
    for number, turn in enumerate(messages, start=1):
        if turn.supervised and turn.role != "assistant":
            raise DataError(
                f"Message {number} is a {turn.role} turn with masked=False, but in the format '{name}' no token ends "
                "such a turn. Mask it, or use data.template.name=chatml or llama3."
            )
