"""What the executor needs of a model's text: both protocols are met by `helium_jax.text`."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Detokenizer(Protocol):
    """Turns one answer's tokens into text as they come, ending it at a stop string."""

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was found: what follows is not part of the answer."""
        ...

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that is certain now and was not before."""
        ...

    def finish(self) -> str:
        """The rest of the text, once no more tokens come."""
        ...


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

    def detokenizer(self, stop: Sequence[str] = ()) -> Detokenizer:
        """A new detokenizer for one answer."""
        ...
