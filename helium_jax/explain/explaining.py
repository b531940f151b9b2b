"""Plans to reports: EXPLAIN, which runs nothing, and ANALYZE, which runs the plan as well."""

import asyncio
from collections.abc import Mapping, Sequence

from helium_jax.executor import Prepared, RunOptions, RunResult, Session, TextCodec
from helium_jax.explain.report import Report, make_report
from helium_jax.optimizer import Profile
from helium_jax.plan import Plan, Value

NO_PARAMS: Mapping[str, Value] = {}
DEFAULT_OPTIONS = RunOptions()
Rows = Sequence[Mapping[str, object]]

_PLACEHOLDERS: Mapping[str, Value] = {"text": "...", "int": 0, "float": 0.0, "bool": False}


def placeholder_row(plan: Plan) -> dict[str, Value]:
    """A row to explain a plan with when there is none."""
    return {node.name: _PLACEHOLDERS[node.type] for node in plan.inputs}


async def explain_plan(
    session: Session,
    plan: Plan,
    rows: Rows,
    *,
    params: Mapping[str, Value] = NO_PARAMS,
    options: RunOptions = DEFAULT_OPTIONS,
    profile: Profile | None = None,
) -> Report:
    """How a session would run a plan: no model is called, nothing compiled, no cache changed.

    Without a profile, that of the session's earlier runs is taken. Times are seconds where the
    engine's speed is known.

    Raises:
        PlanError: the plan or a parameter is not valid, or the batch is too large for it.
        RequestError: a row or an option is wrong.
    """
    prepared = await session.prepare(plan, rows, params=params, options=options, profile=profile)
    return await report_on(prepared, session.codec)


async def analyze_plan(
    session: Session,
    plan: Plan,
    rows: Rows,
    *,
    params: Mapping[str, Value] = NO_PARAMS,
    options: RunOptions = DEFAULT_OPTIONS,
    profile: Profile | None = None,
) -> Report:
    """Runs a plan and puts what happened beside what was expected.

    Without a profile, that of the session's earlier runs is taken. An engine whose speed is not
    known is measured for a moment first, so that both cost models can be held to the run.

    Raises:
        PlanError: as `explain_plan`.
        RequestError: as `explain_plan`.
    """
    await session.rates.measured()
    stages: list[Prepared] = []
    result = await session.run(
        plan, rows, params=params, options=options, profile=profile, on_prepared=stages.append
    )
    return await report_on(stages[0], session.codec, result=result)


async def report_on(
    prepared: Prepared, codec: TextCodec, *, result: RunResult | None = None
) -> Report:
    """What there is to tell of a plan whose stages are known, and of its run if there was one.

    Args:
        prepared: the stages; they keep the schedule, so that another report plans nothing.
        codec: token ids to text, of the model.
        result: of the run.
    """

    def decode(ids: tuple[int, ...]) -> str:
        detokenizer = codec.detokenizer()
        return detokenizer.push(ids) + detokenizer.finish()

    return await asyncio.to_thread(make_report, prepared, decode=decode, result=result)
