"""How a run may use the engine."""

from dataclasses import dataclass

from helium_jax.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What changes a run's speed and never its outputs.

    Attributes:
        max_in_flight: most calls at the engine at once; None: enough to keep it full.
        single_flight: equal deterministic calls of the run are made once.
        share_kv: calls may share KV pages with each other and with other requests.
        cache_salt: with whom KV pages are shared, if at all.
        priority: added to every call's own; lower runs sooner.
    """

    max_in_flight: int | None = None
    single_flight: bool = True
    share_kv: bool = True
    cache_salt: str = ""
    priority: int = 0

    def __post_init__(self) -> None:
        if self.max_in_flight is not None and self.max_in_flight < 1:
            raise RequestError(f"max_in_flight={self.max_in_flight} must be at least 1")


# One call at a time, row after row, nothing reused: the baseline that everything is compared to.
NAIVE = RunOptions(max_in_flight=1, single_flight=False, share_kv=False)
