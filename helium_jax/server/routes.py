"""The one table of routes: who answers what, from which /openapi.json is written too."""

import functools
from dataclasses import dataclass
from importlib.metadata import version
from types import UnionType

import msgspec
from aiohttp import web
from msgspec import Struct

from helium_jax.server import cache, cache_map, docs, health
from helium_jax.server.batches import handlers as batches
from helium_jax.server.examples import EXAMPLES
from helium_jax.server.files import handlers as files
from helium_jax.server.files.bodies import (
    BatchBody,
    BatchList,
    BatchReply,
    FileForm,
    FileList,
    FileReply,
)
from helium_jax.server.messages import handlers as messages
from helium_jax.server.messages.bodies import CountTokensBody, MessagesBody
from helium_jax.server.messages.replies import (
    MessagesError,
    MessagesEvent,
    MessagesReply,
    TokenCount,
)
from helium_jax.server.middleware import Handler
from helium_jax.server.openai import embeddings, models
from helium_jax.server.openai import handlers as openai
from helium_jax.server.openai.bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from helium_jax.server.openai.embeddings import EmbeddingsBody, EmbeddingsReply
from helium_jax.server.openai.replies import (
    ChatChunk,
    ChatReply,
    CompletionReply,
    DetokenizeReply,
    ErrorReply,
    ModelCard,
    ModelList,
    TokenizeReply,
)
from helium_jax.server.openapi import Operation, describe
from helium_jax.server.parameters import PARAMETERS
from helium_jax.server.plans import handlers as plans
from helium_jax.server.plans.bodies import (
    CancelBody,
    ExplainBody,
    PlanBody,
    ResetBody,
    RunBody,
    WarmBody,
)
from helium_jax.server.plans.replies import (
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
from helium_jax.server.responses import handlers as responses
from helium_jax.server.responses.bodies import ResponseBody
from helium_jax.server.responses.replies import (
    InputItemList,
    InputTokens,
    ResponseEvent,
    ResponseReply,
)
from helium_jax.server.runs import handlers as runs
from helium_jax.server.runs import prompts as run_prompts
from helium_jax.server.runs import stream as run_stream
from helium_jax.server.runs import views as run_views
from helium_jax.server.state import RUNTIME
from helium_jax.server.view_replies import (
    CacheMapReply,
    PlanGraphReply,
    PromptList,
    PromptReply,
    TimelineReply,
)

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
    streams: type[Struct] | UnionType | None = None,
    error: type[Struct] = ErrorReply,
    may_lack_body: bool = False,
) -> Route:
    operation = Operation(
        method="post",
        path=path,
        summary=summary,
        body=body,
        reply=reply,
        streams=streams,
        error=error,
        may_lack_body=may_lack_body,
        example=EXAMPLES.get(path),
        parameters=PARAMETERS.get(("post", path), ()),
    )
    return Route(operation=operation, handler=handler)


def _get(
    path: str,
    summary: str,
    handler: Handler,
    *,
    reply: type[Struct] | None = None,
    streams: type[Struct] | UnionType | None = None,
    is_open: bool = False,
) -> Route:
    operation = Operation(
        method="get",
        path=path,
        summary=summary,
        reply=reply,
        streams=streams,
        is_open=is_open,
        parameters=PARAMETERS.get(("get", path), ()),
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
    model = request.app[RUNTIME].generator.info.name
    return web.Response(body=_description(model), content_type="application/json")


@functools.cache
def _description(model: str) -> bytes:
    """Written once: it takes 25 ms."""
    operations = [route.operation for route in ROUTES]
    return msgspec.json.encode(describe(operations, version=VERSION, model=model))


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
    _post(
        "/v1/responses",
        "Go on from an input or an earlier response",
        responses.post_response,
        body=ResponseBody,
        reply=ResponseReply,
        streams=ResponseEvent,
    ),
    _post(
        "/v1/responses/input_tokens",
        "Tokens of what a response would go on from",
        responses.post_input_tokens,
        body=ResponseBody,
        reply=InputTokens,
    ),
    _get(
        "/v1/responses/{response_id}",
        "A response that was kept",
        responses.get_response,
        reply=ResponseReply,
    ),
    _get(
        "/v1/responses/{response_id}/input_items",
        "What a response went on from",
        responses.get_input_items,
        reply=InputItemList,
    ),
    _delete("/v1/responses/{response_id}", "Forget a response", responses.delete_response),
    _post(
        "/v1/messages",
        "Continue a conversation, in Anthropic's form",
        messages.post_messages,
        body=MessagesBody,
        reply=MessagesReply,
        streams=MessagesEvent,
        error=MessagesError,
    ),
    _post(
        "/v1/messages/count_tokens",
        "Tokens of a conversation, in Anthropic's form",
        messages.post_count_tokens,
        body=CountTokensBody,
        reply=TokenCount,
        error=MessagesError,
    ),
    _post(
        "/v1/embeddings",
        "Vectors of texts: mean-pooled hidden states",
        embeddings.post_embeddings,
        body=EmbeddingsBody,
        reply=EmbeddingsReply,
    ),
    Route(
        operation=Operation(
            method="post",
            path="/v1/files",
            summary="Upload the lines of a batch",
            form=FileForm,
            reply=FileReply,
        ),
        handler=files.post_file,
    ),
    _get("/v1/files", "Files", files.get_files, reply=FileList),
    _get("/v1/files/{file_id}", "One file", files.get_file, reply=FileReply),
    _get("/v1/files/{file_id}/content", "The bytes of a file", files.get_content),
    _delete("/v1/files/{file_id}", "Delete a file", files.delete_file),
    _post(
        "/v1/batches",
        "Answer a file of requests",
        batches.post_batch,
        body=BatchBody,
        reply=BatchReply,
    ),
    _get("/v1/batches", "Batches", batches.get_batches, reply=BatchList),
    _get("/v1/batches/{batch_id}", "One batch", batches.get_batch, reply=BatchReply),
    Route(
        operation=Operation(
            method="post",
            path="/v1/batches/{batch_id}/cancel",
            summary="Cancel a batch",
            reply=BatchReply,
        ),
        handler=batches.post_cancel,
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
    _get("/v1/runs/{run_id}/explain", "EXPLAIN, and ANALYZE, of a run", run_views.get_explain),
    _get(
        "/v1/runs/{run_id}/graph",
        "A run's plan as a graph",
        run_views.get_graph,
        reply=PlanGraphReply,
    ),
    _get(
        "/v1/runs/{run_id}/timeline",
        "Calls over time",
        run_views.get_calls,
        reply=TimelineReply,
    ),
    _get("/v1/runs/{run_id}/timeline.svg", "Calls over time, drawn", run_views.get_timeline),
    _get(
        "/v1/runs/{run_id}/prompts",
        "Calls whose prompts can be read",
        run_prompts.get_prompts,
        reply=PromptList,
    ),
    _get(
        "/v1/runs/{run_id}/prompt",
        "A call's prompt and what of it is shared",
        run_prompts.get_prompt,
        reply=PromptReply,
    ),
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
    _get("/v1/cache/map", "Pages and prefixes of the KV", cache_map.get_map, reply=CacheMapReply),
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
    _get("/docs", "This description as a page", docs.get_docs, is_open=True),
)
