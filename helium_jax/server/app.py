"""Puts the server together: one table of routes, from which /openapi.json is written too."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib.metadata import version

from aiohttp import web
from msgspec import Struct

from helium_jax.executor.journal import Journal
from helium_jax.runtime import open_session
from helium_jax.server import cache, health, models, openai, plans, run_stream, runs
from helium_jax.server.bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from helium_jax.server.config import ServerConfig
from helium_jax.server.middleware import Handler, answer_every_request
from helium_jax.server.openapi import Operation, describe
from helium_jax.server.plan_bodies import (
    CancelBody,
    ExplainBody,
    PlanBody,
    ResetBody,
    RunBody,
    WarmBody,
)
from helium_jax.server.plan_replies import (
    CacheReply,
    DeletedReply,
    PinList,
    PlanList,
    PlanReply,
    ResetReply,
    RunEventReply,
    RunList,
    RunReply,
    WarmReply,
)
from helium_jax.server.replies import (
    ChatChunk,
    ChatReply,
    CompletionReply,
    DetokenizeReply,
    ModelCard,
    ModelList,
    TokenizeReply,
)
from helium_jax.server.run_service import RunService
from helium_jax.server.state import (
    CLOCK,
    CONFIG,
    METRICS,
    RUNS,
    RUNTIME,
    STARTED_UNIX,
    STATE,
    Runtime,
    ServerState,
)
from helium_jax.telemetry.metrics import Metrics

VERSION = version("helium-jax")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An operation and who carries it out."""

    operation: Operation
    handler: Handler


def _post(
    path: str,
    summary: str,
    handler: Handler,
    *,
    body: type[Struct],
    reply: type[Struct] | None = None,
    streams: type[Struct] | None = None,
    may_lack_body: bool = False,
) -> Route:
    operation = Operation(
        method="post",
        path=path,
        summary=summary,
        body=body,
        reply=reply,
        streams=streams,
        may_lack_body=may_lack_body,
    )
    return Route(operation=operation, handler=handler)


def _get(
    path: str,
    summary: str,
    handler: Handler,
    *,
    reply: type[Struct] | None = None,
    streams: type[Struct] | None = None,
    is_open: bool = False,
) -> Route:
    operation = Operation(
        method="get", path=path, summary=summary, reply=reply, streams=streams, is_open=is_open
    )
    return Route(operation=operation, handler=handler)


def _delete(path: str, summary: str, handler: Handler) -> Route:
    operation = Operation(method="delete", path=path, summary=summary, reply=DeletedReply)
    return Route(operation=operation, handler=handler)


async def get_version(request: web.Request) -> web.Response:
    """The version of helium-jax."""
    return web.json_response({"version": VERSION})


async def get_openapi(request: web.Request) -> web.Response:
    """This API, described."""
    operations = [route.operation for route in ROUTES]
    return web.json_response(describe(operations, version=VERSION))


ROUTES = (
    _post(
        "/v1/chat/completions",
        "Continue a conversation",
        openai.post_chat,
        body=ChatBody,
        reply=ChatReply,
        streams=ChatChunk,
    ),
    _post(
        "/v1/completions",
        "Continue texts",
        openai.post_completions,
        body=CompletionBody,
        reply=CompletionReply,
        streams=CompletionReply,
    ),
    _get("/v1/models", "Models that are served", models.get_models, reply=ModelList),
    _get("/v1/models/{model:.+}", "One model", models.get_model, reply=ModelCard),
    _post(
        "/tokenize",
        "Token ids of a text or conversation",
        models.post_tokenize,
        body=TokenizeBody,
        reply=TokenizeReply,
    ),
    _post(
        "/detokenize",
        "Text of token ids",
        models.post_detokenize,
        body=DetokenizeBody,
        reply=DetokenizeReply,
    ),
    _post("/v1/plans", "Register a plan", plans.post_plan, body=PlanBody, reply=PlanReply),
    _get("/v1/plans", "Registered plans", plans.get_plans, reply=PlanList),
    _get("/v1/plans/schema", "JSON Schema of plans", plans.get_schema),
    _post("/v1/plans/explain", "Explain a plan", plans.post_explain, body=ExplainBody),
    _get("/v1/plans/{plan_id}", "One plan", plans.get_plan, reply=PlanReply),
    _post(
        "/v1/runs",
        "Run a plan",
        runs.post_run,
        body=RunBody,
        reply=RunReply,
        streams=RunEventReply,
    ),
    _get("/v1/runs", "Runs", runs.get_runs, reply=RunList),
    _get("/v1/runs/{run_id}", "One run", runs.get_run, reply=RunReply),
    _delete("/v1/runs/{run_id}", "Forget a run", runs.delete_run),
    _get(
        "/v1/runs/{run_id}/events",
        "What happens in a run",
        run_stream.get_events,
        streams=RunEventReply,
    ),
    _get("/v1/runs/{run_id}/outputs", "Finished rows as JSON lines", runs.get_outputs),
    _get("/v1/runs/{run_id}/explain", "EXPLAIN, and ANALYZE, of a run", runs.get_explain),
    _get("/v1/runs/{run_id}/timeline.svg", "Calls over time", runs.get_timeline),
    _post(
        "/v1/runs/{run_id}/cancel",
        "Cancel a run",
        runs.post_cancel,
        body=CancelBody,
        reply=RunReply,
        may_lack_body=True,
    ),
    Route(
        operation=Operation(
            method="post",
            path="/v1/runs/{run_id}/resume",
            summary="Go on with an interrupted run",
            reply=RunReply,
        ),
        handler=runs.post_resume,
    ),
    _get("/v1/cache", "What is cached", cache.get_cache, reply=CacheReply),
    _post("/v1/cache/warm", "Compute KV ahead", cache.post_warm, body=WarmBody, reply=WarmReply),
    _get("/v1/cache/pins", "Pins", cache.get_pins, reply=PinList),
    _delete("/v1/cache/pins/{pin_id}", "Give a pin back", cache.delete_pin),
    _post(
        "/v1/cache/reset",
        "Empty the caches",
        cache.post_reset,
        body=ResetBody,
        reply=ResetReply,
        may_lack_body=True,
    ),
    _get("/health", "Ready for work", health.get_ready),
    _get("/health/ready", "Ready for work", health.get_ready),
    _get("/health/live", "The process answers", health.get_live, is_open=True),
    _get("/metrics", "Prometheus metrics", health.get_metrics),
    _get("/version", "Version of helium-jax", get_version, is_open=True),
    _get("/openapi.json", "This description", get_openapi),
)


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
    app[CLOCK] = clock
    app[STARTED_UNIX] = int(time.time())
    metrics = app[METRICS] = Metrics(model_name=runtime.generator.info.name)
    metrics.add_source(lambda: health.read_engines(runtime.generator))
    service = app[RUNS] = RunService(config, metrics, state=app[STATE])

    async def keep_session(app: web.Application) -> AsyncIterator[None]:
        async with (
            _open_journal(config) as journal,
            open_session(runtime, config.state_dir) as session,
        ):
            service.open(session, journal)
            try:
                yield
            finally:
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
