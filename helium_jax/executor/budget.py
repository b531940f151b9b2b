"""What a run may still spend of its calls and tokens."""

from helium_jax.plan import RunLimits


class Budget:
    """Counts calls and tokens against a run's limits; part of a `RunState`.

    A call reserves its prompt and its `max_tokens` when it is submitted and gives back what it did
    not use when it ends, so a run never spends more than its limit, as long as its calls have
    `max_tokens`. One without reserves its prompt only.
    """

    def __init__(self, limits: RunLimits) -> None:
        self._limits = limits
        self._num_calls = 0
        self._num_spent = 0
        self._prepared: dict[int, int] = {}
        self._reserved: dict[int, int] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no call holds a reservation that it may give back."""
        return not self._reserved

    def start_call(self) -> str | None:
        """Counts a call, or says why it may not be made."""
        most = self._limits.max_llm_calls
        if most is not None and self._num_calls >= most:
            return f"the run's limit of max_llm_calls={most} is reached; raise it"
        self._num_calls += 1
        return None

    def prepare(self, call_id: int, num_prompt_tokens: int, max_tokens: int | None) -> None:
        """Notes what a call may need at most."""
        self._prepared[call_id] = num_prompt_tokens + (max_tokens or 0)

    def submit(self, call_id: int) -> str | None:
        """Reserves a prepared call's tokens, or says why they are not there now."""
        most = self._limits.max_total_tokens
        needed = self._prepared[call_id]
        left = None if most is None else most - self._num_spent - sum(self._reserved.values())
        if left is not None and needed > left:
            return (
                f"the call may need {needed} tokens but only {left} are left of the run's "
                f"max_total_tokens={most}; raise it, or lower max_tokens"
            )
        self._reserved[call_id] = self._prepared.pop(call_id)
        return None

    def finish(self, call_id: int, num_tokens: int) -> None:
        """Gives a call's reservation back and counts what it used."""
        self._prepared.pop(call_id, None)
        if self._reserved.pop(call_id, None) is not None:
            self._num_spent += num_tokens
