"""The cases of each table: what is compared, on which workload, on which engines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from helium_jax.experiments.experiment import Case
from helium_jax.experiments.setting import Engines, Setting
from helium_jax.experiments.variant import HELIUM, MERGED, Variant, ablations, alone, variant_of
from helium_jax.experiments.workload import Workload
from helium_jax.experiments.workloads import (
    PROMPT_SHAPES,
    debate_mmlu,
    map_reduce_mmlu,
    trading,
)
from helium_jax.text import TextModel

# Helium first: every ratio is over it.
SCHEDULERS = (HELIUM, "query_wise", "op_wise", "random", "lspf")
SENSITIVE = (HELIUM, "langgraph", "kvflow", "lspf")
TRADING = "trading-day-two"
MakeCases = Callable[[Setting, TextModel, Sequence[str], Sequence[str]], list[Case]]


def policy_cases(
    setting: Setting, text: TextModel, workloads: Sequence[str], policies: Sequence[str]
) -> list[Case]:
    """Table a: every policy on every workload, without and with the merging of equal calls."""
    return [
        _case(
            "a",
            name,
            setting,
            setting.make(name, text),
            merge=merge,
            variants=_policy_variants(policies or setting.policies, merge, setting.seed),
        )
        for name in workloads or setting.workloads
        for merge in setting.merges
    ]


def _policy_variants(policies: Sequence[str], merge: bool, seed: int) -> tuple[Variant, ...]:
    """Those of table a; where nobody merges, Helium does so in a line of its own."""
    variants = tuple(variant_of(policy, merge=merge, seed=seed) for policy in policies)
    if merge or HELIUM not in policies:
        return variants
    return (*variants, replace(variant_of(HELIUM, merge=True, seed=seed), name=MERGED))


def ablation_cases(
    setting: Setting, text: TextModel, workloads: Sequence[str], policies: Sequence[str]
) -> list[Case]:
    """Table b: Helium without each of its parts. Cascade belongs to the engine, so to another."""
    cases = []
    for name in workloads or (TRADING,):
        workload = setting.make(name, text)
        full, *others = ablations()
        case = _case("b", name, setting, workload, merge=True, variants=(full, *others))
        uncascaded = replace(
            case,
            engines=replace(case.engines, cascade=False),
            variants=(replace(full, name="minus cascade"),),
        )
        cases += [case, uncascaded]
    return cases


def scheduling_cases(
    setting: Setting, text: TextModel, workloads: Sequence[str], policies: Sequence[str]
) -> list[Case]:
    """Table c: the order of calls alone, caches and merging off."""
    variants = tuple(alone(policy, seed=setting.seed) for policy in policies or SCHEDULERS)
    return [
        _case("c", name, setting, setting.make(name, text), merge=False, variants=variants)
        for name in workloads or ("trading",)
    ]


def sensitivity_cases(
    setting: Setting, text: TextModel, workloads: Sequence[str], policies: Sequence[str]
) -> list[Case]:
    """Table e: one quantity at a time, equal calls not merged."""
    variants = tuple(variant_of(policy, seed=setting.seed) for policy in policies or SENSITIVE)

    def case(name: str, workload: Workload, **engines: int) -> Case:
        made = _case("e", name, setting, workload, merge=False, variants=variants)
        return replace(made, engines=replace(made.engines, **engines))

    base = setting.make("map-reduce-mmlu", text)
    capacity = setting.kv_capacity(base)
    fill = setting.filler("map-reduce-mmlu", text)
    rows = len(base.rows)
    cases = [
        case(f"rows {n}", map_reduce_mmlu(fill, num_rows=n), kv_tokens=capacity)
        for n in (rows // 2, rows, 2 * rows)
    ]
    cases += [
        case(f"branches {n}", trading(setting.filler("trading", text), num_rows=1, branches=n))
        for n in (4, 8, 16)
    ]
    few = max(2, setting.num_rows("debate-mmlu") // 2)
    cases += [
        case(f"rounds {n}", debate_mmlu(fill, num_rows=few, rounds=n), kv_tokens=capacity)
        for n in (2, 3, 4, 5)
    ]
    cases += [case(f"workers {n}", base, num_workers=n, kv_tokens=capacity // n) for n in (1, 2)]
    cases += [
        case(f"KV tokens {capacity * n // 4}", base, kv_tokens=capacity * n // 4)
        for n in (2, 4, 8, 16)
    ]
    cases += [
        case(name, setting.make(name, text, num_rows=max(4, rows // 2))) for name in PROMPT_SHAPES
    ]
    return cases


def _case(
    table: str,
    name: str,
    setting: Setting,
    workload: Workload,
    *,
    merge: bool,
    variants: tuple[Variant, ...],
) -> Case:
    engines = Engines(
        model=setting.model,
        kv_tokens=setting.kv_capacity(workload),
        max_num_seqs=setting.max_num_seqs,
    )
    return Case(
        table=table,
        name=name,
        workload=workload,
        engines=engines,
        variants=variants,
        merge=merge,
        repeats=setting.repeats,
    )


# The tables that need engines; d does not (`helium_jax.experiments.optimality`).
TABLES: Mapping[str, MakeCases] = MappingProxyType(
    {
        "a": policy_cases,
        "b": ablation_cases,
        "c": scheduling_cases,
        "e": sensitivity_cases,
    }
)
