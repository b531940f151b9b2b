"""Plans to reports: EXPLAIN, which runs nothing, and ANALYZE, which runs the plan as well."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from helium_jax.executor import RunOptions, Session, TextCodec, prepare_run
from helium_jax.executor.output_cache import OutputCache
from helium_jax.executor.policy import dispatch_setting
from helium_jax.executor.rates import EngineRates
from helium_jax.explain.report import Report, make_report
from helium_jax.optimizer import Profile
from helium_jax.plan import Plan, Value
from helium_jax.schedule.dispatch import DispatchSetting
from helium_jax.types import ModelInfo

NO_PARAMS: Mapping[str, Value] = {}
DEFAULT_OPTIONS = RunOptions()
NO_PROFILE = Profile()
Rows = Sequence[Mapping[str, object]]

_PLACEHOLDERS: Mapping[str, Value] = {"text": "...", "int": 0, "float": 0.0, "bool": False}


def placeholder_row(plan: Plan) -> dict[str, Value]:
    """A row to explain a plan with when there is none."""
    return {node.name: _PLACEHOLDERS[node.type] for node in plan.inputs}


async def explain_plan(
    plan: Plan,
    rows: Rows,
    *,
    model: ModelInfo,
    setting: DispatchSetting,
    codec: TextCodec,
    params: Mapping[str, Value] = NO_PARAMS,
    options: RunOptions = DEFAULT_OPTIONS,
    output_cache: OutputCache | None = None,
    profile: Profile = NO_PROFILE,
    rates: EngineRates | None = None,
) -> Report:
    """How a plan would run: no model is called, nothing compiled and no cache changed.

    Args:
        plan: what to explain.
        rows: of the batch.
        model: who would answer.
        setting: of the engines.
        codec: text to token ids, of the model.
        params: values of the plan's parameters.
        options: as the run would have them.
        output_cache: where answers would be found.
        profile: what is known of the operators from earlier runs.
        rates: what is known of the engines' speed.

    Raises:
        PlanError: the plan or a parameter is not valid, or the batch is too large for it.
        RequestError: a row or an option is wrong.
    """
    prepared = await prepare_run(
        plan,
        rows,
        params=params,
        model=model,
        setting=setting,
        codec=codec,
        options=options,
        output_cache=output_cache,
        profile=profile,
        rates=rates,
    )
    return await asyncio.to_thread(
        make_report,
        prepared,
        kv_tokens=setting.kv_tokens,
        num_workers=setting.num_workers,
        page_size=setting.page_size,
        decode=_decoder(codec),
    )


async def analyze_plan(
    session: Session,
    plan: Plan,
    rows: Rows,
    *,
    params: Mapping[str, Value] = NO_PARAMS,
    options: RunOptions = DEFAULT_OPTIONS,
    profile: Profile | None = None,
) -> Report:
    """Explains a plan, runs it, and puts what happened beside what was expected.

    Without a profile, that of the session's earlier runs is taken. An engine whose speed is not
    known is measured for a moment first, so that both cost models can be held to the run.

    Raises:
        PlanError: as `explain_plan`.
        RequestError: as `explain_plan`.
    """
    if profile is None:
        profile = await session.profile_of(plan)
    rates = await session.rates.measured()
    setting = dispatch_setting(session.generator, options, rates)
    explained = await explain_plan(
        plan,
        rows,
        model=session.generator.info,
        setting=setting,
        codec=session.codec,
        params=params,
        options=options,
        output_cache=session.output_cache,
        profile=profile,
        rates=rates,
    )
    result = await session.run(plan, rows, params=params, options=options, profile=profile)
    return make_report(
        explained.prepared,
        kv_tokens=setting.kv_tokens,
        num_workers=setting.num_workers,
        page_size=setting.page_size,
        decode=_decoder(session.codec),
        result=result,
    )


def _decoder(codec: TextCodec) -> Callable[[tuple[int, ...]], str]:
    def decode(ids: tuple[int, ...]) -> str:
        detokenizer = codec.detokenizer()
        return detokenizer.push(ids) + detokenizer.finish()

    return decode
