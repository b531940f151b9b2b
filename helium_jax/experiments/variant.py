"""What is compared: a policy and what it may use beside its order of calls."""

from dataclasses import dataclass, replace

from helium_jax.executor import RunOptions

HELIUM = "helium"
NAIVE = "naive"
MERGED = "helium, merging"
MERGING = frozenset({"merge_equal_subplans"})
PRUNING = frozenset({"merge_equal_subplans", "prune_unused_nodes", "fold_constant_templates"})
# "Ready calls at once" in the reference's table of policies: the queue is the engine's.
EVERYTHING_AT_ONCE = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run a workload.

    Attributes:
        name: in tables, such as "kvflow" or "helium minus precompute".
        options: how the run may use the engine.
        plans_eviction: the store hears when the plan needs a prefix again.
        num_rows: runs the first rows of the batch only, as a policy must whose time is long and
            proportional to the rows; None for all.
    """

    name: str
    options: RunOptions
    plans_eviction: bool = True
    num_rows: int | None = None


def variant_of(policy: str, *, merge: bool = False, seed: int = 0) -> Variant:
    """A policy as the paper compares it: baselines have their order, queue and eviction only.

    Answers are kept across batches by Helium, and only where equal calls are made once: within a
    batch the output cache would merge them as well.

    Args:
        policy: a name in `schedule.policies.POLICIES`.
        merge: whether equal greedy calls of a run are made once, for baselines as for ours.
        seed: of what the policy draws.
    """
    is_ours = policy == HELIUM
    options = RunOptions(
        policy=policy,
        max_in_flight=None if is_ours else EVERYTHING_AT_ONCE,
        output_cache=is_ours and merge,
        prefill_ahead=is_ours,
        single_flight=merge,
        disabled_rules=frozenset() if merge else MERGING,
        seed=seed,
    )
    return Variant(name=policy, options=options, num_rows=1 if policy == NAIVE else None)


def alone(policy: str, *, seed: int = 0) -> Variant:
    """The order of calls alone: nothing is precomputed, merged or fetched from caches."""
    variant = variant_of(policy, seed=seed)
    options = replace(variant.options, output_cache=False, precompute=False, prefill_ahead=False)
    return replace(variant, options=options)


def ablations(*, merge: bool = True) -> tuple[Variant, ...]:
    """Helium, and Helium without each of its parts."""
    full = variant_of(HELIUM, merge=merge)

    def minus(part: str, **changes: object) -> Variant:
        options = replace(full.options, **changes)
        return replace(full, name=f"minus {part}", options=options)

    return (
        full,
        minus("KV precompute", precompute=False),
        minus("plan pruning", single_flight=False, disabled_rules=PRUNING),
        minus("prompt cache", output_cache=False),
        # Any order that is legal; a policy without a plan warms nothing either.
        minus("scheduling", policy="random"),
        minus("prefill ahead", prefill_ahead=False),
        replace(full, name="minus plan-aware eviction", plans_eviction=False),
    )
