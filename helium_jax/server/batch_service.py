"""Owner of the batches: each reads its file, has its lines answered and writes two files."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from helium_jax.errors import CapacityError, HeliumError, InternalError
from helium_jax.server.batch_lines import read_lines, write_answer, write_failure, write_undone
from helium_jax.server.config import Limits
from helium_jax.server.errors import ConflictError, NotFoundError
from helium_jax.server.file_bodies import (
    DAY_S,
    BatchBody,
    BatchError,
    BatchErrors,
    BatchLine,
    BatchReply,
    RequestCounts,
)
from helium_jax.server.file_store import FileStore

log = logging.getLogger(__name__)

FINAL = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedLine:
    """A line whose body is all right.

    Attributes:
        line: it.
        request_id: of its answer.
        order: lines go to the engine in this order, so that equal prefixes follow each other.
        run: gives the answer.
    """

    line: BatchLine
    request_id: str
    order: tuple[int, ...]
    run: Callable[[], Awaitable[Any]]


# (tenant, endpoint, line, request id) -> what is to run; raises what is wrong with the body.
Prepare = Callable[[str, str, BatchLine, str], Awaitable[PreparedLine]]


@dataclass(slots=True, kw_only=True)
class _Batch:
    tenant: str
    reply: BatchReply
    output_ttl_s: float | None
    task: asyncio.Task[None] | None = None
    answers: list[bytes] = field(default_factory=list)
    failures: list[bytes] = field(default_factory=list)
    done: set[str] = field(default_factory=set)  # custom ids


class BatchService:
    """Batches of every key; belongs to the event loop. They end with the process."""

    def __init__(
        self,
        *,
        files: FileStore,
        limits: Limits,
        prepare: Prepare,
        concurrency: int,
        is_draining: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        """
        Args:
            files: where input is read from and output goes.
            limits: how many batches and lines there may be.
            prepare: checks a line.
            concurrency: lines of one batch that run side by side.
            is_draining: the server ends: nothing new is to begin.
            now: seconds since the epoch.
        """
        self._files = files
        self._limits = limits
        self._prepare = prepare
        self._concurrency = concurrency
        self._is_draining = is_draining
        self._now = now
        self._running = asyncio.Semaphore(limits.batches_running)
        self._batches: dict[str, _Batch] = {}

    def create(self, tenant: str, body: BatchBody) -> BatchReply:
        """Starts a batch.

        Raises:
            NotFoundError: this key has no such file.
            CapacityError: this key has too many batches that are not done.
        """
        self._files.get(tenant, body.input_file_id)
        unfinished = [b for b in self._of(tenant) if b.reply.status not in FINAL]
        if len(unfinished) >= self._limits.batches_unfinished:
            raise CapacityError(
                f"{len(unfinished)} batches are not done yet; wait for one or cancel it",
                code="too_many_batches",
            )
        self._forget_oldest(tenant)
        now = self._now()
        after = body.output_expires_after
        batch = _Batch(
            tenant=tenant,
            output_ttl_s=None if after is None else float(after.seconds),
            reply=BatchReply(
                id=f"batch_{secrets.token_hex(12)}",
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
        batch.task = asyncio.create_task(self._run(batch), name=batch.reply.id)
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
        if batch.reply.status in FINAL:
            raise ConflictError(f"the batch is {batch.reply.status} already")
        if batch.reply.status != "cancelling":
            self._set(batch, "cancelling")
            assert batch.task is not None, "it was started when it was made"
            batch.task.cancel()
        return batch.reply

    async def close(self) -> None:
        """Ends all batches; what was answered by then is written."""
        tasks = [batch.task for batch in self._batches.values() if batch.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _find(self, tenant: str, batch_id: str) -> _Batch:
        batch = self._batches.get(batch_id)
        if batch is None or batch.tenant != tenant:
            raise NotFoundError(
                f"there is no batch {batch_id[:80]!r}; GET /v1/batches lists what there is",
                code="batch_not_found",
                param="batch_id",
            )
        return batch

    def _of(self, tenant: str) -> Sequence[_Batch]:
        return [batch for batch in self._batches.values() if batch.tenant == tenant]

    def _forget_oldest(self, tenant: str) -> None:
        """Makes room among the batches of a key that are over."""
        own = self._of(tenant)
        if len(own) >= self._limits.batches:
            oldest = next(batch for batch in own if batch.reply.status in FINAL)
            del self._batches[oldest.reply.id]

    def _set(self, batch: _Batch, status: str, **fields: Any) -> None:
        stamp = {f"{status}_at": int(self._now())} if status != "validating" else {}
        batch.reply = msgspec.structs.replace(batch.reply, status=status, **stamp, **fields)

    async def _run(self, batch: _Batch) -> None:
        lines: list[BatchLine] = []
        end, why = "completed", ("", "")
        try:
            async with self._running:
                lines, errors = await self._read(batch)
                if errors:
                    self._set(batch, "failed", errors=BatchErrors(data=errors))
                    return
                counts = RequestCounts(total=len(lines))
                self._set(batch, "in_progress", request_counts=counts)
                async with asyncio.timeout(batch.reply.expires_at - self._now()):
                    await self._answer_all(batch, lines)
                if len(batch.done) < len(lines):
                    end, why = "cancelled", ("shutting_down", "the server was shutting down")
        except TimeoutError:
            end, why = "expired", ("batch_expired", "the batch was not done within its window")
        except asyncio.CancelledError:
            end, why = "cancelled", ("batch_cancelled", "the batch was cancelled")
        except HeliumError as error:
            self._fail(batch, error)
            return
        except Exception as error:
            log.exception("a batch failed", extra={"batch_id": batch.reply.id})
            self._fail(batch, InternalError(f"a bug in helium-jax ({type(error).__name__})"))
            return
        await self._finish(batch, lines, end, why)

    def _fail(self, batch: _Batch, error: HeliumError) -> None:
        told = BatchError(code=error.code, message=error.message, param=error.param)
        self._set(batch, "failed", errors=BatchErrors(data=[told]))

    async def _read(self, batch: _Batch) -> tuple[list[BatchLine], list[BatchError]]:
        content = await self._files.read(batch.tenant, batch.reply.input_file_id)
        limits = self._limits
        return await asyncio.to_thread(
            read_lines,
            content,
            endpoint=batch.reply.endpoint,
            max_lines=limits.batch_lines,
            max_depth=limits.json_depth,
        )

    async def _answer_all(self, batch: _Batch, lines: Sequence[BatchLine]) -> None:
        """A window of lines at a time is checked, put in order and answered."""
        window = self._limits.batch_window
        for start in range(0, len(lines), window):
            prepared = []
            for index, line in enumerate(lines[start : start + window], start=start):
                request_id = f"{batch.reply.id}.{index}"
                try:
                    prepared.append(
                        await self._prepare(batch.tenant, batch.reply.endpoint, line, request_id)
                    )
                except HeliumError as error:
                    self._note(batch, line, write_failure(line, request_id, error), failed=True)
            prepared.sort(key=lambda one: one.order)
            todo = iter(prepared)
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, len(prepared))):
                    group.create_task(self._answer_some(batch, todo))

    async def _answer_some(self, batch: _Batch, todo: Iterator[PreparedLine]) -> None:
        for prepared in todo:
            if self._is_draining():
                return
            await self._answer(batch, prepared)

    async def _answer(self, batch: _Batch, prepared: PreparedLine) -> None:
        line = prepared.line
        while True:
            try:
                body = await prepared.run()
            except CapacityError as error:
                if self._is_draining():
                    return
                await asyncio.sleep(min(max(error.retry_after_s, 0.1), 5.0))
                continue
            except HeliumError as error:
                written = write_failure(line, prepared.request_id, error)
                self._note(batch, line, written, failed=True)
            else:
                written = write_answer(line, prepared.request_id, body)
                self._note(batch, line, written, failed=False)
            return

    def _note(self, batch: _Batch, line: BatchLine, written: bytes, *, failed: bool) -> None:
        """Counts a line that is done."""
        (batch.failures if failed else batch.answers).append(written)
        batch.done.add(line.custom_id)
        counts = batch.reply.request_counts
        batch.reply = msgspec.structs.replace(
            batch.reply,
            request_counts=RequestCounts(
                total=counts.total,
                completed=counts.completed + (not failed),
                failed=counts.failed + failed,
            ),
        )

    async def _finish(
        self, batch: _Batch, lines: Sequence[BatchLine], end: str, why: tuple[str, str]
    ) -> None:
        """Writes what there is; lines that did not run are in the error file with the reason."""
        undone = [line for line in lines if line.custom_id not in batch.done]
        failures = [*batch.failures, *(write_undone(line, *why) for line in undone)]
        if end == "completed":
            self._set(batch, "finalizing")
        try:
            output = await self._write(batch, "output", batch.answers)
            errors = await self._write(batch, "error", failures)
        except HeliumError as error:
            self._fail(batch, error)
            return
        finally:
            batch.answers, batch.failures = [], []
        self._set(batch, end, output_file_id=output, error_file_id=errors)

    async def _write(self, batch: _Batch, what: str, lines: Sequence[bytes]) -> str | None:
        if not lines:
            return None
        file = await self._files.add(
            batch.tenant,
            b"\n".join(lines) + b"\n",
            filename=f"{batch.reply.id}_{what}.jsonl",
            purpose="batch_output",
            ttl_s=batch.output_ttl_s,
        )
        return file.id


BATCHES = web.AppKey("batches", BatchService)
