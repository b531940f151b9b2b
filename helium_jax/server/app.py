"""Puts the server together: one table of routes, from which /openapi.json is written too."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from aiohttp import web
from msgspec import Struct

from helium_jax.server import health, models, openai
from helium_jax.server.bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from helium_jax.server.config import ServerConfig
from helium_jax.server.middleware import Handler, answer_every_request
from helium_jax.server.openapi import Operation, describe
from helium_jax.server.replies import (
    ChatChunk,
    ChatReply,
    CompletionReply,
    DetokenizeReply,
    ModelCard,
    ModelList,
    TokenizeReply,
)
from helium_jax.server.state import (
    CLOCK,
    CONFIG,
    METRICS,
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
    reply: type[Struct],
    streams: type[Struct] | None = None,
) -> Route:
    operation = Operation(
        method="post", path=path, summary=summary, body=body, reply=reply, streams=streams
    )
    return Route(operation=operation, handler=handler)


def _get(
    path: str,
    summary: str,
    handler: Handler,
    *,
    reply: type[Struct] | None = None,
    is_open: bool = False,
) -> Route:
    operation = Operation(method="get", path=path, summary=summary, reply=reply, is_open=is_open)
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
    for route in ROUTES:
        add = app.router.add_get if route.operation.method == "get" else app.router.add_post
        add(route.operation.path, route.handler, expect_handler=_expect)
    return app


async def _expect(request: web.Request) -> None:
    """`Expect: 100-continue` is answered; others are ignored, as RFC 9110 allows."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the real answer has not begun
