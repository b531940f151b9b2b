"""From a plan and its rows to what a run starts from, stage by stage; EXPLAIN shows the same."""

import asyncio
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from helium_jax.errors import PlanError, Problem, RequestError
from helium_jax.executor.codec import TextCodec
from helium_jax.executor.options import RunOptions
from helium_jax.executor.output_cache import CachedOutput, OutputCache
from helium_jax.executor.output_cache_lookup import find_known
from helium_jax.executor.policy import Planned, plan_calls
from helium_jax.executor.rates import EngineRates
from helium_jax.executor.result import OperatorStatistics, RowError, RunStatistics
from helium_jax.executor.rows import bind_rows, find_bad_values
from helium_jax.optimizer import Optimized, Profile, gather_facts, optimize
from helium_jax.physical import PhysicalPlan, lower
from helium_jax.physical.params import bind_params
from helium_jax.plan import Chat, Completion, Plan, Value, check_size
from helium_jax.schedule import SoftSchedule, plan_schedule
from helium_jax.schedule.dispatch import DispatchSetting
from helium_jax.schedule.roofline import Roofline
from helium_jax.schedule.roofline_orders import roofline_cost
from helium_jax.types import ModelInfo

T = TypeVar("T")

NO_PARAMS: Mapping[str, Value] = {}
LARGE_PLAN = 32  # operators; below it and below LARGE_BATCH planning takes few milliseconds
LARGE_BATCH = 256  # rows


# Without slots, so that a schedule for those who look can be made once and kept.
@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """Every stage between a plan and its run.

    Attributes:
        plan: as it was given.
        optimized: what the rules made of it, with their trace.
        physical: the steps of the optimised plan.
        num_rows: rows of the batch.
        columns: values of every operator that needs no work.
        bad_values: rows that have a value of the wrong type and fail for it.
        planned: who orders the calls, and what it was planned from.
        fetched: by operator whose calls are not made because the output cache has their answers
            for every row, the tokens of their prompts.
        seconds: how long each stage took: "rewrite", "lower", "schedule".
        setting: the engines that it was planned for.
        roofline: seconds of their steps; None if they were not measured.
    """

    plan: Plan
    optimized: Optimized
    physical: PhysicalPlan
    num_rows: int
    columns: Mapping[str, tuple[str, ...]]
    planned: Planned
    bad_values: Mapping[int, RowError]
    fetched: Mapping[str, Sequence[int]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    setting: DispatchSetting
    roofline: Roofline | None = None

    @cached_property
    def schedule(self) -> SoftSchedule | None:
        """The soft schedule of the calls, whether the policy goes by it or not; None without any.

        Made when it is first asked for: a search of many milliseconds.
        """
        graph = self.planned.graph
        if not self.num_rows or not graph.nodes:
            return None
        capacities = [float(self.setting.kv_tokens)] * self.setting.num_workers
        return plan_schedule(graph, capacities, roofline=roofline_cost(self.setting))


def prepare(
    plan: Plan, rows: Sequence[Mapping[str, object]], params: Mapping[str, Value] = NO_PARAMS
) -> tuple[PhysicalPlan, int, dict[str, tuple[str, ...]]]:
    """The steps of a plan as it is, its number of rows and their columns; does no work.

    Raises:
        PlanError: the plan or a parameter is not valid, or the batch is too large for it.
        RequestError: a row is not what the plan's inputs say.
    """
    physical = lower(plan, params)
    check_size(plan, len(rows), bind_params(plan, params))
    num_rows, columns = bind_rows(plan, physical, rows)
    return physical, num_rows, columns


def check_models(plan: Plan, model: ModelInfo) -> None:
    """Whether the calls that name a model name the one that would answer.

    Raises:
        PlanError: some name another one.
    """
    problems = [
        Problem(
            path=f"plan.ops.{op.name}.model",
            message=f"{op.settings.model!r} is not served here, {model.name!r} is; "
            "name that one or leave the field out",
            code="model_not_found",
        )
        for op in plan.all_ops
        if isinstance(op, Chat | Completion) and op.settings.model not in (None, model.name)
    ]
    if problems:
        raise PlanError(problems)


async def check_formats(plan: Plan, codec: TextCodec) -> None:
    """Compiles what answers must look like, each once; who calls then finds it compiled.

    Raises:
        PlanError: some cannot be used; names every operator that asks for one.
        CapacityError: too many grammars wait to be compiled.
    """
    problems = []
    for op in plan.all_ops:
        if not isinstance(op, Chat | Completion) or op.settings.response_format is None:
            continue
        path = f"plan.ops.{op.name}.response_format"
        try:
            await codec.compile_grammar(op.settings.response_format, param=path)
        except RequestError as error:
            problems.append(Problem(path=path, message=error.message, code=error.code))
    if problems:
        raise PlanError(problems)


async def prepare_run(
    plan: Plan,
    rows: Sequence[Mapping[str, object]],
    *,
    params: Mapping[str, Value],
    model: ModelInfo,
    setting: DispatchSetting,
    codec: TextCodec,
    options: RunOptions,
    output_cache: OutputCache | None,
    profile: Profile,
    rates: EngineRates | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Prepared:
    """Rewrites, lowers and schedules a plan for a batch; calls no model and changes no cache.

    Raises:
        PlanError: the plan or a parameter is not valid, the batch is too large for it, or a call
            names a model that is not served or a response format that cannot be used.
        RequestError: a row is not what the plan's inputs say, or the options name a rule or a
            policy that does not exist.
    """
    start = clock()
    check_models(plan, model)
    await check_formats(plan, codec)
    is_large = takes_long(plan, len(rows))
    physical, num_rows, columns = await called(lambda: prepare(plan, rows, params), is_large)
    known: dict[tuple[str, int], CachedOutput] = {}
    if output_cache is not None and options.output_cache:
        known = await find_known(
            physical,
            num_rows,
            columns,
            cache=output_cache,
            model=model,
            codec=codec,
            salt=options.cache_salt,
        )

    def finish() -> Prepared:
        facts = gather_facts(
            plan,
            num_rows,
            columns,
            deterministic=model.deterministic,
            known={place: output.text for place, output in known.items()},
        )
        optimized = optimize(plan, facts, disable=options.disabled_rules)
        rewritten = clock()
        lowering = physical, num_rows, columns
        if optimized.plan is not plan:
            lowering = prepare(optimized.plan, rows, params)
        lowered = clock()
        planned = plan_calls(
            *lowering,
            codec=codec,
            setting=setting,
            options=options,
            profile=profile,
        )
        fetched: dict[str, list[int]] = {name: [] for name in optimized.spared}
        for (name, _), output in known.items():
            if name in fetched:
                fetched[name].append(output.prompt_tokens)
        return Prepared(
            plan=plan,
            optimized=optimized,
            physical=lowering[0],
            num_rows=lowering[1],
            columns=lowering[2],
            planned=planned,
            bad_values=find_bad_values(plan, rows),
            fetched=fetched,
            seconds={
                "rewrite": rewritten - start,
                "lower": lowered - rewritten,
                "schedule": clock() - lowered,
            },
            setting=setting,
            roofline=None if rates is None else rates.roofline,
        )

    return await called(finish, is_large)


def takes_long(plan: Plan, num_rows: int) -> bool:
    """Whether planning takes more than a few milliseconds."""
    return len(plan.all_ops) >= LARGE_PLAN or num_rows >= LARGE_BATCH


async def called(function: Callable[[], T], in_thread: bool) -> T:
    """What `function` gives; in a thread if that takes long, so that others on the loop go on."""
    return await asyncio.to_thread(function) if in_thread else function()


def count_rewrites(
    statistics: RunStatistics,
    prepared: Prepared,
    *,
    prompted: Sequence[OperatorStatistics] | None = None,
    names: Container[str] | None = None,
) -> RunStatistics:
    """The run's statistics with the calls that its rewritten plan did not have to make.

    A merged operator would have prompted as its representative did; calls that became columns are
    known with their prompts.

    Args:
        statistics: of what was run.
        prepared: how it was rewritten.
        prompted: the operators that may represent others; None: those of `statistics`.
        names: the operators to count if they were not run; None: all.
    """
    per_operator = {
        op.operator: op.prompt_tokens + op.saved_prompt_tokens + op.cached_prompt_tokens
        for op in (statistics.operators if prompted is None else prompted)
    }
    merged = sum(
        per_operator.get(by, 0)
        for name, by in prepared.optimized.merged.items()
        if names is None or name in names
    )
    fetched = [
        num_tokens
        for name, prompts in prepared.fetched.items()
        if names is None or name in names
        for num_tokens in prompts
    ]
    return replace(
        statistics,
        needed=statistics.needed + merged + sum(fetched),
        merged_saved=merged,
        result_cached=statistics.result_cached + sum(fetched),
        num_cached_calls=statistics.num_cached_calls + len(fetched),
        planning_seconds=sum(prepared.seconds.values()),
    )
