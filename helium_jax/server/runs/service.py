"""The owner of the server's runs: who waits, who runs, and what becomes of them."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable

from helium_jax.errors import HeliumError
from helium_jax.executor import RunControl, Session
from helium_jax.executor.journal import Journal
from helium_jax.explain import report_on
from helium_jax.optimizer import Profile
from helium_jax.server.config import ServerConfig
from helium_jax.server.errors import ConflictError
from helium_jax.server.lifecycle import ServerState
from helium_jax.server.pins import Pins
from helium_jax.server.plans.job import PlanJob
from helium_jax.server.plans.replies import RunFailure
from helium_jax.server.plans.shelf import KnownPlan, PlanShelf
from helium_jax.server.runs.attempt import attempt_run
from helium_jax.server.runs.events import EventLog, Told
from helium_jax.server.runs.figures import make_figures, pack_figures
from helium_jax.server.runs.keeper import RunKeeper
from helium_jax.server.runs.kept import RUN_PREFIX, restore_run
from helium_jax.server.runs.metrics import count_result
from helium_jax.server.runs.queue import RunQueue
from helium_jax.server.runs.record import RunRecord, State
from helium_jax.server.runs.rest import find_rest
from helium_jax.server.runs.shelf import RunShelf
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
        self.shelf = RunShelf(limits, on_forgotten=lambda record: self._keeper.forget(record))
        self.now = now
        self._limits = limits
        self._metrics = metrics
        self._state = state
        self._session: Session | None = None
        self._keeper = RunKeeper(None)
        self._queue = RunQueue(max_runs=limits.runs_queued)
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
        self._keeper = RunKeeper(journal)
        if journal is None:
            return
        for found in journal.take_found(RUN_PREFIX):
            try:
                kept, record = restore_run(found, self.plans, max_events=self._limits.run_events)
            except ValueError as error:
                log.error("%s: the journal's entry cannot be read: %s", found.run_id, error)
                continue
            self.shelf.add(record, kept.promise_key, kept.digest)
            self.shelf.note_over(record)

    async def close(self) -> None:
        """Ends every run; those that had not finished become interrupted."""
        while self._queue:
            self._finish(self._queue.pop(), "interrupted")
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
        on_told: Callable[[Told], None] | None = None,
    ) -> RunRecord:
        """Queues a run, or finds the one that was made under the same key.

        Args:
            tenant: whose key asks.
            job: the plan and its rows.
            promise_key: an Idempotency-Key.
            digest: of the body it comes with.
            is_durable: keep it in the journal, if there is one; `kept` of the record tells when.
            on_told: called with all that happens in it, and with what its answers were besides
                their texts.

        Raises:
            CapacityError: the queue is full.
            ConflictError: the key was used with another body.
        """
        known = self.shelf.promised(tenant, promise_key, digest)
        if known is not None:
            return known
        self._queue.check_room()
        run_id = f"{RUN_PREFIX}{secrets.token_hex(12)}"
        record = RunRecord(
            id=run_id,
            tenant=tenant,
            job=job,
            created=self.now(),
            events=EventLog(run_id, max_events=self._limits.run_events),
            model_version=self.session.generator.info.version,
            on_told=on_told,
        )
        self.shelf.add(record, promise_key, digest)
        if is_durable:
            self._keeper.begin(record, promise_key, digest)
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
        self._queue.check_room()
        self.shelf.note_resumed(record)
        record.attempt += 1
        record.begin_attempt()
        record.state = "queued"
        record.started = record.finished = None
        record.done.clear()
        record.events.begin_part()
        self._keeper.note_state(record, "queued")
        self._enqueue(record)

    @property
    def journal_failure(self) -> str | None:
        """Why runs are not kept beyond the process although they should be."""
        return self._keeper.failure

    async def profile_of(self, tenant: str, known: KnownPlan) -> Profile:
        """What a plan's runs have shown; a key's estimates come from its own runs alone."""
        return known.profile if tenant else await self.session.profile_of(known.plan)

    # --- changing --------------------------------------------------------------------------

    def cancel(self, record: RunRecord) -> None:
        """Ends a run with what it has; one that is over stays as it is."""
        if record.is_final or record.state == "cancelling":
            return
        if record.state == "queued":
            self._queue.discard(record)
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
        record.tell_created()
        self._queue.push(record)
        self._fill()

    def _fill(self) -> None:
        """Starts waiting runs while there is room."""
        if self._state.is_aborting:
            return  # what waits will be interrupted, as what runs is
        while self._queue and len(self._tasks) < self._limits.runs_running:
            record = self._queue.pop()
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
            state = await self._attempt(record)
            is_over = True
            record.finished = self.now()
            await self._keep_figures(record)
            await self._keeper.settle(record, state)
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

    async def _attempt(self, record: RunRecord) -> State:
        rest = find_rest(record.job, record.rows)
        if not rest.places and record.job.num_rows:
            return "completed"  # it was interrupted between its last row and its end
        profile = await self.profile_of(record.tenant, record.job.known)
        result = await attempt_run(
            self.session,
            record,
            rest,
            profile=profile,
            tell=self._keeper.tell,
            prompts_bytes=self._limits.run_prompts_bytes,
        )
        record.job.known.add(result)
        count_result(self._metrics, record.job.plan, result)
        return result.status

    async def _keep_figures(self, record: RunRecord) -> None:
        """Leaves the journal what a run's panes are drawn from; a run does not fail for it."""
        prepared, result = record.prepared, record.result
        if not record.is_durable or prepared is None or result is None:
            return
        try:
            report = await report_on(prepared, self.session.codec, result=result)
            figures = await asyncio.to_thread(make_figures, record, report)
        except Exception:
            log.exception("%s: its figures cannot be made", record.id)
            return
        self._keeper.keep_figures(record, pack_figures(figures))

    def _finish(self, record: RunRecord, state: State) -> None:
        self._keeper.flush(record)
        if state != "interrupted":
            self._keeper.note_state(record, state)
        record.finished = record.finished or self.now()
        started = record.created if record.started is None else record.started
        self._metrics.count("runs_total", state=state)
        record.end(state, t_ms=(record.finished - started) * 1e3)
        self.shelf.note_over(record)

    def _read(self) -> list[Reading]:
        counts = (
            ("runs_running", "Runs that use the engine", len(self._tasks)),
            ("runs_waiting", "Runs that wait for a place", len(self._queue)),
            ("runs_kept", "Finished runs that can be asked for", self.shelf.num_over),
        )
        if self._keeper.has_journal:
            up = ("journal_up", "1 while runs outlive the process", self._keeper.failure is None)
            counts = (*counts, up)
        return [
            Reading(name=name, kind="gauge", help=text, value=float(value), labels={})
            for name, text, value in counts
        ]
