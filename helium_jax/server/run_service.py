"""The owner of the server's runs: a bounded queue, their tasks, and what is kept of them."""

import asyncio
import contextlib
import heapq
import itertools
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import msgspec

from helium_jax.errors import CapacityError, HeliumError
from helium_jax.executor import Prepared, RunControl, RunEvent, RunResult, Session
from helium_jax.executor.as_ready import AsReady
from helium_jax.executor.events import Progress, RowCompleted, RunCompleted
from helium_jax.executor.journal import Journal, JournaledRun
from helium_jax.optimizer import Profile
from helium_jax.server.config import ServerConfig
from helium_jax.server.errors import ConflictError
from helium_jax.server.kept_run import pack_run, unpack_run
from helium_jax.server.lifecycle import ServerState
from helium_jax.server.pins import Pins
from helium_jax.server.plan_job import PlanJob
from helium_jax.server.plan_replies import RowReply, RunFailure
from helium_jax.server.plan_shelf import KnownPlan, PlanShelf
from helium_jax.server.run_events import (
    EventLog,
    ProgressFilter,
    describe_progress,
    describe_row,
)
from helium_jax.server.run_metrics import count_result
from helium_jax.server.run_record import FINAL, HeldEvent, RunRecord, State, describe_usage
from helium_jax.server.run_rest import Rest, find_rest
from helium_jax.server.run_shelf import RunShelf
from helium_jax.telemetry.metrics import Metrics, Reading

log = logging.getLogger(__name__)


class RunService:
    """Runs and plans of one server; belongs to its event loop.

    Attributes:
        plans: registered plans.
        pins: prefixes that clients had pinned.
        shelf: runs that can be asked for.
    """

    def __init__(
        self,
        config: ServerConfig,
        metrics: Metrics,
        *,
        state: ServerState,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            config: limits, above all.
            metrics: gains what runs did.
            state: whose working tasks a shutdown waits for; gains those of runs.
            now: seconds since the epoch.
        """
        limits = config.limits
        self.plans = PlanShelf(max_plans=limits.plans)
        self.pins = Pins()
        self.shelf = RunShelf(limits, on_forgotten=self._on_forgotten)
        self.now = now
        self._limits = limits
        self._metrics = metrics
        self._state = state
        self._session: Session | None = None
        self._journal: Journal | None = None
        self._queue: list[tuple[int, int, RunRecord]] = []
        self._order = itertools.count()
        self._tasks: set[asyncio.Task[object]] = set()
        metrics.add_source(self._read)

    # --- life ------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """What runs the plans; there is one while the application is up."""
        assert self._session is not None, "handlers are called while the application is up"
        return self._session

    def open(self, session: Session, journal: Journal | None = None) -> None:
        """Begins; before it no run can be asked for. What the journal holds can be asked for."""
        self._session = session
        self._journal = journal
        if journal is not None:
            for found in journal.found:
                self._restore(found)
            journal.found = []

    async def close(self) -> None:
        """Ends every run; those that had not finished become interrupted."""
        while self._queue:
            _, _, record = heapq.heappop(self._queue)
            self._finish(record, "interrupted")
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for record in self.shelf.unfinished():
            self._finish(record, "interrupted")  # its task was cancelled before it began
        self.pins.close()

    # --- asking ----------------------------------------------------------------------------

    def submit(
        self,
        tenant: str,
        job: PlanJob,
        *,
        promise_key: str | None = None,
        digest: bytes = b"",
        is_durable: bool = False,
    ) -> RunRecord:
        """Queues a run, or finds the one that was made under the same key.

        Args:
            tenant: whose key asks.
            job: the plan and its rows.
            promise_key: an Idempotency-Key.
            digest: of the body it comes with.
            is_durable: keep it in the journal, if there is one; `kept` of the record tells when.

        Raises:
            CapacityError: the queue is full.
            ConflictError: the key was used with another body.
        """
        known = self.shelf.promised(tenant, promise_key, digest)
        if known is not None:
            return known
        self._check_queue()
        run_id = f"run_{secrets.token_hex(12)}"
        record = RunRecord(
            id=run_id,
            tenant=tenant,
            job=job,
            created=self.now(),
            events=EventLog(run_id, max_events=self._limits.run_events),
            model_version=self.session.generator.info.version,
        )
        self.shelf.add(record, promise_key, digest)
        journal = self._journal
        if is_durable and journal is not None:
            record.is_durable = True
            request = pack_run(
                tenant, record.created, job, record.model_version, promise_key, digest
            )
            journal.begin(run_id, request, on_done=self._later(self._note_kept, record, journal))
        else:
            record.kept.set()
        self._enqueue(record)
        return record

    def resume(self, record: RunRecord) -> None:
        """Queues what an interrupted run has not finished.

        Raises:
            ConflictError: it was not interrupted, or by another model.
            CapacityError: the queue is full.
        """
        if record.state != "interrupted":
            raise ConflictError(
                f"the run is {record.state}; only an interrupted one can be resumed",
                code="run_not_interrupted",
            )
        version = self.session.generator.info.version
        if record.model_version != version:
            raise ConflictError(
                f"the run began with the model version {record.model_version!r}, and this is "
                f"{version!r}: its rows would not be of one model; start a new run",
                code="model_changed",
            )
        self._check_queue()
        self.shelf.note_resumed(record)
        record.attempt += 1
        record.state = "queued"
        record.started = record.finished = None
        record.done.clear()
        record.events.begin_part()
        if self._journal is not None:
            self._journal.set_state(record.id, "queued", record.attempt)
        self._enqueue(record)

    @property
    def journal_failure(self) -> str | None:
        """Why runs are not kept beyond the process although they should be."""
        return None if self._journal is None else self._journal.failure

    def _check_queue(self) -> None:
        if len(self._queue) >= self._limits.runs_queued:
            raise CapacityError(
                f"{len(self._queue)} runs are waiting, this server's limit; try again later",
                retry_after_s=5,
            )

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
        self.shelf.forget(record.id)

    # --- running ---------------------------------------------------------------------------

    def _enqueue(self, record: RunRecord) -> None:
        self._tell_created(record)
        entry = (record.job.options.priority, next(self._order), record)
        heapq.heappush(self._queue, entry)
        self._fill()

    def _tell_created(self, record: RunRecord) -> None:
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

    def _fill(self) -> None:
        """Starts waiting runs while there is room."""
        if self._state.is_aborting:
            return  # what waits will be interrupted, as what runs is
        while self._queue and len(self._tasks) < self._limits.runs_running:
            _, _, record = heapq.heappop(self._queue)
            record.state = "planning"
            record.started = self.now()
            record.control = RunControl()
            task: asyncio.Task[object] = asyncio.create_task(self._run(record), name=record.id)
            self._tasks.add(task)
            self._state.working.add(task)
            task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        self._fill()  # before the task leaves: a shutdown waits for what it lets in
        self._state.working.discard(task)

    async def _run(self, record: RunRecord) -> None:
        state: State = "failed"
        is_over = False
        try:
            rest = find_rest(record.job, record.rows)
            if rest.places or not record.job.num_rows:
                state = self._take(record, rest, await self._attempt(record, rest))
            else:
                state = "completed"  # it was interrupted between its last row and its end
            is_over = True
            await self._settled(record, state)
        except asyncio.CancelledError:
            if not is_over:
                state = "interrupted"
        except HeliumError as error:
            record.error = RunFailure(code=error.code, message=error.message)
        except Exception as error:
            log.exception("%s: bug in a run", record.id)
            message = f"a bug in helium-jax ({type(error).__name__}); the log has more"
            record.error = RunFailure(code="internal_error", message=message)
        self._finish(record, state)

    async def _attempt(self, record: RunRecord, rest: Rest) -> RunResult:
        job = record.job
        passing = ProgressFilter()

        def on_prepared(prepared: Prepared) -> None:
            # Without the dispatcher, whose books nobody reads once the run is over.
            planned = replace(prepared.planned, dispatcher=AsReady())
            record.prepared = replace(prepared, planned=planned)
            if record.state == "planning":
                record.state = "in_progress"
            record.events.append("run.planned", 0.0, _describe_prepared(prepared))

        def on_event(event: RunEvent) -> None:
            if isinstance(event.progress, RunCompleted):
                return  # the end is told by `_finish`, with the rows
            if passing.passes(event.progress, event.t_ms):
                self._tell(record, rest.locate(event.progress), event.t_ms)

        return await self.session.run(
            rest.plan,
            rest.rows,
            params=job.params,
            options=job.options,
            run_id=f"{record.id}.{record.attempt}",
            on_event=on_event,
            control=record.control,
            profile=await self.profile_of(record.tenant, job.known),
            on_prepared=on_prepared,
            tells_rows=True,
        )

    def _tell(self, record: RunRecord, progress: Progress, t_ms: float) -> None:
        """Publishes an event; of a run in the journal, a finished row only once it is there."""

        def publish() -> None:
            if isinstance(progress, RowCompleted):
                record.put_row(describe_row(progress.result))
            record.events.append(progress.type, t_ms, describe_progress(progress))

        row = progress.result.row if isinstance(progress, RowCompleted) else None
        held = HeldEvent(publish=publish, is_ready=True, row=row)
        if isinstance(progress, RowCompleted) and record.is_durable and self._journal is not None:
            held.is_ready = False
            data = msgspec.json.encode(describe_row(progress.result))
            self._journal.add_row(
                record.id,
                progress.result.row,
                data,
                on_done=self._later(self._release, record, held),
            )
        record.held.append(held)
        self._publish(record)

    def _release(self, record: RunRecord, held: HeldEvent) -> None:
        held.is_ready = True
        self._publish(record)

    def _publish(self, record: RunRecord) -> None:
        while record.held and record.held[0].is_ready:
            record.held.popleft().publish()

    def _note_kept(self, record: RunRecord, journal: Journal) -> None:
        record.is_durable = journal.failure is None
        record.kept.set()

    def _later(self, call: Callable[..., None], *args: object) -> Callable[[], None]:
        """A call for the journal's thread that makes one here."""
        loop = asyncio.get_running_loop()

        def tell() -> None:
            # After the loop's end nobody is left to be told.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(call, *args)

        return tell

    def _take(self, record: RunRecord, rest: Rest, result: RunResult) -> State:
        """Takes over what an attempt gave; rows that were told one by one are there already."""
        waiting = {held.row for held in record.held if held.row is not None}
        for row in result.rows:
            place = rest.places[row.row]
            if place not in record.rows and place not in waiting:
                last = RowCompleted(result=replace(row, row=place))
                self._tell(record, last, result.statistics.seconds * 1e3)
        record.result = result
        record.job.known.add(result)
        count_result(self._metrics, record.job.plan, result)
        if result.status == "failed" and result.errors:
            # Rows that were not finished because of it come with an error of their own.
            causes = [error for error in result.errors if error.code != "run_failed"]
            first = (causes or result.errors)[0]
            record.error = RunFailure(code=first.code, message=str(first))
        return result.status

    async def _settled(self, record: RunRecord, state: State) -> None:
        """Returns once the journal has the run's end, and with it all of its rows."""
        if not record.is_durable or self._journal is None:
            return
        done = asyncio.Event()
        self._journal.set_state(record.id, state, record.attempt, on_done=self._later(done.set))
        await done.wait()

    def _finish(self, record: RunRecord, state: State) -> None:
        for held in record.held:  # of an interrupted run: written when the journal closes
            held.is_ready = True
        self._publish(record)
        if record.is_durable and self._journal is not None and state != "interrupted":
            self._journal.set_state(record.id, state, record.attempt)
        record.finished = self.now()
        started = record.created if record.started is None else record.started
        self._metrics.count("runs_total", state=state)
        self._end(record, state, t_ms=(record.finished - started) * 1e3)

    def _end(self, record: RunRecord, state: State, *, t_ms: float) -> None:
        record.state = state
        result = record.result
        record.events.append(
            "run.completed",
            t_ms,
            {
                "state": state,
                "result": record.outcome,
                "rows": msgspec.to_builtins(record.counts),
                "usage": None if result is None else msgspec.to_builtins(describe_usage(result)),
                "error": msgspec.to_builtins(record.error),
            },
        )
        record.done.set()
        self.shelf.note_over(record)

    # --- keeping ---------------------------------------------------------------------------

    def _restore(self, found: JournaledRun) -> None:
        """Makes a run of an earlier process known again; one that had not ended is interrupted."""
        try:
            kept, job = unpack_run(found.request, self.plans)
            rows = [msgspec.json.decode(data, type=RowReply) for data in found.rows.values()]
        except ValueError as error:
            log.error(
                "%s: the journal's entry cannot be read and is left out: %s", found.run_id, error
            )
            return
        record = RunRecord(
            id=found.run_id,
            tenant=kept.tenant,
            job=job,
            created=kept.created,
            # Parts 1, 3, ... are those of attempts, parts between them of restored runs.
            events=EventLog(
                found.run_id, max_events=self._limits.run_events, first_part=2 * found.attempt
            ),
            is_durable=True,
            state="interrupted",
            attempt=found.attempt,
            model_version=kept.model_version,
        )
        record.kept.set()
        self.shelf.add(record, kept.promise_key, kept.digest)
        self._tell_created(record)
        for row in sorted(rows, key=lambda row: row.row):
            record.put_row(row)
            record.events.append("row.completed", 0.0, msgspec.to_builtins(row))
        state = cast(State, found.state) if found.state in FINAL else "interrupted"
        self._end(record, state, t_ms=0.0)

    def _on_forgotten(self, record: RunRecord) -> None:
        if record.is_durable and self._journal is not None:
            self._journal.forget(record.id)

    def _read(self) -> list[Reading]:
        counts = (
            ("runs_running", "Runs that use the engine", len(self._tasks)),
            ("runs_waiting", "Runs that wait for a place", len(self._queue)),
            ("runs_kept", "Finished runs that can be asked for", self.shelf.num_over),
        )
        if self._journal is not None:
            up = ("journal_up", "1 while runs outlive the process", self._journal.failure is None)
            counts = (*counts, up)
        return [
            Reading(name=name, kind="gauge", help=text, value=float(value), labels={})
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
