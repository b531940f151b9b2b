"""An unfinished request as the loop keeps it, and what whoever waits for it is told."""

from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from helium_jax.engine.constraint import Constraint
from helium_jax.engine.sampling_rows import pack_row
from helium_jax.engine.sequence import Sequence
from helium_jax.errors import HeliumError
from helium_jax.kvstore.store import Store
from helium_jax.types import FinishReason, TokenEvent, TokenLogprobs, WarmReceipt

# What reaches whoever waits for a request.
Outcome = TokenEvent | HeliumError


def event_of(outcome: Outcome) -> TokenEvent:
    """The event, or the error raised."""
    if isinstance(outcome, HeliumError):
        raise outcome
    return outcome


@dataclass(slots=True, eq=False)
class Active:
    """What the loop keeps of an unfinished request beside its sequence.

    Attributes:
        sequence: the batcher's record.
        seed: resolved; the same after a preemption.
        row: packed sampling parameters for its present slot; None while it waits.
        constraint: what its grammar allows next; None for a request without one.
        is_reported: some tokens were handed out, and the prompt's usage with them.
        warmed: answered when a warm sequence ends; None for requests.
        pin: whether to pin what was warmed.
        pin_value: what that pin is worth.
    """

    sequence: Sequence
    seed: int
    row: np.ndarray | None = None
    constraint: Constraint | None = None
    is_reported: bool = False
    warmed: Future[WarmReceipt] | None = None
    pin: bool = False
    pin_value: float = 0.0

    @property
    def request_id(self) -> str:
        return self.sequence.request.request_id

    def pack_row(self, *, slot: int, eos_token_ids: frozenset[int]) -> np.ndarray:
        """Its sampling parameters for a slot.

        Raises:
            RequestError: they cannot be packed.
        """
        return pack_row(
            self.sequence.request.sampling,
            seed=self.seed,
            prompt_len=self.sequence.num_prompt,
            slot=slot,
            eos_token_ids=eos_token_ids,
        )

    def take(self, token_id: int, eos_token_ids: frozenset[int]) -> FinishReason | None:
        """Takes in its next token; returns why it ends with this one, None if it goes on.

        Raises:
            HeliumError: its grammar cannot go on.
        """
        sampling = self.sequence.request.sampling
        if token_id in sampling.stop_token_ids or (
            token_id in eos_token_ids and not sampling.ignore_eos
        ):
            return FinishReason.STOP
        if self.constraint is not None:
            self.constraint.advance(token_id)
            if self.constraint.is_finished:
                return FinishReason.STOP
        return FinishReason.LENGTH if self.sequence.is_at_limit else None

    def token_event(self, token_id: int, logprobs: tuple[TokenLogprobs, ...]) -> TokenEvent:
        """One more token; the first one says what the prompt cost."""
        event = TokenEvent(
            request_id=self.request_id,
            token_ids=(token_id,),
            logprobs=logprobs,
            usage=None if self.is_reported else self.sequence.usage(),
        )
        self.is_reported = True
        return event

    def last_event(
        self,
        reason: FinishReason,
        token_ids: tuple[int, ...],
        logprobs: tuple[TokenLogprobs, ...],
    ) -> TokenEvent:
        """Its end."""
        return TokenEvent(
            request_id=self.request_id,
            token_ids=token_ids,
            logprobs=logprobs,
            finish_reason=reason,
            usage=self.sequence.usage(),
        )

    def receipt(self, store: Store) -> WarmReceipt:
        """What a finished warm sequence left in the store; pins it when that was asked."""
        table = self.sequence.table
        resident = len(store.match(table, len(table.keys)))
        pin_id = store.pin(table, value=self.pin_value).pin_id if self.pin else None
        return WarmReceipt(
            resident=resident * store.page_size,
            computed=self.sequence.most_computed - (self.sequence.kv_cached or 0),
            pin_id=pin_id,
        )
