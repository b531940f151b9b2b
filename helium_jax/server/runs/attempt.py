"""One attempt at a run: its rows that are left go through the session, and are told one by one."""

from collections.abc import Callable
from dataclasses import replace

from helium_jax.executor import Prepared, RunEvent, RunResult, Session
from helium_jax.executor.as_ready import AsReady
from helium_jax.executor.events import OpCompleted, OpProgress, RowCompleted, RunCompleted
from helium_jax.executor.watch import RunWatch
from helium_jax.optimizer import Profile
from helium_jax.server.plans.replies import RunFailure
from helium_jax.server.runs.events import EvictionWatch, ProgressFilter, Told
from helium_jax.server.runs.record import RunRecord, spent_of
from helium_jax.server.runs.rest import Rest

Tell = Callable[[RunRecord, Told, float], None]


async def attempt_run(
    session: Session,
    record: RunRecord,
    rest: Rest,
    *,
    profile: Profile,
    tell: Tell,
    prompts_bytes: int,
) -> RunResult:
    """Runs what is left; the end of the run is left to the caller.

    Args:
        session: runs it.
        record: gains its stages and its result, and can be watched meanwhile.
        rest: rows that are not finished.
        profile: what earlier runs of the plan have shown.
        tell: called with the record, each event and its milliseconds since the start; a row that
            was not told while the run went on is told at its end.
        prompts_bytes: of prompts that can be looked at.
    """
    job = record.job
    passing = ProgressFilter()
    evictions = EvictionWatch(session.generator.statistics)
    record.watch = RunWatch(max_bytes=prompts_bytes)
    record.places = rest.places

    def on_prepared(prepared: Prepared) -> None:
        # Without the dispatcher, whose books nobody reads once the run is over.
        planned = replace(prepared.planned, dispatcher=AsReady())
        record.prepared = replace(prepared, planned=planned)
        if record.state == "planning":
            record.state = "in_progress"
        record.events.append("run.planned", 0.0, _describe_prepared(prepared))

    def on_event(event: RunEvent) -> None:
        if isinstance(event.progress, RunCompleted):
            return  # the end is told with the rows
        if isinstance(event.progress, OpProgress | OpCompleted):
            record.costs[event.progress.statistics.operator] = event.progress.statistics
            record.attempt_seconds = event.t_ms / 1e3
        for evicted in evictions.look(event.t_ms):
            tell(record, evicted, event.t_ms)
        for progress in passing.pass_on(event.progress, event.t_ms):
            tell(record, rest.locate(progress), event.t_ms)

    result = await session.run(
        rest.plan,
        rest.rows,
        params=job.params,
        options=job.options,
        run_id=f"{record.id}.{record.attempt}",
        on_event=on_event,
        control=record.control,
        profile=profile,
        on_prepared=on_prepared,
        tells_rows=True,
        tells_deltas=job.tells_deltas,
        tells_answers=record.on_told is not None,
        watch=record.watch,
        spent=spent_of(record.spent),
    )
    for evicted in evictions.look(result.statistics.seconds * 1e3, is_last=True):
        tell(record, evicted, result.statistics.seconds * 1e3)
    waiting = {held.row for held in record.held if held.row is not None}
    for row in result.rows:
        place = rest.places[row.row]
        if place not in record.rows and place not in waiting:
            last = RowCompleted(result=replace(row, row=place))
            tell(record, last, result.statistics.seconds * 1e3)
    record.result = result
    if result.status == "failed" and result.errors:
        # Rows that were not finished because of it come with an error of their own.
        causes = [error for error in result.errors if error.code != "run_failed"]
        first = (causes or result.errors)[0]
        record.error = RunFailure(code=first.code, message=str(first))
    return result


def _describe_prepared(prepared: Prepared) -> dict[str, object]:
    optimized = prepared.optimized
    return {
        "operators": len(prepared.physical.all_operators),
        "merged": dict(optimized.merged),
        "fetched": list(optimized.fetched),
        "planning_ms": {name: round(s * 1e3, 3) for name, s in prepared.seconds.items()},
    }
