"""The prompt template: instruction, text, label."""

from __future__ import annotations

from ftframe.api import BOS, EOS, Conversation, Segment


class ClassificationTemplate:
    """The system text, a blank line, `Text: ...`, a new line, `Label: ...` and the end-of-sequence token."""

    def render(self, messages: Conversation) -> list[Segment]:
        """The conversation as segments."""
        segments = [Segment(BOS, special=True)]
        for index, turn in enumerate(messages):
            between = "\n\n" if index and messages[index - 1].role == "assistant" else ""
            if turn.role == "assistant":
                segments += [Segment(turn.content, turn.supervised), Segment(EOS, turn.supervised, special=True)]
            elif turn.role == "user":
                segments.append(Segment(f"{between}Text: {turn.content}\nLabel: "))
            else:
                segments.append(Segment(f"{between}{turn.content}\n\n"))
        return segments
