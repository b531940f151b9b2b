"""Texts of a wanted number of tokens, drawn from a seed."""

from collections.abc import Sequence
from random import Random

from helium_jax.builtin import words
from helium_jax.executor.codec import TextCodec
from helium_jax.plan.settings import Settings

_WORDS = (*words.THINGS, *words.COLOURS, *words.CITIES, *words.ANIMALS, *words.TOOLS)
_SHORT = (".", ",", ";")  # ends a text whose last tokens no word fits


class Filler:
    """Writes texts whose lengths in tokens are those of a published workload times a scale.

    A text depends on its label, the seed and its length only. The markers of a chat template
    count as part of the system text of a call, and of the instruction of a later turn.
    """

    def __init__(self, codec: TextCodec, *, scale: float = 1.0, seed: int = 0) -> None:
        """
        Args:
            codec: of the model that will run the workload.
            scale: what every length is multiplied by, in (0, 1].
            seed: of all texts.

        Raises:
            ValueError: the scale is out of its range.
        """
        if not 0.0 < scale <= 1.0:
            raise ValueError(f"{scale=} must be above 0 and at most 1")
        self.scale = scale
        self._encode = codec.encode
        self._seed = seed
        self._lengths = {word: len(codec.encode(" " + word)) for word in _WORDS}
        self._lengths |= {mark: len(codec.encode(mark)) for mark in _SHORT}
        word = " " + _WORDS[0]
        self._first_turn = _markers(codec, word, ("system", "user"))
        whole = _markers(codec, word, ("system", "user", "assistant", "user"))
        self._later_turn = whole - self._first_turn

    def scaled(self, num_tokens: float) -> int:
        """A length in tokens at this scale, at least 1."""
        return max(1, round(num_tokens * self.scale))

    def text(self, label: str, num_tokens: float) -> str:
        """A text of `num_tokens` before scaling."""
        return self._write(label, self.scaled(num_tokens))

    def system(self, label: str, num_tokens: float) -> str:
        """The system text of a chat with one user message, its template's markers included.

        It begins with its label, so that two roles differ however small the scale is.
        """
        room = self.scaled(num_tokens) - self._first_turn - len(self._encode(label))
        return label + (self._write(label, room) if room > 0 else "")

    def next_turn(self, label: str, num_tokens: float) -> str:
        """The instruction of a later turn, markers of the answer before it and its own included."""
        return self._write(label, self.scaled(num_tokens) - self._later_turn)

    def output(self, num_tokens: float) -> Settings:
        """Settings under which a call gives exactly that many tokens before scaling, greedily."""
        length = self.scaled(num_tokens)
        return {
            "temperature": 0.0,
            "max_tokens": length,
            "min_tokens": length,
            "ignore_eos": True,
        }

    def _write(self, label: str, room: int) -> str:
        """At least one word, however little room there is."""
        rng = Random(f"{self._seed} {label}")
        parts: list[str] = []
        while not parts or room > 0:
            word = rng.choice(_WORDS)
            if parts and self._lengths[word] > room:
                parts += [mark for mark in _SHORT if self._lengths[mark] <= room][:room]
                break
            parts.append(" " + word)
            room -= self._lengths[word]
        return "".join(parts)


def _markers(codec: TextCodec, content: str, roles: Sequence[str]) -> int:
    """Tokens that the chat template adds to messages."""
    messages = [{"role": role, "content": content} for role in roles]
    return len(codec.encode_chat(messages)) - len(roles) * len(codec.encode(content))
