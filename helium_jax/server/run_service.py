"""The owner of the server's runs: a bounded queue, their tasks, and what is kept of them."""

import asyncio
import heapq
import itertools
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from helium_jax.errors import CapacityError, HeliumError
from helium_jax.executor import Prepared, RunControl, RunEvent, RunResult, Session
from helium_jax.executor.as_ready import AsReady
from helium_jax.executor.events import RowCompleted, RunCompleted
from helium_jax.optimizer import Profile
from helium_jax.server.config import ServerConfig
from helium_jax.server.errors import ConflictError, NotFoundError
from helium_jax.server.pins import Pins
from helium_jax.server.plan_replies import RunFailure
from helium_jax.server.plan_request import PlanJob
from helium_jax.server.plan_shelf import KnownPlan, PlanShelf
from helium_jax.server.run_events import (
    EventLog,
    ProgressFilter,
    describe_progress,
    describe_row,
)
from helium_jax.server.run_metrics import count_result
from helium_jax.server.run_record import RunRecord, State, describe_usage
from helium_jax.telemetry.metrics import Metrics, Reading

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a client's Idempotency-Key stands for.

    Attributes:
        digest: of the body it came with.
        run_id: of the run it made.
    """

    digest: bytes
    run_id: str


class RunService:
    """Runs and plans of one server; belongs to its event loop.

    Attributes:
        plans: registered plans.
        pins: prefixes that clients had pinned.
    """

    def __init__(
        self,
        config: ServerConfig,
        metrics: Metrics,
        *,
        working: set["asyncio.Task[object]"],
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            config: limits, above all.
            metrics: gains what runs did.
            working: tasks that a shutdown waits for; gains those of runs.
            now: seconds since the epoch.
        """
        limits = config.limits
        self.plans = PlanShelf(max_plans=limits.plans)
        self.pins = Pins()
        self.now = now
        self._limits = limits
        self._metrics = metrics
        self._working = working
        self._session: Session | None = None
        self._runs: OrderedDict[str, RunRecord] = OrderedDict()  # the earliest asked for first
        self._finished: OrderedDict[str, int] = OrderedDict()  # kept runs and their bytes
        self._finished_bytes = 0
        self._queue: list[tuple[int, int, RunRecord]] = []
        self._order = itertools.count()
        self._tasks: set[asyncio.Task[object]] = set()
        self._promises: dict[tuple[str, str], Promise] = {}
        metrics.add_source(self._read)

    # --- life ------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """What runs the plans; there is one while the application is up."""
        assert self._session is not None, "handlers are called while the application is up"
        return self._session

    def open(self, session: Session) -> None:
        """Begins; before it no run can be asked for."""
        self._session = session

    async def close(self) -> None:
        """Ends every run; those that had not finished become interrupted."""
        while self._queue:
            _, _, record = heapq.heappop(self._queue)
            self._finish(record, "interrupted")
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for record in [one for one in self._runs.values() if not one.is_final]:
            self._finish(record, "interrupted")  # its task was cancelled before it began
        self.pins.close()

    # --- asking ----------------------------------------------------------------------------

    def submit(
        self, tenant: str, job: PlanJob, *, promise_key: str | None = None, digest: bytes = b""
    ) -> tuple[RunRecord, bool]:
        """Queues a run, or finds the one that was made under the same key.

        Returns the run, and whether it is new.

        Raises:
            CapacityError: the queue is full.
            ConflictError: the key was used with another body.
        """
        known = self.promised(tenant, promise_key, digest)
        if known is not None:
            return known, False
        if len(self._queue) >= self._limits.runs_queued:
            raise CapacityError(
                f"{len(self._queue)} runs are waiting, this server's limit; try again later",
                retry_after_s=5,
            )
        run_id = f"run_{secrets.token_hex(12)}"
        record = RunRecord(
            id=run_id,
            tenant=tenant,
            job=job,
            created=self.now(),
            events=EventLog(run_id, max_events=self._limits.run_events),
        )
        self._runs[run_id] = record
        if promise_key is not None:
            self._promises[tenant, promise_key] = Promise(digest=digest, run_id=run_id)
        self._enqueue(record)
        return record, True

    def promised(self, tenant: str, promise_key: str | None, digest: bytes) -> RunRecord | None:
        """The run that was made under an Idempotency-Key, if there is one.

        Raises:
            ConflictError: the key was used with another body.
        """
        promise = None if promise_key is None else self._promises.get((tenant, promise_key))
        if promise is None:
            return None
        if promise.digest != digest:
            raise ConflictError(
                "this Idempotency-Key came with another body before; use a new key",
                code="idempotency_conflict",
                param="Idempotency-Key",
            )
        return self._runs[promise.run_id]

    def get(self, tenant: str, run_id: str) -> RunRecord:
        """A key's run.

        Raises:
            NotFoundError: this key has none of that id.
        """
        record = self._runs.get(run_id)
        if record is None or record.tenant != tenant:
            raise NotFoundError(
                f"there is no run {run_id[:80]!r}; finished runs are kept for a while only",
                code="run_not_found",
                param="run_id",
            )
        return record

    def list_runs(self, tenant: str) -> Sequence[RunRecord]:
        """A key's runs, the latest first."""
        return [record for record in reversed(self._runs.values()) if record.tenant == tenant]

    async def profile_of(self, tenant: str, known: KnownPlan) -> Profile:
        """What a plan's runs have shown; a key's estimates come from its own runs alone."""
        return known.profile if tenant else await self.session.profile_of(known.plan)

    # --- changing --------------------------------------------------------------------------

    def cancel(self, record: RunRecord) -> None:
        """Ends a run with what it has; one that is over stays as it is."""
        if record.is_final or record.state == "cancelling":
            return
        if record.state == "queued":
            self._queue = [entry for entry in self._queue if entry[2] is not record]
            heapq.heapify(self._queue)
            self._finish(record, "cancelled")
            return
        record.state = "cancelling"
        record.events.wake()
        record.control.cancel()

    def delete(self, record: RunRecord) -> None:
        """Forgets a run.

        Raises:
            ConflictError: it is not over.
        """
        if not record.is_final:
            raise ConflictError(
                f"the run is {record.state}; cancel it first", code="run_not_finished"
            )
        self._forget(record.id)

    # --- running ---------------------------------------------------------------------------

    def _enqueue(self, record: RunRecord) -> None:
        plan = record.job.known.plan
        record.events.append(
            "run.created",
            0.0,
            {
                "attempt": record.attempt,
                "plan_id": plan.plan_id,
                "plan_name": plan.name,
                "rows": record.job.num_rows,
                "rows_finished": len(record.rows),
            },
        )
        entry = (record.job.options.priority, next(self._order), record)
        heapq.heappush(self._queue, entry)
        self._fill()

    def _fill(self) -> None:
        """Starts waiting runs while there is room."""
        while self._queue and len(self._tasks) < self._limits.runs_running:
            _, _, record = heapq.heappop(self._queue)
            record.state = "planning"
            record.started = self.now()
            task: asyncio.Task[object] = asyncio.create_task(self._run(record), name=record.id)
            self._tasks.add(task)
            self._working.add(task)
            task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        self._fill()  # before the task leaves: a shutdown waits for what it lets in
        self._working.discard(task)

    async def _run(self, record: RunRecord) -> None:
        state: State = "failed"
        try:
            result = await self._attempt(record)
        except asyncio.CancelledError:
            state = "interrupted"
        except HeliumError as error:
            record.error = RunFailure(code=error.code, message=error.message)
        except Exception as error:
            log.exception("%s: bug in a run", record.id)
            message = f"a bug in helium-jax ({type(error).__name__}); the log has more"
            record.error = RunFailure(code="internal_error", message=message)
        else:
            state = self._take(record, result)
        self._finish(record, state)

    async def _attempt(self, record: RunRecord) -> RunResult:
        job = record.job
        record.control = RunControl()
        passing = ProgressFilter()

        def on_prepared(prepared: Prepared) -> None:
            # Without the dispatcher, whose books nobody reads once the run is over.
            planned = replace(prepared.planned, dispatcher=AsReady())
            record.prepared = replace(prepared, planned=planned)
            if record.state == "planning":
                record.state = "in_progress"
            record.events.append("run.planned", 0.0, _describe_prepared(prepared))

        def on_event(event: RunEvent) -> None:
            progress = event.progress
            if isinstance(progress, RunCompleted) or not passing.passes(progress, event.t_ms):
                return  # the end is told by `_finish`, with the rows
            if isinstance(progress, RowCompleted):
                record.put_row(describe_row(progress.result))
            record.events.append(progress.type, event.t_ms, describe_progress(progress))

        return await self.session.run(
            job.plan,
            job.rows,
            params=job.params,
            options=job.options,
            run_id=f"{record.id}.{record.attempt}",
            on_event=on_event,
            control=record.control,
            profile=await self.profile_of(record.tenant, job.known),
            on_prepared=on_prepared,
            tells_rows=True,
        )

    def _take(self, record: RunRecord, result: RunResult) -> State:
        """Takes over what an attempt gave; rows that were told one by one are there already."""
        for row in result.rows:
            record.put_row(describe_row(row))
        record.result = result
        record.job.known.add(result)
        count_result(self._metrics, record.job.plan, result)
        if result.status == "failed" and result.errors:
            # Rows that were not finished because of it come with an error of their own.
            causes = [error for error in result.errors if error.code != "run_failed"]
            first = (causes or result.errors)[0]
            record.error = RunFailure(code=first.code, message=str(first))
        return result.status

    def _finish(self, record: RunRecord, state: State) -> None:
        record.state = state
        record.finished = self.now()
        started = record.created if record.started is None else record.started
        result = record.result
        record.events.append(
            "run.completed",
            (record.finished - started) * 1e3,
            {
                "state": state,
                "result": record.outcome,
                "rows": msgspec.to_builtins(record.counts),
                "usage": None if result is None else msgspec.to_builtins(describe_usage(result)),
                "error": msgspec.to_builtins(record.error),
            },
        )
        record.done.set()
        self._metrics.count("runs_total", state=state)
        self._keep(record)

    # --- keeping ---------------------------------------------------------------------------

    def _keep(self, record: RunRecord) -> None:
        """Makes room for a run that is over by forgetting the oldest that are."""
        size = record.num_bytes
        self._finished[record.id] = size
        self._finished_bytes += size
        while len(self._finished) > 1 and (
            len(self._finished) > self._limits.runs_kept
            or self._finished_bytes > self._limits.runs_bytes
        ):
            self._forget(next(iter(self._finished)))

    def _forget(self, run_id: str) -> None:
        del self._runs[run_id]
        self._finished_bytes -= self._finished.pop(run_id, 0)
        for key in [key for key, promise in self._promises.items() if promise.run_id == run_id]:
            del self._promises[key]

    def _read(self) -> list[Reading]:
        counts = (
            ("runs_running", "Runs that use the engine", len(self._tasks)),
            ("runs_waiting", "Runs that wait for a place", len(self._queue)),
            ("runs_kept", "Finished runs that can be asked for", len(self._finished)),
        )
        return [
            Reading(name=name, kind="gauge", help=text, value=value, labels={})
            for name, text, value in counts
        ]


def _describe_prepared(prepared: Prepared) -> dict[str, object]:
    optimized = prepared.optimized
    return {
        "operators": len(prepared.physical.all_operators),
        "merged": dict(optimized.merged),
        "fetched": list(optimized.fetched),
        "planning_ms": {name: round(s * 1e3, 3) for name, s in prepared.seconds.items()},
    }
