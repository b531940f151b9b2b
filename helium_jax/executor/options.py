"""How a run may use the engine."""

from dataclasses import dataclass
from typing import Literal, get_args

from helium_jax.errors import RequestError
from helium_jax.optimizer import RULE_NAMES

AS_READY = "as_ready"
CostModel = Literal["best", "token_step", "roofline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What changes a run's speed and never its outputs.

    Attributes:
        policy: who orders the calls: "as_ready", or a name in `schedule.policies.POLICIES`.
        strict_order: keep the policy's planned order even where a worker has to wait for it.
        max_in_flight: most calls at the engine at once; None: enough to keep it full.
        encode_ahead: calls that are prepared before the engine has room for them.
        single_flight: equal deterministic calls are made once, also those of other runs of the
            same session that are on their way.
        output_cache: answers may come from, and go to, the session's output cache.
        precompute: static prefixes worth it are computed ahead of the calls, if the policy
            wants that.
        prefill_ahead: what is known of a prompt is computed while the rest is still generated, on
            an engine of one worker with pages to spare.
        disabled_rules: names of rewrite rules that are not applied.
        share_kv: calls may share KV pages with each other and with other requests.
        cache_salt: with whom KV pages and answers are shared, if at all.
        priority: added to every call's own; lower runs sooner.
        weight: of the run's share of the engine among the runs of its session.
        seed: of what the policy draws.
        cost_model: by which orders are compared: "token_step", the paper's, "roofline", once the
            engine was measured, or "best": the one that predicted earlier runs better.
    """

    policy: str = "helium"
    strict_order: bool = False
    max_in_flight: int | None = None
    encode_ahead: int = 2_048
    single_flight: bool = True
    output_cache: bool = True
    precompute: bool = True
    prefill_ahead: bool = True
    disabled_rules: frozenset[str] = frozenset()
    share_kv: bool = True
    cache_salt: str = ""
    priority: int = 0
    weight: float = 1.0
    seed: int = 0
    cost_model: CostModel = "best"

    def __post_init__(self) -> None:
        for name in ("max_in_flight", "encode_ahead"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name}={value} must be at least 1")
        if self.cost_model not in (models := get_args(CostModel)):
            names = ", ".join(models)
            raise RequestError(f"cost_model={self.cost_model!r} is none of {names}")
        if not self.weight > 0:
            raise RequestError(f"weight={self.weight} must be positive")


# One call at a time, row after row, nothing reused: the baseline that everything is compared to.
NAIVE = RunOptions(
    policy="naive",
    max_in_flight=1,
    single_flight=False,
    output_cache=False,
    precompute=False,
    prefill_ahead=False,
    disabled_rules=frozenset(RULE_NAMES),
    share_kv=False,
)
