"""What a Jinja chat template writes around the contents of a conversation, and whether it can be learnt from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ftframe.data.chat_jinja import ChatJinja, Rendering
from ftframe.errors import DataError

MARK = re.compile("\ue000(\\d+)\ue001")
"""Stands in place of a content, with its number, while Jinja runs."""

PROBE = "  First line: 1 < 2 & \"two\" isn't 'é'.\n\n- A  second\tLine {0} \\n %s  \n"
"""A content with what a template may change in a text: white space, case, quotes, HTML and escapes."""

ANOTHER = "Set data.template.name to another format"


class Span(NamedTuple):
    """A stretch of the rendered text, in characters, that is learnt unless the messages it belongs to are masked."""

    start: int
    end: int
    owners: tuple[int, ...]


class Layout(NamedTuple):
    """What the template writes for a sequence of roles, whatever the contents.

    Attributes:
        gaps: Its text before, between and after the contents.
        starts: Where in the rendering each gap starts.
        spans: What stands in `{% generation %}`.
    """

    gaps: list[str]
    starts: list[int]
    spans: list[Span]

    def place(self, number: int) -> int:
        """Where the content of a message starts."""
        return self.starts[number] + len(self.gaps[number])

    def fill(self, contents: Sequence[str]) -> str:
        """The text with contents in their places."""
        return interleave(self.gaps, contents)

    def is_trimmed(self, text: str, contents: Sequence[str]) -> bool:
        """Whether a text is the filled one but for white space around the contents."""
        places = [rf"\s*{re.escape(content.strip())}\s*" for content in contents]
        return re.fullmatch(interleave([re.escape(gap) for gap in self.gaps], places), text) is not None


class ChatLayouts:
    """The layouts of one template. Jinja runs a few times for each sequence of roles, and not for each conversation."""

    def __init__(self, jinja: ChatJinja, tokens: re.Pattern[str]) -> None:
        """Start with none.

        Args:
            jinja: The template.
            tokens: Finds the tokenizer's special tokens in a text.
        """
        self.jinja = jinja
        self.tokens = tokens
        self._renderings: dict[tuple[tuple[str, ...], bool], Rendering] = {}
        self._layouts: dict[tuple[str, ...], Layout] = {}

    def layout(self, roles: Sequence[str]) -> Layout:
        """What the template writes around the contents.

        Raises:
            DataError: If it refuses the roles, does not write each content once and in order, or changes contents.
        """
        key = tuple(roles)
        if key not in self._layouts:
            layout = self._take_apart(key)
            self._check(layout, roles, [PROBE] * len(roles))
            self._layouts[key] = layout
        return self._layouts[key]

    def check_contents(self, roles: Sequence[str], contents: Sequence[str]) -> None:
        """Refuse contents that the template looks into and does not write as they are, white space around them aside.

        Raises:
            DataError: If it changes one, or what it writes around it.
        """
        if any(map(self.jinja.may_read, contents)):
            self._check(self.layout(roles), roles, contents)

    def written_before_answers(self, roles: Sequence[str], learnt: Sequence[bool]) -> list[Span]:
        """What stands between the generation prompt and each learnt answer, where it is more than white space.

        Where the template has no generation prompt, nothing tells what the model must write from what it is given.
        What the template writes behind the token that ends an answer, as some do at the end of a conversation only, is
        nothing that the answer depends on.

        Raises:
            DataError: If the template is not prefix-preserving at a learnt answer.
        """
        spans = []
        whole, layout = self._rendered(roles).text, self.layout(roles)
        for number in (n for n, role in enumerate(roles) if role == "assistant" and learnt[n]):
            answered = self._rendered(roles[: number + 1]).text
            end_of_turn = self.tokens.search(answered, layout.place(number)) if whole != answered else None
            answered = answered[: end_of_turn.end()] if end_of_turn else answered
            self._check_prefix(answered, whole, number, "when the next message follows")
            if number == 0:
                continue  # there is nothing to answer
            history = self._rendered(roles[:number]).text
            asked = self._rendered(roles[:number], add_generation_prompt=True).text
            self._check_prefix(asked, answered, number - 1, "when the answer follows instead of the generation prompt")
            start, end = len(asked), layout.place(number)
            if asked != history and whole[start:end].strip():
                spans.append(Span(start, end, (number,)))
        return spans

    def _take_apart(self, roles: tuple[str, ...]) -> Layout:
        text, spans = self._rendered(roles)
        found = [int(number) for number in MARK.findall(text)]
        if found != list(range(len(roles))):
            order = ", ".join(str(number + 1) for number in found) or "none"
            raise DataError(
                f"{self.jinja.title} does not write each message once and in order: of the messages 1 to "
                f"{len(roles)} ({', '.join(roles)}) it writes {order}. {ANOTHER}."
            )
        marks = [match.span() for match in MARK.finditer(text)]
        starts = [0, *(end for _, end in marks)]
        gaps = [text[start:end] for start, end in zip(starts, [*(start for start, _ in marks), None], strict=True)]
        return Layout(gaps, starts, [Span(*span, owners_of(span, marks, roles)) for span in spans])

    def _rendered(self, roles: Sequence[str], *, add_generation_prompt: bool = False) -> Rendering:
        """What the template writes for marks in place of contents.

        Raises:
            DataError: If the template refuses the roles.
        """
        key = (tuple(roles), add_generation_prompt)
        if key not in self._renderings:
            marks = [f"\ue000{number}\ue001" for number in range(len(roles))]
            self._renderings[key] = self._run(roles, marks, add_generation_prompt=add_generation_prompt)
        return self._renderings[key]

    def _run(self, roles: Sequence[str], contents: Sequence[str], *, add_generation_prompt: bool = False) -> Rendering:
        turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        try:
            return self.jinja.render(turns, add_generation_prompt=add_generation_prompt)
        except Exception as error:  # a template may raise anything
            raise DataError(f"{self.jinja.title} refuses the roles {', '.join(roles)}: {error}") from error

    def _check(self, layout: Layout, roles: Sequence[str], contents: Sequence[str]) -> None:
        text, expected = self._run(roles, contents).text, layout.fill(contents)
        if text != expected and not layout.is_trimmed(text, contents):
            written, given = parting(text, expected)
            raise DataError(
                f"{self.jinja.title} does not write messages as they are: it writes {written} where {given} is due. "
                f"{ANOTHER}, or write the messages as the template does."
            )

    def _check_prefix(self, part: str, whole: str, number: int, when: str) -> None:
        if not whole.startswith(part):
            first, then = parting(part, whole)
            raise DataError(
                f"{self.jinja.title} is not prefix-preserving: what it writes up to message {number + 1} changes "
                f"{when}, from {first} to {then}, so an answer would be learnt after another text than it is asked for "
                f"with. {ANOTHER}, or give the tokenizer a chat template that says by {{% generation %}} what is "
                "learnt; an answer that is masked may change."
            )


def owners_of(span: tuple[int, int], marks: Sequence[tuple[int, int]], roles: Sequence[str]) -> tuple[int, ...]:
    """The messages whose contents stand in a span; where none does, the assistant's beside it."""
    start, end = span
    inside = tuple(number for number, mark in enumerate(marks) if start <= mark[0] and mark[1] <= end)
    if inside:
        return inside
    following = sum(mark[0] < end for mark in marks)
    beside = range(max(following - 1, 0), min(following + 1, len(roles)))
    return tuple(number for number in beside if roles[number] == "assistant")


def interleave(gaps: Sequence[str], contents: Sequence[str]) -> str:
    """Gaps and contents in turn."""
    return "".join(part for pair in zip(gaps, [*contents, ""], strict=True) for part in pair)


def parting(first: str, second: str, *, before: int = 20, after: int = 40) -> tuple[str, str]:
    """Where two texts part: a quoted excerpt of each."""
    pairs = enumerate(zip(first, second, strict=False))
    start = next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))
    begin = max(start - before, 0)
    return repr(readable(first[begin : start + after])), repr(readable(second[begin : start + after]))


def readable(text: str) -> str:
    """A rendering with names in place of the marks, and of pieces of them."""
    named = MARK.sub(lambda mark: f"(message {int(mark[1]) + 1})", text)
    return re.sub("^\\d*\ue001|\ue000\\d*$", "", named)
