"""What the executor needs of a model's text; `helium_jax.text.TextModel` is one."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from helium_jax.text.answer import AnswerDetokenizer
from helium_jax.text.grammar_spec import GrammarSpec
from helium_jax.types import TokenGrammar


class TextCodec(Protocol):
    """Text to token ids and back, for one model."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> Sequence[int]:
        """The prompt of a conversation, up to where the model's answer begins.

        Raises:
            RequestError: the chat template refuses the messages.
        """
        ...

    def continue_chat(
        self,
        earlier: Sequence[Mapping[str, str]],
        answer: str,
        later: Sequence[Mapping[str, str]],
        *,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int],
    ) -> Sequence[int] | None:
        """The prompt of a conversation that goes on, made of the ids it had so far.

        Args:
            earlier: the messages of the prompt before.
            answer: what the model said to them.
            later: the messages that follow.
            prompt_ids: of `earlier`.
            answer_ids: what was generated for `answer`.

        Returns:
            Ids that begin with `prompt_ids` and the generated ones, so that their KV is found
            again; None where the chat template writes the conversation in another way, and
            `encode_chat` must be asked for all of it.
        """
        ...

    def encode(self, text: str) -> Sequence[int]:
        """The prompt of a bare text, with the special tokens the model expects at its start."""
        ...

    async def compile_grammar(
        self, spec: GrammarSpec, *, param: str = "response_format"
    ) -> TokenGrammar:
        """What an answer must look like, for `GenerateRequest`; remembers what it has compiled.

        Raises:
            RequestError: the grammar is wrong, too large, or allows no text.
            CapacityError: too many grammars wait to be compiled.
        """
        ...

    def detokenizer(self, stop: Sequence[str] = ()) -> AnswerDetokenizer:
        """A new detokenizer for one answer."""
        ...
