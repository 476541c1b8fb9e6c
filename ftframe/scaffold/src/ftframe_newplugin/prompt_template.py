"""The prompt template `newplugin`: how a conversation is written, and which part of it is learnt."""

from __future__ import annotations

from ftframe.api import BOS, EOS, Conversation, Segment


class NewpluginTemplate:
    """`Question:` and `Answer:` before the turns, and the end-of-sequence token after each answer."""

    def render(self, messages: Conversation) -> list[Segment]:
        """The conversation as segments.

        What users and data sets write goes into plain segments: special tokens are not read out of those. The answer
        and the token that ends it are supervised, and nothing else is.
        """
        segments = [Segment(BOS, special=True)]
        for turn in messages:
            if turn.role == "assistant":
                segments += [Segment(turn.content, turn.supervised), Segment(EOS, turn.supervised, special=True)]
            elif turn.role == "user":
                segments.append(Segment(f"Question: {turn.content}\nAnswer: "))
            else:
                segments.append(Segment(f"{turn.content}\n"))
        return segments
