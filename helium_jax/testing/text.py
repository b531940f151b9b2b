"""A byte-level text bundle: ids below 256 are the bytes of UTF-8, the others mark roles."""

import codecs
from collections.abc import Collection, Iterable, Mapping, Sequence

from helium_jax.text.grammar import GrammarCache, Vocabulary
from helium_jax.text.grammar_spec import GrammarSpec
from helium_jax.types import SamplingParams, TokenGrammar

FAKE_EOS_ID = 256
FAKE_ROLE_IDS = {"system": 257, "user": 258, "assistant": 259}
_MARKS = {
    FAKE_EOS_ID: b"<end>",
    **{mark: f"<{role}>".encode() for role, mark in FAKE_ROLE_IDS.items()},
}
FAKE_VOCAB_SIZE = 512


class FakeText:
    """A byte-level text bundle to go with `FakeGenerator`: ids below 256 are the bytes of UTF-8.

    Meets `executor.TextCodec`, and has what the server uses of `text.TextModel`.
    """

    sampling = SamplingParams()
    template = None  # conversations are written by `encode_chat` itself

    def __init__(self) -> None:
        self._grammars = GrammarCache(self.vocabulary)

    def vocabulary(self) -> Vocabulary:
        """What grammars are compiled for."""
        special_ids = (FAKE_EOS_ID, *FAKE_ROLE_IDS.values())
        return Vocabulary(
            [*map(self.token_bytes, range(FAKE_VOCAB_SIZE))], special_ids, self.encode
        )

    async def compile_grammar(
        self, spec: GrammarSpec, *, param: str = "response_format"
    ) -> TokenGrammar:
        """See `TextModel.compile_grammar`; the grammar is a real one."""
        return await self._grammars.compile(spec, param=param)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool = True,
        tools: None = None,
    ) -> list[int]:
        """Each message as a mark for its role, its bytes and a closing mark; it has no syntax of
        its own for tools."""
        ids: list[int] = []
        for message in messages:
            ids += [FAKE_ROLE_IDS[message["role"]], *self.encode(message["content"]), FAKE_EOS_ID]
        return [*ids, FAKE_ROLE_IDS["assistant"]] if add_generation_prompt else ids

    def continue_chat(
        self,
        earlier: Sequence[Mapping[str, str]],
        answer: str,
        later: Sequence[Mapping[str, str]],
        *,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int],
    ) -> list[int] | None:
        """The ids of a conversation so far and of what follows, if they spell its messages."""
        spoken = [i for i in answer_ids if i != FAKE_EOS_ID]
        if not answer_ids or self.encode_chat(earlier) != [*prompt_ids]:
            return None
        if self.encode(answer) != spoken:
            return None
        return [*prompt_ids, *spoken, FAKE_EOS_ID, *self.encode_chat(later)]

    def encode(self, text: str) -> list[int]:
        """The text's bytes; lone surrogates become question marks."""
        return list(text.encode("utf-8", "replace"))

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of the ids that are bytes, and names of the marks between them if asked for."""
        marks = {} if skip_special_tokens else _MARKS
        spelled = (bytes([i]) if i < 256 else marks.get(i, b"") for i in token_ids)
        return b"".join(spelled).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The byte of an id; none for a mark."""
        return bytes([token_id]) if token_id < 256 else b""

    def detokenizer(
        self,
        stop: Sequence[str] = (),
        *,
        include_stop: bool = False,
        shown: Collection[int] = (),
    ) -> "FakeDetokenizer":
        """A new detokenizer for one answer; marks that are `shown` give their names."""
        return FakeDetokenizer(stop, include_stop=include_stop, shown=shown)


class FakeDetokenizer:
    """Bytes to text, as late as needed: nothing after the first stop string ever comes out."""

    def __init__(
        self,
        stop: Sequence[str] = (),
        *,
        include_stop: bool = False,
        shown: Collection[int] = (),
    ) -> None:
        self._stop = tuple(stop)
        self._names = {mark: name for mark, name in _MARKS.items() if mark in shown}
        self._include_stop = include_stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped_by: str | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was found."""
        return self.stopped_by is not None

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that is certain now; ids that are no bytes have no text."""
        if self.is_stopped:
            return ""
        spelled = (bytes([i]) if i < 256 else self._names.get(i, b"") for i in token_ids)
        self._held += self._decoder.decode(b"".join(spelled))
        found = [(start, stop) for stop in self._stop if (start := self._held.find(stop)) >= 0]
        if found:
            start, stop = min(found)
            self.stopped_by = stop
            return self._give(start + len(stop) if self._include_stop else start)
        longest = max(map(len, self._stop), default=1)
        return self._give(max(len(self._held) - longest + 1, 0))

    def finish(self) -> str:
        """What is left."""
        if self.is_stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        return self._give(len(self._held))

    def _give(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text
