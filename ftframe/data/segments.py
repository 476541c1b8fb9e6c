"""Segments of text as tokens: special tokens by their ids, plain text in which nothing is special."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ftframe.api import BOS, EOS, Segment
from ftframe.errors import ConfigError


class Piece(NamedTuple):
    """Text or the ids of special tokens, learnt or not."""

    content: str | list[int]
    supervised: bool


class SegmentEncoder:
    """Turns segments into token ids, those of many conversations at a time."""

    def __init__(self, tokenizer: Any) -> None:
        """Keep a transformers tokenizer."""
        self.tokenizer = tokenizer
        self._special: dict[Segment, Piece] = {}

    def pieces(self, segments: Iterable[Segment]) -> list[Piece]:
        """The segments with special tokens looked up, and neighbouring plain text that is not learnt as one.

        Raises:
            ConfigError: If a supervised stop or EOS is asked for and the tokenizer has no EOS token.
        """
        pieces: list[Piece] = []
        for segment in segments:
            piece = self._lookup(segment) if segment.special else Piece(segment.text, segment.supervised)
            last = pieces[-1] if pieces else None
            if last is None or piece.supervised or last.supervised:
                pieces.append(piece)
            elif isinstance(piece.content, str) and isinstance(last.content, str):
                pieces[-1] = Piece(last.content + piece.content, supervised=False)
            else:
                pieces.append(piece)
        return pieces

    def encode(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """The token ids of each piece."""
        texts = [piece.content for piece in pieces if isinstance(piece.content, str)]
        encoded = iter(self.encode_texts(texts))
        return [next(encoded) if isinstance(piece.content, str) else piece.content for piece in pieces]

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of plain texts, such that decoding gives each back wherever the tokenizer can write it.

        Special tokens are not read out of a text: `</s>` becomes the tokens of four characters.
        """
        ids = encode_plainly(texts, self.tokenizer)
        # SentencePiece puts a space before a text, but not before one that starts with a space; decoding takes one
        # away from either. A second space keeps the first.
        spaced = [index for index, text in enumerate(texts) if text.startswith(" ")]
        if spaced:
            padded = encode_plainly([f" {texts[index]}" for index in spaced], self.tokenizer)
            for index, candidate in zip(spaced, padded, strict=True):
                text = texts[index]
                if decode(ids[index], self.tokenizer) != text and decode(candidate, self.tokenizer) == text:
                    ids[index] = candidate
        return ids

    def _lookup(self, segment: Segment) -> Piece:
        """A special segment's token, or its text where the tokenizer has no such token and nothing depends on it."""
        if segment not in self._special:
            self._special[segment] = Piece(self._resolve(segment), segment.supervised)
        return self._special[segment]

    def _resolve(self, segment: Segment) -> str | list[int]:
        tokenizer = self.tokenizer
        if segment.text == BOS:
            return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        token = None if segment.text == EOS else token_id(segment.text, tokenizer)
        if token is None and segment.text != EOS and not segment.supervised:
            return segment.text
        return [eos_id(tokenizer) if token is None else token]


def token_id(text: str, tokenizer: Any) -> int | None:
    """The id of the token with this text, or None if the tokenizer has no such token."""
    token = tokenizer.convert_tokens_to_ids(text)
    # An unknown text gets the id of the unknown token.
    return token if token is not None and tokenizer.convert_ids_to_tokens(token) == text else None


def eos_id(tokenizer: Any) -> int:
    """The id of the EOS token.

    Raises:
        ConfigError: If the tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "The tokenizer has no EOS token, so no token can end an answer. Set model.tokenizer to one that has."
        )
    return int(tokenizer.eos_token_id)


def encode_plainly(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The tokens of texts in which nothing is special, none put around them, none cut off."""
    if not texts:
        return []
    flags = {"add_special_tokens": False, "return_attention_mask": False}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [list(ids) for ids in tokenizer(list(texts), split_special_tokens=True, **flags)["input_ids"]]
    # The backend keeps the settings of the last call. Asking it itself leaves out the offsets, which no one needs and
    # which cost as much as the ids.
    tokenizer("", split_special_tokens=True, **flags)
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def decode(ids: Sequence[int], tokenizer: Any) -> str:
    """The exact text of some tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
