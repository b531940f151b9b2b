"""What the executor needs of a model's text; `helium_jax.text.TextModel` is one."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from helium_jax.text.answer import AnswerDetokenizer


class TextCodec(Protocol):
    """Text to token ids and back, for one model."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> Sequence[int]:
        """The prompt of a conversation, up to where the model's answer begins.

        Raises:
            RequestError: the chat template refuses the messages.
        """
        ...

    def encode(self, text: str) -> Sequence[int]:
        """The prompt of a bare text, with the special tokens the model expects at its start."""
        ...

    def detokenizer(self, stop: Sequence[str] = ()) -> AnswerDetokenizer:
        """A new detokenizer for one answer."""
        ...
