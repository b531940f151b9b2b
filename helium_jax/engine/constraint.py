"""A sequence held to a grammar: the mask of its next token, made as soon as the last is known.

The device applies the mask (`step.mask_logits`); here it is decided which tokens are possible when
the grammar, end-of-sequence ids and `min_tokens` come together.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from helium_jax.errors import HeliumError, InternalError, RequestError
from helium_jax.types import GenerateRequest, TokenGrammar

T = TypeVar("T")


class Constraint:
    """Where a sequence is in its grammar, and what may come next.

    Survives a preemption: it knows every token the host knows, whatever happens to their pages.

    Args:
        grammar: of the request.
        request: whose sampling parameters count.
        vocab_size: of the model.
        eos_token_ids: of the model.

    Attributes:
        mask: uint32 [ceil(vocab_size / 32)]; bit i % 32 of word i // 32 is set where token i may
            come next. A new array after every token.
        is_finished: the sequence must end now.

    Raises (from the constructor and `advance`):
        RequestError: the grammar cannot go on, or nothing it allows is possible.
        InternalError: the grammar's own code failed.
    """

    def __init__(
        self,
        grammar: TokenGrammar,
        request: GenerateRequest,
        *,
        vocab_size: int,
        eos_token_ids: Iterable[int],
    ) -> None:
        sampling = request.sampling
        self._vocab_size = vocab_size
        self._min_tokens = sampling.min_tokens
        self._eos_ids = () if sampling.ignore_eos else tuple(eos_token_ids)
        self._held_back = (*self._eos_ids, *sampling.stop_token_ids)
        self._num_generated = 0
        self._state = _guarded(grammar.start)
        self.mask = np.zeros(0, np.uint32)
        self.is_finished = False
        _guarded(self._look_ahead)

    def advance(self, token_id: int) -> None:
        """Takes in the sequence's next token, which is no end of sequence."""
        self._num_generated += 1

        def accept() -> None:
            self._state.accept(token_id)
            self._look_ahead()

        _guarded(accept)

    def _look_ahead(self) -> None:
        self.is_finished = self._state.is_finished
        if self.is_finished:
            return
        mask = np.zeros(-(-self._vocab_size // 32), np.uint32)
        self._state.fill_mask(mask.data.cast("B"))
        unused = -self._vocab_size % 32
        mask[-1] &= np.uint32(0xFFFF_FFFF >> unused)
        # Where the text is no whole one, such an id would end it all the same.
        _set(mask, self._eos_ids, self._state.is_accepting)
        possible = mask
        if self._num_generated < self._min_tokens:
            possible = mask.copy()
            _set(possible, self._held_back, False)
        if not possible.any():
            self._stop_short()
        self.mask = mask

    def _stop_short(self) -> None:
        """The grammar allows nothing but what min_tokens, or the vocabulary, makes impossible."""
        if not self._state.is_accepting:
            raise RequestError(
                f"after {self._num_generated} tokens the grammar allows no token that the model "
                "has and that min_tokens does not hold back; name other stop_token_ids, or lower "
                "min_tokens",
                code="grammar_failed",
                param="response_format",
            )
        self.is_finished = True


def start_constraint(
    request: GenerateRequest, *, vocab_size: int, eos_token_ids: Iterable[int]
) -> Constraint | None:
    """The constraint of a request that has a grammar; raises what `Constraint` raises."""
    if request.grammar is None:
        return None
    return Constraint(request.grammar, request, vocab_size=vocab_size, eos_token_ids=eos_token_ids)


def _set(mask: np.ndarray, token_ids: Iterable[int], is_allowed: bool) -> None:
    for token_id in token_ids:
        bit = np.uint32(1 << token_id % 32)
        if is_allowed:
            mask[token_id // 32] |= bit
        else:
            mask[token_id // 32] &= ~bit


def _guarded(function: Callable[[], T]) -> T:
    """Runs a grammar's code, which is not ours: whatever it raises must end one request only."""
    try:
        return function()
    except HeliumError:
        raise
    except Exception as error:
        raise InternalError(f"the grammar failed: {error}") from error
