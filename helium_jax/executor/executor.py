"""Runs one plan by itself: a session of one run."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from helium_jax.executor.codec import TextCodec
from helium_jax.executor.driver import RunEvent
from helium_jax.executor.options import RunOptions
from helium_jax.executor.output_cache import OutputCache
from helium_jax.executor.result import RunResult
from helium_jax.executor.run_control import RunControl
from helium_jax.executor.session import DEFAULT_OPTIONS, NO_PARAMS, NO_PROFILE, Session
from helium_jax.optimizer.profile import Profile
from helium_jax.plan import Plan, Value
from helium_jax.types import Generator


async def run_plan(
    plan: Plan,
    rows: Sequence[Mapping[str, object]],
    *,
    generator: Generator,
    codec: TextCodec,
    params: Mapping[str, Value] = NO_PARAMS,
    options: RunOptions = DEFAULT_OPTIONS,
    output_cache: OutputCache | None = None,
    run_id: str | None = None,
    on_event: Callable[[RunEvent], None] | None = None,
    cancel: asyncio.Event | None = None,
    control: RunControl | None = None,
    profile: Profile = NO_PROFILE,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> RunResult:
    """Runs `plan` over `rows`; a row that fails is an error in the result, not an exception.

    When the calling task is cancelled, so are all calls; no task is left behind.

    Args:
        plan: what to compute.
        rows: one mapping of input values per row.
        generator: the token side.
        codec: text to token ids and back, of the generator's model.
        params: values of the plan's parameters.
        options: how the engine may be used; `NAIVE` is one call at a time without any reuse.
        output_cache: where answers of deterministic calls are found and kept.
        run_id: a name for the run; drawn when absent.
        on_event: called with every event, on the event loop; must not block.
        cancel: once set, the run ends with what it has.
        control: cancels the run, a row or an operator.
        profile: what is known of the operators from earlier runs.
        clock: seconds, for statistics.
        sleep: waits for seconds, for timeouts and a full engine.

    Raises:
        PlanError: the plan or a parameter is not valid, or the batch is too large for it.
        RequestError: a row is not what the plan's inputs say.
    """
    session = Session(
        generator,
        codec,
        output_cache=output_cache,
        max_in_flight=options.max_in_flight,
        clock=clock,
        sleep=sleep,
    )
    return await session.run(
        plan,
        rows,
        params=params,
        options=options,
        run_id=run_id,
        on_event=on_event,
        cancel=cancel,
        control=control,
        profile=profile,
    )
