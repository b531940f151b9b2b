"""Owner of the batches: each reads its file, has its lines answered and writes two files."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec
from aiohttp import web

from helium_jax.errors import CapacityError, HeliumError, InternalError
from helium_jax.executor.journal import Journal
from helium_jax.server.batches.files import BatchFiles, describe_error
from helium_jax.server.batches.keeper import BatchKeeper
from helium_jax.server.batches.line import PreparedLine
from helium_jax.server.batches.lines import read_lines, write_answer, write_failure, write_undone
from helium_jax.server.batches.record import BATCH_PREFIX, BatchRecord
from helium_jax.server.batches.runs import RowRunner, group_rows
from helium_jax.server.config import Limits
from helium_jax.server.errors import ConflictError, NotFoundError
from helium_jax.server.files.bodies import (
    DAY_S,
    BatchBody,
    BatchError,
    BatchErrors,
    BatchLine,
    BatchReply,
    RequestCounts,
)
from helium_jax.server.files.store import FileStore

log = logging.getLogger(__name__)

# (tenant, endpoint, index, line, request id) -> a line ready to run; raises what is wrong with it.
Prepare = Callable[[str, str, int, BatchLine, str], Awaitable[PreparedLine]]

# Why the lines of a batch that ended so have no answer.
UNDONE = {
    "expired": ("batch_expired", "the batch was not done within its window"),
    "cancelled": ("batch_cancelled", "the batch was cancelled"),
    "shutting_down": ("shutting_down", "the server was shutting down"),
}


class BatchService:
    """Batches of every key; belongs to the event loop.

    With a journal a batch that is not over when the server ends goes on with the next one;
    otherwise it is cancelled.
    """

    def __init__(
        self,
        *,
        files: FileStore,
        limits: Limits,
        prepare: Prepare,
        rows: RowRunner,
        concurrency: int,
        now: Callable[[], float],
    ) -> None:
        """
        Args:
            files: where input is read from and output goes.
            limits: how many batches and lines there may be.
            prepare: checks a line.
            rows: runs lines that can be rows of a plan; knows whether the server ends.
            concurrency: other lines of one batch that run side by side.
            now: seconds since the epoch.
        """
        self._files = files
        self._limits = limits
        self._prepare = prepare
        self._rows = rows
        self._concurrency = concurrency
        self._now = now
        self._output = BatchFiles(store=files, state=rows.state, now=now)
        self._keeper = BatchKeeper(None)
        self._running = asyncio.Semaphore(limits.batches_running)
        self._batches: dict[str, BatchRecord] = {}

    # --- life ------------------------------------------------------------------------------

    def open(self, journal: Journal | None) -> None:
        """Goes on with the batches that the journal holds."""
        self._keeper = BatchKeeper(journal)
        for batch in self._keeper.take_found():
            self._batches[batch.reply.id] = batch
            if not batch.is_final:
                self._start(batch)

    async def close(self) -> None:
        """Stops all batches; what was answered by then is kept, or written."""
        tasks = [batch.task for batch in self._batches.values() if batch.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- asking ----------------------------------------------------------------------------

    async def create(self, tenant: str, body: BatchBody) -> BatchReply:
        """Starts a batch.

        Raises:
            NotFoundError: this key has no such file.
            CapacityError: this key has too many batches that are not done.
        """
        self._files.get(tenant, body.input_file_id)
        unfinished = [batch for batch in self._of(tenant) if not batch.is_final]
        if len(unfinished) >= self._limits.batches_unfinished:
            raise CapacityError(
                f"{len(unfinished)} batches are not done yet; wait for one or cancel it",
                code="too_many_batches",
            )
        self._forget_oldest(tenant)
        now = self._now()
        after = body.output_expires_after
        batch = BatchRecord(
            tenant=tenant,
            output_ttl_s=None if after is None else float(after.seconds),
            reply=BatchReply(
                id=f"{BATCH_PREFIX}{secrets.token_hex(12)}",
                endpoint=body.endpoint,
                input_file_id=body.input_file_id,
                completion_window=body.completion_window,
                status="validating",
                created_at=int(now),
                expires_at=int(now + DAY_S),
                request_counts=RequestCounts(),
                metadata=body.metadata,
            ),
        )
        self._batches[batch.reply.id] = batch
        self._start(batch)
        await self._keeper.begin(batch)
        return batch.reply

    def get(self, tenant: str, batch_id: str) -> BatchReply:
        """A key's batch.

        Raises:
            NotFoundError: this key has none of that id.
        """
        return self._find(tenant, batch_id).reply

    def of_key(self, tenant: str) -> list[BatchReply]:
        """A key's batches, the latest first."""
        return [batch.reply for batch in reversed(self._of(tenant))]

    def cancel(self, tenant: str, batch_id: str) -> BatchReply:
        """Ends a batch; what is answered by then can be read.

        Raises:
            NotFoundError: this key has none of that id.
            ConflictError: it is over.
        """
        batch = self._find(tenant, batch_id)
        if batch.is_final:
            raise ConflictError(f"the batch is {batch.reply.status} already")
        if batch.reply.status != "cancelling":
            self._set(batch, "cancelling")
            assert batch.task is not None, "it was started when it was made or found"
            batch.task.cancel()
        return batch.reply

    def _find(self, tenant: str, batch_id: str) -> BatchRecord:
        batch = self._batches.get(batch_id)
        if batch is None or batch.tenant != tenant:
            raise NotFoundError(
                f"there is no batch {batch_id[:80]!r}; GET /v1/batches lists what there is",
                code="batch_not_found",
                param="batch_id",
            )
        return batch

    def _of(self, tenant: str) -> Sequence[BatchRecord]:
        return [batch for batch in self._batches.values() if batch.tenant == tenant]

    def _forget_oldest(self, tenant: str) -> None:
        """Makes room among the batches of a key that are over."""
        own = self._of(tenant)
        if len(own) >= self._limits.batches:
            oldest = next(batch for batch in own if batch.is_final)
            del self._batches[oldest.reply.id]
            self._keeper.forget(oldest)

    # --- running ---------------------------------------------------------------------------

    def _start(self, batch: BatchRecord) -> None:
        batch.task = asyncio.create_task(self._run(batch), name=batch.reply.id)

    async def _run(self, batch: BatchRecord) -> None:
        lines: list[BatchLine] = []
        end = "completed"
        try:
            async with self._running:
                lines, errors = await self._read(batch)
                if errors:
                    self._set(batch, "failed", errors=BatchErrors(data=errors))
                    return
                batch.count(len(lines))
                if batch.reply.status == "cancelling":
                    end = "cancelled"  # the server had ended before it could be
                else:
                    if batch.reply.status == "validating":
                        self._set(batch, "in_progress")
                    async with asyncio.timeout(batch.reply.expires_at - self._now()):
                        await self._answer_all(batch, lines)
                    if batch.num_done < len(lines):
                        end = "shutting_down"
        except TimeoutError:
            end = "expired"
        except asyncio.CancelledError:
            end = "cancelled" if batch.reply.status == "cancelling" else "shutting_down"
        except HeliumError as error:  # the input is gone
            await self._fail_with_answers(batch, error)
            return
        except Exception as error:
            log.exception("a batch failed", extra={"batch_id": batch.reply.id})
            self._fail(batch, InternalError(f"a bug in helium-jax ({type(error).__name__})"))
            return
        if end == "shutting_down" and self._keeper.keeps:
            return  # the next server goes on with it
        await self._end(batch, lines, end)

    def _set(self, batch: BatchRecord, status: str, **fields: Any) -> None:
        stamp = {f"{status}_at": int(self._now())}
        batch.reply = msgspec.structs.replace(batch.reply, status=status, **stamp, **fields)
        self._keeper.note_reply(batch)

    def _fail(self, batch: BatchRecord, error: HeliumError) -> None:
        self._set(batch, "failed", errors=describe_error(error))

    async def _fail_with_answers(self, batch: BatchRecord, error: HeliumError) -> None:
        """Fails a batch; what an earlier server has answered of it can still be read."""
        files: dict[str, Any] = {}
        with contextlib.suppress(CapacityError):
            output, errors = await self._output.write(batch, batch.failures, may_wait=False)
            files = {"output_file_id": output, "error_file_id": errors}
        self._set(batch, "failed", errors=describe_error(error), **files)

    async def _read(self, batch: BatchRecord) -> tuple[list[BatchLine], list[BatchError]]:
        content = await self._files.read(batch.tenant, batch.reply.input_file_id)
        limits = self._limits
        return await asyncio.to_thread(
            read_lines,
            content,
            endpoint=batch.reply.endpoint,
            max_lines=limits.batch_lines,
            max_depth=limits.json_depth,
        )

    async def _answer_all(self, batch: BatchRecord, lines: Sequence[BatchLine]) -> None:
        """A window of lines at a time is checked and answered, as rows or by themselves."""
        todo = [index for index in range(len(lines)) if not batch.is_done(index)]
        window = self._limits.batch_window
        for start in range(0, len(todo), window):
            prepared = []
            for index in todo[start : start + window]:
                line, request_id = lines[index], f"{batch.reply.id}.{index}"
                try:
                    prepared.append(
                        await self._prepare(
                            batch.tenant, batch.reply.endpoint, index, line, request_id
                        )
                    )
                except HeliumError as error:
                    self._note(batch, index, write_failure(line, request_id, error), failed=True)
            groups = group_rows(prepared)
            rows = {line.index for group in groups for line in group}
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._answer_rows(batch, groups))
                others = [line for line in prepared if line.index not in rows]
                tasks.create_task(self._answer_each(batch, others))

    async def _answer_rows(
        self, batch: BatchRecord, groups: Sequence[Sequence[PreparedLine]]
    ) -> None:
        """Runs groups one after the other; what failed in a run is asked by itself.

        Then its failure is told in its endpoint's words.
        """
        for group in groups:
            may_go_on = await self._rows.run(
                batch.tenant,
                group,
                on_started=lambda run_id: self._note_run(batch, run_id),
                on_answer=lambda line, body: self._note_answer(batch, line, body),
            )
            if not may_go_on:
                self.cancel(batch.tenant, batch.reply.id)
                return
            left = [line for line in group if not batch.is_done(line.index)]
            await self._answer_each(batch, left)

    async def _answer_each(self, batch: BatchRecord, lines: Sequence[PreparedLine]) -> None:
        todo = iter(sorted(lines, key=lambda line: line.order))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(self._concurrency, len(lines))):
                tasks.create_task(self._answer_some(batch, todo))

    async def _answer_some(self, batch: BatchRecord, todo: Iterator[PreparedLine]) -> None:
        for prepared in todo:
            if self._rows.state.is_draining:
                return
            await self._answer(batch, prepared)

    async def _answer(self, batch: BatchRecord, prepared: PreparedLine) -> None:
        while True:
            try:
                body = await prepared.run()
            except CapacityError as error:
                if self._rows.state.is_draining:
                    return
                await asyncio.sleep(min(max(error.retry_after_s, 0.1), 5.0))
                continue
            except HeliumError as error:
                written = write_failure(prepared.line, prepared.request_id, error)
                self._note(batch, prepared.index, written, failed=True)
            else:
                self._note_answer(batch, prepared, body)
            return

    def _note_run(self, batch: BatchRecord, run_id: str) -> None:
        runs = [*batch.reply.runs, run_id]
        batch.reply = msgspec.structs.replace(batch.reply, runs=runs)
        self._keeper.note_reply(batch)

    def _note_answer(self, batch: BatchRecord, line: PreparedLine, body: Any) -> None:
        written = write_answer(line.line, line.request_id, body)
        self._note(batch, line.index, written, failed=False)

    def _note(self, batch: BatchRecord, index: int, written: bytes, *, failed: bool) -> None:
        """Keeps and counts a line that is done."""
        batch.put(index, written, failed=failed)
        self._keeper.note_line(batch, index, written)

    # --- ending ----------------------------------------------------------------------------

    async def _end(self, batch: BatchRecord, lines: Sequence[BatchLine], end: str) -> None:
        """Ends a batch, also one that is cancelled while it waits for room for its files."""
        try:
            await self._finish(batch, lines, end, may_wait=True)
        except asyncio.CancelledError:
            if batch.reply.status != "cancelling":
                raise  # the server closes; with a journal the next one writes them
            await self._finish(batch, lines, "cancelled", may_wait=False)

    async def _finish(
        self, batch: BatchRecord, lines: Sequence[BatchLine], end: str, *, may_wait: bool
    ) -> None:
        """Writes what there is; lines that did not run are in the error file with the reason."""
        failures = dict(batch.failures)
        for index, line in enumerate(lines):
            if not batch.is_done(index):
                failures[index] = write_undone(line, *UNDONE[end])
        if end == "completed":
            self._set(batch, "finalizing")
        try:
            output, errors = await self._output.write(batch, failures, may_wait=may_wait)
        except HeliumError as error:
            self._fail(batch, error)
        else:
            status = "cancelled" if end == "shutting_down" else end
            self._set(batch, status, output_file_id=output, error_file_id=errors, errors=None)
        batch.answers, batch.failures = {}, {}


BATCHES = web.AppKey("batches", BatchService)
