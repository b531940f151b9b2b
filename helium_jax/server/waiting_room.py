"""How much of the queue each key fills: sequences, and prompt tokens, before a first token."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from helium_jax.errors import CapacityError
from helium_jax.server.config import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What waits: sequences, and the tokens of their prompts."""

    sequences: int = 0
    tokens: int = 0


class WaitingRoom:
    """Counts what waits by key, so that nobody fills the queue that all keys share.

    The engine itself bounds the whole queue (`max_waiting_requests`, `max_waiting_tokens`).
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_tenant: dict[str, Waiting] = {}

    def waiting(self, tenant: str) -> Waiting:
        """What a key has in the queue now."""
        return self._by_tenant.get(tenant, Waiting())

    @contextlib.contextmanager
    def enter(self, tenant: str, prompt_lengths: Sequence[int]) -> Iterator[Callable[[int], None]]:
        """Lets the sequences of one request wait until they have begun, or the context ends.

        Args:
            tenant: whose they are.
            prompt_lengths: tokens of each sequence's prompt.

        Yields:
            What is to be called with a sequence's index when its first token is there.

        Raises:
            CapacityError: the key would have too much in the queue; an idle key may always ask.
        """
        self._check(tenant, prompt_lengths)
        inside = dict(enumerate(prompt_lengths))
        self._add(tenant, len(inside), sum(prompt_lengths))

        def begin(index: int) -> None:
            length = inside.pop(index, None)
            if length is not None:
                self._add(tenant, -1, -length)

        try:
            yield begin
        finally:
            self._add(tenant, -len(inside), -sum(inside.values()))

    def _check(self, tenant: str, prompt_lengths: Sequence[int]) -> None:
        now = self.waiting(tenant)
        if not now.sequences:
            return
        limits = self._limits
        for count, more, most, what in (
            (now.sequences, len(prompt_lengths), limits.key_waiting_sequences, "sequences"),
            (now.tokens, sum(prompt_lengths), limits.key_waiting_tokens, "prompt tokens"),
        ):
            if count + more > most:
                raise CapacityError(
                    f"{count} {what} of yours are waiting, and {more} more would exceed {most}, "
                    "this server's limit for one key; try again later",
                    code="too_many_waiting",
                )

    def _add(self, tenant: str, sequences: int, tokens: int) -> None:
        now = self.waiting(tenant)
        then = Waiting(sequences=now.sequences + sequences, tokens=now.tokens + tokens)
        if then.sequences:
            self._by_tenant[tenant] = then
        else:
            self._by_tenant.pop(tenant, None)  # keys that ask for nothing cost nothing
