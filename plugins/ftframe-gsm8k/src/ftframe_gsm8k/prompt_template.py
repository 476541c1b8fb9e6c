"""The prompt template: a question and its answer, without a chat format."""

from __future__ import annotations

from ftframe.api import BOS, EOS, Conversation, Segment


class Gsm8kTemplate:
    """`Question: ...`, a new line, `Answer: ...` and the end-of-sequence token; a blank line before a further one."""

    def render(self, messages: Conversation) -> list[Segment]:
        """The conversation as segments; a system text stands in front, on a line of its own."""
        segments = [Segment(BOS, special=True)]
        for index, turn in enumerate(messages):
            between = "\n\n" if index and messages[index - 1].role == "assistant" else ""
            if turn.role == "assistant":
                segments += [Segment(turn.content, turn.supervised), Segment(EOS, turn.supervised, special=True)]
            elif turn.role == "user":
                segments.append(Segment(f"{between}Question: {turn.content}\nAnswer: "))
            else:
                segments.append(Segment(f"{between}{turn.content}\n"))
        return segments
