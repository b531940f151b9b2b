"""A vocabulary for the tiny random model, grammars over it, and an oracle for constrained rows."""

from functools import cache

import numpy as np

from helium_jax.text.grammar import Vocabulary, compile_grammar
from tests.engine.conftest import EOS, MODEL, oracle_logits

_CHARS = [*'{}[]":,.-+0123456789 \n\\', *"abcdefghijklmnopqrstuvwxyz"]
_WORDS = ['{"', '":', '"}', '",', "true", "false", "null", "ab", "abc", "12", "yes", "no", "é"]
TOKENS = [b"", *(token.encode() for token in [*_CHARS, *_WORDS])]
TOKENS += [b""] * (MODEL.vocab_size - len(TOKENS))


def encode(text):
    """Ids of a text, one per character."""
    return [TOKENS.index(char.encode()) for char in text]


def text_of(token_ids):
    """The text of generated ids."""
    return b"".join(TOKENS[token_id] for token_id in token_ids).decode()


@cache
def vocabulary():
    return Vocabulary(TOKENS, [EOS], encode)


@cache
def grammar_of(spec):
    return compile_grammar(spec, vocabulary())


def allowed_by(state):
    """The token ids that a state allows, read bit by bit."""
    mask = bytearray(-(-MODEL.vocab_size // 32) * 4)
    state.fill_mask(memoryview(mask))
    return [i for i in range(MODEL.vocab_size) if mask[i // 8] >> i % 8 & 1]


def oracle_constrained(prompt, spec, max_tokens):
    """Greedy decoding among the allowed tokens, alone and without any cache."""
    state = grammar_of(spec).start()
    tokens: list[int] = []
    while len(tokens) < max_tokens and not state.is_finished:
        allowed = allowed_by(state) + ([EOS] if state.is_accepting else [])
        logits = oracle_logits([*prompt, *tokens])[-1]
        tokens.append(min(allowed, key=lambda i: (-logits[i], i)))
        if tokens[-1] == EOS:
            break
        state.accept(tokens[-1])
    return tuple(tokens)


class Stubborn:
    """A grammar of fixed masks, for what real grammars do not do.

    Args:
        masks: the allowed ids at each place; an exception is raised.
        is_accepting: whether the text may end anywhere.
    """

    key = "stubborn"

    def __init__(self, *masks, is_accepting=False):
        self.masks = masks
        self.is_accepting = is_accepting

    def start(self):
        return _StubbornState(self)


class _StubbornState:
    def __init__(self, grammar):
        self._grammar = grammar
        self._place = 0
        self.is_accepting = grammar.is_accepting

    @property
    def is_finished(self):
        return self._place >= len(self._grammar.masks)

    def fill_mask(self, out):
        allowed = self._grammar.masks[self._place]
        if isinstance(allowed, Exception):
            raise allowed
        bits = np.zeros(len(out) * 8, np.uint8)
        bits[list(allowed)] = 1
        out[:] = np.packbits(bits, bitorder="little").tobytes()

    def accept(self, token_id):
        assert token_id in self._grammar.masks[self._place]
        self._place += 1
