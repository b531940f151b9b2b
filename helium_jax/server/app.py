"""Puts the server together: routes, what their handlers share, and what lives as long as it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

from aiohttp import web

from helium_jax.executor.journal import Journal
from helium_jax.runtime import open_session
from helium_jax.server import health
from helium_jax.server.batches.handlers import prepare_line
from helium_jax.server.batches.runs import RowRunner
from helium_jax.server.batches.service import BATCHES, BatchService
from helium_jax.server.cache_map import MAPS, Maps
from helium_jax.server.config import ServerConfig
from helium_jax.server.files.store import FILES, FileStore
from helium_jax.server.lifecycle import ServerState
from helium_jax.server.loop_watch import LoopWatch
from helium_jax.server.middleware import answer_every_request
from helium_jax.server.responses.shelf import RESPONSES, ResponseShelf
from helium_jax.server.routes import ROUTES
from helium_jax.server.runs.service import RunService
from helium_jax.server.state import (
    CLOCK,
    CONFIG,
    METRICS,
    RUNS,
    RUNTIME,
    STARTED_UNIX,
    STATE,
    TURNSTILE,
    WAITING_ROOM,
    Runtime,
)
from helium_jax.server.turnstile import Turnstile
from helium_jax.server.viewer import add_viewer
from helium_jax.server.waiting_room import WaitingRoom
from helium_jax.telemetry.metrics import Metrics


def make_app(
    runtime: Runtime,
    config: ServerConfig,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> web.Application:
    """The application for one model; `start_server` makes it listen.

    `clock`: monotonic seconds, for the log's durations.
    """
    app = web.Application(
        middlewares=[answer_every_request], client_max_size=config.limits.body_bytes
    )
    app[RUNTIME] = runtime
    app[CONFIG] = config
    app[STATE] = ServerState()
    app[TURNSTILE] = Turnstile()
    app[WAITING_ROOM] = WaitingRoom(config.limits)
    app[RESPONSES] = ResponseShelf(
        max_responses=config.limits.responses, max_bytes=config.limits.responses_bytes
    )
    app[CLOCK] = clock
    app[MAPS] = Maps()
    app[STARTED_UNIX] = int(time.time())
    metrics = app[METRICS] = Metrics(model_name=runtime.generator.info.name)
    metrics.add_source(lambda: health.read_engines(runtime.generator))
    watch = LoopWatch()
    metrics.add_source(watch.read)
    service = app[RUNS] = RunService(config, metrics, state=app[STATE])

    files = app[FILES] = FileStore(
        None if config.state_dir is None else config.state_dir / "files",
        max_files=config.limits.files,
        max_bytes=config.limits.files_bytes,
        now=time.time,
    )
    info = runtime.generator.info
    batches = app[BATCHES] = BatchService(
        files=files,
        limits=config.limits,
        prepare=partial(prepare_line, app),
        rows=RowRunner(runs=service, state=app[STATE]),
        concurrency=info.max_num_seqs * info.num_workers,
        now=time.time,
    )

    async def keep_session(app: web.Application) -> AsyncIterator[None]:
        async with (
            _open_journal(config) as journal,
            open_session(runtime, config.state_dir) as session,
        ):
            service.open(session, journal)
            await files.open()
            batches.open(journal)
            watching = asyncio.create_task(watch.run())
            try:
                yield
            finally:
                watching.cancel()
                await batches.close()
                await service.close()

    app.cleanup_ctx.append(keep_session)
    for route in ROUTES:
        method = route.operation.method.upper()
        if method == "GET":
            app.router.add_get(route.operation.path, route.handler, expect_handler=_expect)
        else:
            app.router.add_route(
                method, route.operation.path, route.handler, expect_handler=_expect
            )
    add_viewer(app)
    return app


@contextlib.asynccontextmanager
async def _open_journal(config: ServerConfig) -> AsyncIterator[Journal | None]:
    """The journal of the state directory, which is this process's alone meanwhile."""
    if config.state_dir is None:
        yield None
        return
    journal = await asyncio.to_thread(
        Journal, config.state_dir, max_bytes=config.limits.journal_bytes
    )
    try:
        yield journal
    finally:
        await asyncio.to_thread(journal.close)


async def _expect(request: web.Request) -> None:
    """`Expect: 100-continue` is answered; others are ignored, as RFC 9110 allows."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the real answer has not begun
