"""Counters of one calling operator while its run goes on."""

import dataclasses
from dataclasses import dataclass

from helium_jax.executor.result import OperatorStatistics


@dataclass(slots=True)
class Tally:
    """The fields of `OperatorStatistics`, still growing; part of a `RunState`.

    Attributes:
        num_closed: rows for which the operator makes no further call.
    """

    operator: str
    num_rows: int
    num_done: int = 0
    num_failed: int = 0
    num_replaced: int = 0
    num_calls: int = 0
    num_retries: int = 0
    num_saved_calls: int = 0
    num_cached_calls: int = 0
    prompt_tokens: int = 0
    kv_cached: int = 0
    saved_prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    num_closed: int = 0

    def freeze(self) -> OperatorStatistics:
        """The counters as they are now."""
        return OperatorStatistics(**{name: getattr(self, name) for name in _FIELDS})


_FIELDS = tuple(field.name for field in dataclasses.fields(OperatorStatistics))
