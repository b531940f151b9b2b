"""What a run may still spend of its calls and tokens."""

from dataclasses import dataclass

from helium_jax.plan import RunLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What earlier attempts at a run took of its limits.

    Attributes:
        num_calls: that reached the engine.
        num_tokens: of their prompts and answers.
        seconds: they ran.
    """

    num_calls: int = 0
    num_tokens: int = 0
    seconds: float = 0.0


NOTHING = Spent()


class Budget:
    """Counts calls and tokens against a run's limits; part of a `RunState`.

    A call reserves its prompt and its `max_tokens` when it is submitted and gives back what it did
    not use when it ends, so a run never spends more than its limit, as long as its calls have
    `max_tokens`. One without reserves its prompt only.
    """

    def __init__(self, limits: RunLimits, spent: Spent = NOTHING) -> None:
        """`spent` counts against the limits from the beginning."""
        self._limits = limits
        self._num_calls = spent.num_calls
        self._num_spent = spent.num_tokens
        self._num_reserved = 0
        self._reserved: dict[int, int] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no call holds a reservation that it may give back."""
        return not self._reserved

    def call_fault(self) -> str | None:
        """Why no further call may be made, or None."""
        most = self._limits.max_llm_calls
        if most is not None and self._num_calls >= most:
            return f"the run's limit of max_llm_calls={most} is reached; raise it"
        return None

    def submit(self, call_id: int, num_prompt_tokens: int, max_tokens: int | None) -> str | None:
        """Counts a call and reserves its tokens, or says why they are not there now."""
        most = self._limits.max_total_tokens
        needed = num_prompt_tokens + (max_tokens or 0)
        left = None if most is None else most - self._num_spent - self._num_reserved
        if left is not None and needed > left:
            return (
                f"the call may need {needed} tokens but only {left} are left of the run's "
                f"max_total_tokens={most}; raise it, or lower max_tokens"
            )
        self._num_calls += 1
        self._num_reserved += needed
        self._reserved[call_id] = needed
        return None

    def finish(self, call_id: int, num_tokens: int) -> None:
        """Gives a call's reservation back and counts what it used."""
        reserved = self._reserved.pop(call_id, None)
        if reserved is not None:
            self._num_reserved -= reserved
            self._num_spent += num_tokens

    def take_back(self, call_id: int) -> None:
        """The call was not made after all: another one's answer served."""
        if call_id in self._reserved:
            self.finish(call_id, 0)
            self._num_calls -= 1
