"""Counters of one calling operator while its run goes on."""

from dataclasses import dataclass

from helium_jax.executor.result import OperatorStatistics


@dataclass(slots=True)
class Tally:
    """The fields of `OperatorStatistics`, still growing; part of a `RunState`."""

    operator: str
    num_rows: int
    num_done: int = 0
    num_failed: int = 0
    num_calls: int = 0
    num_saved_calls: int = 0
    prompt_tokens: int = 0
    kv_cached: int = 0
    saved_prompt_tokens: int = 0
    completion_tokens: int = 0

    def freeze(self) -> OperatorStatistics:
        """The counters as they are now."""
        return OperatorStatistics(
            operator=self.operator,
            num_rows=self.num_rows,
            num_done=self.num_done,
            num_failed=self.num_failed,
            num_calls=self.num_calls,
            num_saved_calls=self.num_saved_calls,
            prompt_tokens=self.prompt_tokens,
            kv_cached=self.kv_cached,
            saved_prompt_tokens=self.saved_prompt_tokens,
            completion_tokens=self.completion_tokens,
        )
