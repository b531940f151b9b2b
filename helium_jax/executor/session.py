"""Several runs at once over one engine: shared answers, shared room."""

import asyncio
import functools
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from helium_jax.executor.budget import NOTHING, Spent
from helium_jax.executor.codec import TextCodec
from helium_jax.executor.driver import Driver, RunEvent
from helium_jax.executor.fair_gate import FairGate
from helium_jax.executor.head_room import HeadRoom
from helium_jax.executor.hints import Hints
from helium_jax.executor.options import RunOptions
from helium_jax.executor.output_cache import OutputCache
from helium_jax.executor.policy import dispatch_setting
from helium_jax.executor.precompute import make_warmer
from helium_jax.executor.preparing import Prepared, count_rewrites, prepare_run
from helium_jax.executor.profile import profile_of
from helium_jax.executor.profile_sample import profile_sample
from helium_jax.executor.profile_store import ProfileStore
from helium_jax.executor.rates import RateKeeper
from helium_jax.executor.resources import Resources
from helium_jax.executor.result import RunResult
from helium_jax.executor.run_control import RunControl
from helium_jax.executor.state import RunState
from helium_jax.executor.together import (
    Joint,
    Submission,
    check_submissions,
    join,
    join_profiles,
    part_results,
)
from helium_jax.executor.watch import RunWatch
from helium_jax.optimizer.profile import Profile
from helium_jax.plan import Chat, Completion, Plan, Value
from helium_jax.schedule.output_lengths import OutputLengths
from helium_jax.types import Generator

NO_PARAMS: Mapping[str, Value] = {}
DEFAULT_OPTIONS = RunOptions()
NO_PROFILE = Profile()


class Session:
    """Runs plans over one generator; belongs to one event loop.

    Equal deterministic calls of runs that overlap are computed once, finished ones are found in
    the output cache, and room at the engine is shared by the runs' weights.
    """

    def __init__(
        self,
        generator: Generator,
        codec: TextCodec,
        *,
        output_cache: OutputCache | None = None,
        profiles: ProfileStore | None = None,
        rates: RateKeeper | None = None,
        max_in_flight: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """
        Args:
            generator: the token side.
            codec: text to token ids and back, of the generator's model.
            output_cache: where finished answers are kept; the caller's to close.
            profiles: where what runs have shown is read and kept.
            rates: what is known of the engines' speed; None: nothing, and nothing is measured
                unless somebody asks.
            max_in_flight: most calls of all runs at the engine at once, whatever pages they
                need; None: enough to keep it full, and no more than its KV pages take.
            clock: seconds, for statistics.
            sleep: waits for seconds, for timeouts and a full engine.
        """
        self._max_in_flight = max_in_flight or default_room(generator)
        self._resources = Resources(
            generator=generator,
            codec=codec,
            gate=FairGate(
                HeadRoom(
                    statistics=generator.statistics,
                    capacity=self._max_in_flight,
                    counts_pages=max_in_flight is None,
                )
            ),
            output_cache=output_cache,
        )
        self._profiles = profiles
        self._rates = rates or RateKeeper(generator, clock=clock)
        self._clock = clock
        self._sleep = sleep

    @property
    def generator(self) -> Generator:
        """The token side."""
        return self._resources.generator

    @property
    def codec(self) -> TextCodec:
        """Text to token ids and back."""
        return self._resources.codec

    @property
    def output_cache(self) -> OutputCache | None:
        """Where finished answers are kept."""
        return self._resources.output_cache

    @property
    def rates(self) -> RateKeeper:
        """What is known of the engines' speed."""
        return self._rates

    async def profile_of(self, plan: Plan) -> Profile:
        """What earlier runs of the plan have shown; empty when nothing is kept."""
        if self._profiles is None:
            return NO_PROFILE
        return await asyncio.to_thread(self._profiles.load, plan.plan_id)

    async def prepare(
        self,
        plan: Plan,
        rows: Sequence[Mapping[str, object]],
        *,
        params: Mapping[str, Value] = NO_PARAMS,
        options: RunOptions = DEFAULT_OPTIONS,
        profile: Profile | None = None,
    ) -> Prepared:
        """Every stage before a run's first call; calls no model and changes no cache.

        No profile: that of earlier runs. See `prepare_run`.
        """
        if profile is None:
            profile = await self.profile_of(plan)
        rates = await self._rates.known()
        return await prepare_run(
            plan,
            rows,
            params=params,
            model=self.generator.info,
            setting=dispatch_setting(self.generator, options, rates),
            codec=self.codec,
            options=options,
            output_cache=self.output_cache,
            profile=profile,
            rates=rates,
            clock=self._clock,
        )

    async def run(
        self,
        plan: Plan,
        rows: Sequence[Mapping[str, object]],
        *,
        params: Mapping[str, Value] = NO_PARAMS,
        options: RunOptions = DEFAULT_OPTIONS,
        run_id: str | None = None,
        on_event: Callable[[RunEvent], None] | None = None,
        cancel: asyncio.Event | None = None,
        control: RunControl | None = None,
        profile: Profile | None = None,
        on_prepared: Callable[[Prepared], None] | None = None,
        tells_rows: bool = False,
        tells_deltas: bool = False,
        tells_answers: bool = False,
        watch: RunWatch | None = None,
        spent: Spent = NOTHING,
        keeps_profile: bool = True,
    ) -> RunResult:
        """Runs `plan` over `rows`; see `run_plan`. No profile: that of earlier runs.

        Args besides those of `run_plan`:
            on_prepared: called with every stage before the first call goes out.
            tells_rows: events tell the outputs of every row as soon as it is over.
            tells_deltas: events tell the answers of calls as they grow.
            tells_answers: events tell how every answer ended and what it cost.
            watch: lets the run be looked at while it goes on.
            spent: by earlier attempts at the run, of the plan's limits.
            keeps_profile: what the run shows is kept for later runs of the plan.
        """
        run_id = run_id or f"run_{secrets.token_hex(8)}"
        await self._rates.before(count_calls(plan) * len(rows))
        started = self._clock()
        prepared = await self.prepare(plan, rows, params=params, options=options, profile=profile)
        if on_prepared is not None:
            on_prepared(prepared)
        physical = prepared.physical
        room = min(
            options.max_in_flight or self._max_in_flight,
            physical.limits.max_concurrency or self._max_in_flight,
        )
        state = RunState(
            physical,
            prepared.num_rows,
            prepared.columns,
            max_in_flight=room,
            single_flight=options.single_flight,
            bad_values=prepared.bad_values,
            dispatcher=prepared.planned.dispatcher,
            encode_ahead=options.encode_ahead,
            # With several workers nobody knows yet where the rest of the prompt will go.
            prefill_ahead=options.prefill_ahead
            and options.share_kv
            and self.generator.info.num_workers == 1,
            tells_rows=tells_rows,
            tells_deltas=tells_deltas,
            tells_answers=tells_answers,
            spent=spent,
        )
        driver = Driver(
            run_id=run_id,
            state=state,
            resources=self._resources,
            options=options,
            on_event=on_event,
            clock=self._clock,
            sleep=self._sleep,
            started=started,
            hints=Hints(generator=self._resources.generator, cache_salt=options.cache_salt),
            lengths=OutputLengths(prepared.planned.graph),
            warmer=make_warmer(prepared, self._resources.generator, options),
            watch=watch,
        )
        timeout_s = physical.limits.timeout_s
        if timeout_s is not None:
            timeout_s = max(timeout_s - spent.seconds, 0.0)
        if control is not None:
            control.attach(driver.inbox.put_nowait)
        try:
            with self._rates.running() as mark:
                await driver.drive(timeout_s=timeout_s, cancel=cancel)
        finally:
            self._resources.gate.forget(run_id)
        assert state.status is not None
        seconds = self._clock() - started
        statistics = count_rewrites(driver.statistics(seconds), prepared)
        models = None
        if mark.is_alone and state.status == "completed":
            graph = prepared.planned.graph
            models = await self._rates.after(graph, prepared.setting, statistics.spans)
        result = RunResult(
            run_id=run_id,
            plan_id=plan.plan_id,
            status=state.status,
            rows=tuple(state.results()),
            statistics=statistics,
            models=models,
        )
        if keeps_profile:
            await self._learn(plan, result)
        return result

    async def run_together(
        self, submissions: Sequence[Submission], *, options: RunOptions = DEFAULT_OPTIONS
    ) -> list[RunResult]:
        """Runs several plans as one, where that is possible: see `together.join`.

        Rules, prefix tree and schedule see all of them at once, so equal operators over equal
        columns are one, and calls that begin alike follow each other. The others run beside them.
        Every plan has the outputs it has by itself; the results come when the last one is over.

        Returns:
            The plans' results, in their order.

        Raises:
            PlanError: as `run`, for all plans at once; paths begin with "plans[i].".
            RequestError: as `run`.
        """
        await check_submissions(submissions, self.generator.info, self.codec)
        joints = await asyncio.to_thread(join, submissions)
        results: dict[int, RunResult] = {}

        async def run_alone(number: int) -> None:
            one = submissions[number]
            results[number] = await self.run(one.plan, one.rows, params=one.params, options=options)

        async def run_joint(joint: Joint) -> None:
            profiles = [await self.profile_of(submissions[n].plan) for n in joint.members]
            prepared: list[Prepared] = []
            result = await self.run(
                joint.combined.plan,
                joint.rows,
                options=options,
                profile=join_profiles(joint, profiles),
                on_prepared=prepared.append,
                keeps_profile=False,
            )
            parts = part_results(joint, submissions, prepared[0], result)
            for number, part in zip(joint.members, parts, strict=True):
                results[number] = part
                await self._learn(submissions[number].plan, part)

        joined = {number for joint in joints for number in joint.members}
        alone = (number for number in range(len(submissions)) if number not in joined)
        tasks = [
            asyncio.ensure_future(work)
            for work in (*map(run_joint, joints), *map(run_alone, alone))
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [results[number] for number in range(len(submissions))]

    async def _learn(self, plan: Plan, result: RunResult) -> None:
        """Keeps what a run has shown for later runs of the plan."""
        if self._profiles is not None:
            shown = profile_of(result.statistics, len(result.rows))
            await asyncio.to_thread(self._profiles.add, plan.plan_id, shown, plan_name=plan.name)

    async def sample(
        self,
        plan: Plan,
        rows: Sequence[Mapping[str, object]],
        *,
        size: int,
        params: Mapping[str, Value] = NO_PARAMS,
        options: RunOptions = DEFAULT_OPTIONS,
    ) -> Profile:
        """Runs `plan` over a few of the rows; what they show is the profile for all of them.

        The answers stay in the output cache, so that running all rows computes only the others.

        Raises:
            PlanError: as `run`.
            RequestError: as `run`, or `size` is not positive.
        """
        run = functools.partial(self.run, plan, params=params, options=options)
        profile, _ = await profile_sample(run, rows, size=size)
        return profile


def count_calls(plan: Plan) -> int:
    """Operators that call the model, those inside of others too."""
    return sum(isinstance(op, Chat | Completion) for op in plan.all_ops)


def default_room(generator: Generator) -> int:
    """Twice what fits in a step: the engine always finds the next sequence in its queue."""
    return 2 * generator.info.max_num_seqs * generator.info.num_workers
