"""Tokens to text as they come: whole characters only, and an end at the first stop string."""

import codecs
from collections.abc import Collection, Sequence
from typing import Protocol

from helium_jax.text.byte_level import token_to_bytes
from helium_jax.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
_MAX_PENDING = 64  # tokens that may wait for a character to be completed


class Detokenizer:
    """The text of one answer.

    The texts returned by `feed` and `finish`, put together, are the full decoding of the ids, cut
    at the stop string that is complete first (of several that end there, the longest). A text
    that may be the beginning of a stop string is held back until that is decided.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        *,
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        shown: Collection[int] = (),
    ) -> None:
        """
        Args:
            tokenizer: the model's.
            stop: texts that end the answer, none of them empty.
            include_stop: keep that text.
            skip_special_tokens: special tokens give no text.
            shown: special tokens that give their names all the same.

        Raises:
            ValueError: an empty stop string.
        """
        if "" in stop:
            raise ValueError(f"stop={[*stop]!r} has an empty string, which would end every answer")
        skipped = tokenizer.special_ids.difference(shown) if skip_special_tokens else frozenset()
        kind = _ByteDecoder if tokenizer.is_byte_level else _WindowDecoder
        self._decoder: _Decoder = kind(tokenizer, skipped)
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._held = ""
        self._stopped_by: str | None = None

    @property
    def is_stopped(self) -> bool:
        """A stop string was found: what follows is not part of the answer."""
        return self._stopped_by is not None

    @property
    def stopped_by(self) -> str | None:
        """The stop string that was found."""
        return self._stopped_by

    def feed(self, token_id: int) -> str:
        """Takes the next token; returns the text that is certain now and was not before."""
        return "" if self.is_stopped else self._take(self._decoder.feed(token_id))

    def push(self, token_ids: Sequence[int]) -> str:
        """`feed` for several tokens."""
        return "".join([self.feed(token_id) for token_id in token_ids])

    def finish(self) -> str:
        """The rest, once no more tokens come: an unfinished character becomes U+FFFD."""
        if self.is_stopped:
            return ""
        text = self._take(self._decoder.finish())
        rest, self._held = self._held, ""
        return text + rest

    def _take(self, gained: str) -> str:
        if not self._stop:
            return gained
        if not gained:
            return ""
        text = self._held + gained
        found = _first_stop(text, self._stop)
        if found is not None:
            start, end = found
            self._held, self._stopped_by = "", text[start:end]
            return text[: end if self._include_stop else start]
        certain = len(text) - _undecided(text, self._stop)
        self._held = text[certain:]
        return text[:certain]


def _first_stop(text: str, stop: Sequence[str]) -> tuple[int, int] | None:
    """Start and end of the stop string that ends first, the longest of those."""
    places = [(start + len(one), start) for one in stop if (start := text.find(one)) >= 0]
    if not places:
        return None
    end, start = min(places)
    return start, end


def _undecided(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of `text` with which a stop string begins."""
    longest = min(len(text), max(map(len, stop)) - 1)
    for length in range(longest, 0, -1):
        if any(one.startswith(text[-length:]) for one in stop):
            return length
    return 0


class _Decoder(Protocol):
    """Tokens to whole characters."""

    def feed(self, token_id: int) -> str: ...

    def finish(self) -> str: ...


class _ByteDecoder:
    """For byte-level vocabularies: exact, and the same work for every token."""

    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[int]) -> None:
        self._token_of = tokenizer.backend.id_to_token
        self._skipped = skipped
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        token = None if token_id in self._skipped else self._token_of(token_id)
        return "" if token is None else self._utf8.decode(token_to_bytes(token))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowDecoder:
    """For all others: decodes the last tokens with and without the new one and takes what grew.

    The window begins before the text given last, because some vocabularies drop the space of the
    first token they decode. While the text ends in U+FFFD a character may be unfinished and more
    tokens are awaited, but never over _MAX_PENDING.
    """

    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._ids: list[int] = []
        self._num_given = 0  # of self._ids, those whose text is out

    def feed(self, token_id: int) -> str:
        if token_id in self._skipped or self._tokenizer.backend.id_to_token(token_id) is None:
            return ""
        self._ids.append(token_id)
        return self._gain(final=len(self._ids) - self._num_given > _MAX_PENDING)

    def finish(self) -> str:
        return self._gain(final=True)

    def _gain(self, *, final: bool) -> str:
        given, text = self._decode(self._ids[: self._num_given]), self._decode(self._ids)
        if not final and (len(text) <= len(given) or text.endswith(_REPLACEMENT)):
            return ""
        self._ids = self._ids[self._num_given :]
        self._num_given = len(self._ids)
        return text[len(given) :]

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)
