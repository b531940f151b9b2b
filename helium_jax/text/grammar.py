"""Grammars compiled for a vocabulary, by llguidance: which tokens may come next.

A grammar from a request is hostile until it is compiled: its size is bounded before
(`grammar_spec`, `grammar_bounds`), llguidance's own limits bound compiling and each step, and
compiling runs in a thread with a stack deep enough for what those sizes can nest.
"""

import asyncio
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from helium_jax.errors import CapacityError, HeliumError, InternalError, RequestError
from helium_jax.text.grammar_bounds import check_bounds
from helium_jax.text.grammar_spec import GrammarKind, GrammarSpec
from helium_jax.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions  # exists for type checkers only

MAX_CACHED = 64
MAX_WAITING = 32
# Chains of rules are followed by recursion, 2 KiB and more a link; untouched stack costs nothing.
_STACK_BYTES = 256 * 1024 * 1024
_MAX_MESSAGE = 300
# Smaller than the library's, whose lexers may take hundreds of megabytes.
_LIMITS = LLParserLimits(
    max_lexer_states=20_000, step_lexer_fuel=200_000, step_max_items=20_000, verbose_errors=False
)
# One blank at most between the parts of JSON: without a bound a small model writes blanks for ever.
_JSON_OPTIONS: "JsonCompileOptions" = {"whitespace_pattern": "[ \\n]?", "lenient": False}


class Vocabulary:
    """A vocabulary as llguidance reads it; safe to share between threads.

    The end of an answer gets an id of its own, one past the last token: which tokens end a
    sequence is for the engine to say.

    Args:
        tokens: what each token adds to a text, by id; one without bytes is never allowed.
        special_ids: tokens that are no text; allowed only where a Lark grammar names them.
        encode: ids of a text, as the model is used to see it.

    Attributes:
        num_tokens: masks have as many bits.
        digest: changes with the vocabulary.
        backend: llguidance's own object.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        special_ids: Iterable[int],
        encode: Callable[[str], list[int]],
    ) -> None:
        self.num_tokens = len(tokens)
        specials = sorted(special_ids)
        self.digest = hashlib.sha256(repr((tokens, specials)).encode()).hexdigest()
        wrapped = TokenizerWrapper(_Source([*tokens, b""], specials, encode))
        self.backend = LLTokenizer(wrapped, n_vocab=len(tokens) + 1)


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """A model's; takes a moment when it is large."""
    return Vocabulary(
        [*map(tokenizer.token_bytes, range(tokenizer.vocab_size))],
        tokenizer.special_ids,
        partial(tokenizer.encode, add_special_tokens=False),
    )


def compile_grammar(
    spec: GrammarSpec, vocabulary: Vocabulary, *, param: str = "response_format"
) -> "CompiledGrammar":
    """Compiles a grammar in this thread, whose stack must be deep; see `GrammarCache.compile`.

    Args:
        spec: what answers must look like.
        vocabulary: what answers are made of.
        param: JSON path of the grammar in the request, for the error.

    Raises:
        RequestError: the grammar is wrong, too large, or allows no text.
    """
    try:
        check_bounds(spec)
        grammar = _grammar_of(spec)
    except ValueError as error:  # RequestError is one
        raise _refused(spec, str(error), param) from None
    matcher = LLMatcher(vocabulary.backend, grammar, log_level=0, limits=_LIMITS)
    if matcher.is_error():
        raise _refused(spec, _first_line(matcher.get_error()), param)
    try:
        is_empty = MatcherState(matcher.deep_copy(), vocabulary.num_tokens).is_finished
    except RequestError as error:
        raise _refused(spec, error.message, param) from None
    if is_empty:
        raise _refused(spec, "it allows no text but the empty one", param)
    identity = json.dumps([vocabulary.digest, spec.kind, spec.source])
    key = hashlib.sha256(identity.encode()).hexdigest()
    return CompiledGrammar(key, matcher, vocabulary.num_tokens)


class CompiledGrammar:
    """A `types.TokenGrammar`; safe to share between threads."""

    def __init__(self, key: str, prototype: LLMatcher, num_tokens: int) -> None:
        self.key = key
        self._prototype = prototype
        self._num_tokens = num_tokens

    def start(self) -> "MatcherState":
        """A new sequence's place in the grammar."""
        return MatcherState(self._prototype.deep_copy(), self._num_tokens)


class MatcherState:
    """A `types.GrammarState`; belongs to one thread at a time."""

    def __init__(self, matcher: LLMatcher, num_tokens: int) -> None:
        self._matcher = matcher
        self._num_tokens = num_tokens
        self._mask: bytes | None = None  # of the present place

    @property
    def is_accepting(self) -> bool:
        """The text so far is a whole one."""
        return self._matcher.is_accepting()

    @property
    def is_finished(self) -> bool:
        """The text so far is a whole one, and no token may follow."""
        # The library may notice that nothing can follow only when it looks for it.
        if not self._matcher.is_stopped() and not any(self._compute_mask()):
            return True
        self._check()
        return self._matcher.is_stopped()

    def fill_mask(self, out: memoryview) -> None:
        """Sets bit i % 8 of byte i // 8 where token i may come next, and clears all others.

        Raises:
            RequestError: the grammar is too complex to go on.
        """
        mask = self._compute_mask()
        size = min(len(mask), len(out))
        out[:size] = mask[:size]
        out[size:] = bytes(len(out) - size)

    def accept(self, token_id: int) -> None:
        """Takes in the next token.

        Raises:
            RequestError: the grammar does not allow it, or is too complex to go on.
        """
        self._mask = None
        self._matcher.consume_token(token_id)
        self._check()

    def _compute_mask(self) -> bytes:
        if self._mask is None:
            mask = bytearray(self._matcher.compute_bitmask())
            self._check()
            mask[self._num_tokens // 8] &= (1 << self._num_tokens % 8) - 1
            self._mask = bytes(mask[: self._num_tokens // 8 + 1])
        return self._mask

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = _first_line(self._matcher.get_error())
            if reason.startswith("NoExtension"):
                reason = "nothing that could follow leads to a whole text"
            raise RequestError(
                f"the grammar cannot go on: {reason}",
                code="grammar_failed",
                param="response_format",
            )


class GrammarCache:
    """The grammars of one vocabulary, compiled once each; a failure is remembered too.

    Methods may be called from several event loops.

    Args:
        make_vocabulary: called before the first grammar is compiled, in its thread.
        max_cached: grammars that are kept, those that are being compiled besides.
    """

    def __init__(
        self, make_vocabulary: Callable[[], Vocabulary], *, max_cached: int = MAX_CACHED
    ) -> None:
        self._make_vocabulary = make_vocabulary
        self._max_cached = max_cached
        self._gate = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._futures: OrderedDict[GrammarSpec, Future[CompiledGrammar]] = OrderedDict()

    def prepare(self) -> None:
        """Reads the vocabulary now rather than for the first grammar.

        llguidance does not let other threads run meanwhile: a second for 150,000 tokens.
        """
        with self._one_at_a_time:
            _ = self._vocabulary

    async def compile(
        self, spec: GrammarSpec, *, param: str = "response_format"
    ) -> CompiledGrammar:
        """Compiles a grammar in a thread, or finds it; never blocks the event loop.

        Args:
            spec: what answers must look like.
            param: JSON path of the grammar in the request, for the error.

        Raises:
            RequestError: the grammar is wrong, too large, or allows no text.
            CapacityError: too many grammars wait for being compiled.
        """
        future = self._find_or_start(spec)
        try:
            # Who goes away must not take the grammar from others who wait for it.
            return await asyncio.shield(asyncio.wrap_future(future))
        except RequestError as error:
            raise RequestError(error.message, code=error.code, param=param) from None

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return self._make_vocabulary()

    def _find_or_start(self, spec: GrammarSpec) -> Future[CompiledGrammar]:
        with self._gate:
            future = self._futures.get(spec)
            if future is not None:
                self._futures.move_to_end(spec)
                return future
            if sum(not waiting.done() for waiting in self._futures.values()) >= MAX_WAITING:
                raise CapacityError(f"{MAX_WAITING} grammars wait to be compiled; try again later")
            self._drop_oldest()
            future = self._futures[spec] = Future()
            future.set_running_or_notify_cancel()
            _start_deep(lambda: self._run(spec, future))
            return future

    def _drop_oldest(self) -> None:
        done = [spec for spec, future in self._futures.items() if future.done()]
        for spec in done[: max(len(self._futures) - self._max_cached + 1, 0)]:
            del self._futures[spec]

    def _run(self, spec: GrammarSpec, future: Future[CompiledGrammar]) -> None:
        try:
            with self._one_at_a_time:
                grammar = compile_grammar(spec, self._vocabulary)
        except HeliumError as error:
            future.set_exception(error)
        except Exception as error:
            future.set_exception(InternalError(f"a grammar could not be compiled: {error}"))
        else:
            future.set_result(grammar)


def _grammar_of(spec: GrammarSpec) -> str:
    """The grammar as llguidance takes it."""
    match spec.kind:
        case GrammarKind.JSON_SCHEMA:
            schema = json.loads(spec.source)
            if schema is False:
                raise ValueError("the schema `false` allows nothing")
            return LLMatcher.grammar_from_json_schema(
                {} if schema is True else schema, overrides=_JSON_OPTIONS
            )
        case GrammarKind.JSON_OBJECT:
            return LLMatcher.grammar_from_json_schema({"type": "object"}, overrides=_JSON_OPTIONS)
        case GrammarKind.REGEX:
            return LLMatcher.grammar_from_regex(spec.source)
        case GrammarKind.CHOICE:
            choices = " | ".join(json.dumps(choice) for choice in json.loads(spec.source))
            return LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {choices}")
        case GrammarKind.LARK:
            return LLMatcher.grammar_from_lark(spec.source)
        case GrammarKind.PARTS:
            parts = json.loads(spec.source)
            schemas = [{"name": k, "json_schema": v} for k, v in parts["schemas"].items()]
            return json.dumps({"grammars": [{"lark_grammar": parts["lark"]}, *schemas]})


class _Source:
    """What `TokenizerWrapper` wants to know; the attributes' names are the library's.

    It is asked for the ids of texts that a grammar leaves no choice about, and allows their first
    alone. They must spell that text byte by byte, which not every tokenizer does: some put a space
    before it.
    """

    def __init__(
        self, tokens: list[bytes], special_ids: list[int], encode: Callable[[str], list[int]]
    ) -> None:
        self.tokens = tokens
        self.bos_token_id = None
        self.eos_token_id = len(tokens) - 1
        self.special_token_ids = [*special_ids, self.eos_token_id]
        self._encode = encode
        specials = {*self.special_token_ids}
        self._ids = {token: i for i, token in enumerate(tokens) if token and i not in specials}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: str) -> list[int]:
        spelled = text.encode()
        token_ids = self._encode(text)
        if b"".join([self.tokens[token_id] for token_id in token_ids]) == spelled:
            return token_ids
        return self._spell(spelled)

    def _spell(self, text: bytes) -> list[int]:
        """The longest token that fits, again and again; ends where none does."""
        token_ids: list[int] = []
        start = 0
        while start < len(text):
            ends = range(min(start + self._longest, len(text)), start, -1)
            end = next((end for end in ends if text[start:end] in self._ids), None)
            if end is None:
                break
            token_ids.append(self._ids[text[start:end]])
            start = end
        return token_ids


def _refused(spec: GrammarSpec, reason: str, param: str) -> RequestError:
    return RequestError(
        f"the {spec.kind} cannot be used: {reason}", code="invalid_grammar", param=param
    )


def _first_line(text: str) -> str:
    """An error of the library's without the state it appends, cut to a readable length."""
    line = " ".join(text.split("\n<")[0].split())
    return line if len(line) <= _MAX_MESSAGE else line[:_MAX_MESSAGE] + "..."


def _start_deep(function: Callable[[], None]) -> None:
    """Runs a function in a thread with a deep stack; the process does not wait for it at exit."""
    with _STACK_GATE:
        before = threading.stack_size(_STACK_BYTES)
        try:
            threading.Thread(target=function, name="helium-grammar", daemon=True).start()
        finally:
            threading.stack_size(before)


_STACK_GATE = threading.Lock()  # the stack size is the whole process's
