"""A model's tokenizer: a thin, checked face of the `tokenizers` library."""

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from helium_jax.errors import RequestError
from helium_jax.text.byte_level import token_to_bytes

FILE = "tokenizer.json"
_MAX_ID = 2**31 - 1
# From here on (characters, ids) the library's calls for batches are worth it: they let other
# threads run, where those for one text keep the whole process waiting, seconds for megabytes.
_LONG = 4096
_SPACE = "\u2581"  # SentencePiece's mark for a space


class Tokenizer:
    """Text to token ids and back; never pads, never truncates; safe to share between threads."""

    def __init__(self, backend: Backend) -> None:
        """Takes over `backend`: its padding and truncation are switched off."""
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Reads tokenizer.json.

        Raises:
            RequestError: it is missing or broken; names the file.
        """
        path = folder / FILE
        if not path.is_file():
            raise RequestError(
                f"{path} does not exist; the folder needs the Hugging Face file {FILE} "
                "(transformers' save_pretrained of a fast tokenizer writes it)",
                code="bad_model",
            )
        try:
            return cls(Backend.from_str(path.read_text(encoding="utf-8")))
        except Exception as error:  # the library raises bare Exception
            raise RequestError(f"{path} cannot be read: {error}", code="bad_model") from error

    @property
    def backend(self) -> Backend:
        """The library's own object; change nothing in it."""
        return self._backend

    @cached_property
    def vocab_size(self) -> int:
        """One more than the greatest id that has a token; added tokens count."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of tokens that are no text: marks of messages and sequences."""
        added = self._backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    @cached_property
    def is_byte_level(self) -> bool:
        """Every token stands for fixed bytes, so that text is bytes put together."""
        decoder = self._settings.get("decoder")
        return isinstance(decoder, dict) and decoder.get("type") == "ByteLevel"

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return json.loads(self._backend.to_str())

    def id_of(self, token: str) -> int | None:
        """The id of a token of the vocabulary, such as "<|im_end|>"."""
        return self._backend.token_to_id(token)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text; special tokens written out in it become their ids, as in transformers.

        Args:
            text: any text.
            add_special_tokens: put in what the model expects around a text (often a first token).

        Raises:
            RequestError: a lone surrogate, which is no Unicode text.
        """
        try:
            if len(text) < _LONG:
                return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
            (found,) = self._backend.encode_batch_fast(
                [text], add_special_tokens=add_special_tokens
            )
            return found.ids
        except TypeError:
            place = next((i for i, char in enumerate(text) if _is_surrogate(char)), None)
            if place is None:
                raise
            raise RequestError(
                f"text has the lone surrogate U+{ord(text[place]):04X} at character {place}; "
                "send valid Unicode",
                code="invalid_unicode",
            ) from None

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD.

        Ids beyond the tokenizer's own, which models with a padded vocabulary have, give no text.

        Raises:
            RequestError: an id that is not an int from 0 on.
        """
        ids = list(token_ids)
        for place, token_id in enumerate(ids):
            if type(token_id) is not int or not 0 <= token_id <= _MAX_ID:
                raise RequestError(
                    f"token_ids[{place}]={token_id!r} is no token id; ids are 0 to "
                    f"{self.vocab_size - 1}",
                    code="invalid_token_id",
                )
        if len(ids) < _LONG:
            return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        (text,) = self._backend.decode_batch([ids], skip_special_tokens=skip_special_tokens)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token adds to a text, for logprobs; a special token is its name.

        Exact for byte-level and SentencePiece-like vocabularies; empty for an id without a token.
        """
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self._added_ids:
            return token.encode("utf-8")
        if self.is_byte_level:
            return token_to_bytes(token)
        if is_byte_token(token):
            return bytes([int(token[3:5], 16)])
        return token.replace(_SPACE, " ").encode("utf-8")

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self._backend.get_added_tokens_decoder())


def _is_surrogate(char: str) -> bool:
    return 0xD800 <= ord(char) <= 0xDFFF


def is_byte_token(token: str) -> bool:
    """Whether it is one of SentencePiece's byte tokens, "<0x00>" to "<0xFF>"."""
    if len(token) != 6 or not token.startswith("<0x") or token[5] != ">":
        return False
    return all(digit in "0123456789ABCDEFabcdef" for digit in token[3:5])
