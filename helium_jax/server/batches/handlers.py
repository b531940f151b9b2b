"""/v1/batches: files of requests, answered behind all others."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET

from helium_jax.errors import RequestError
from helium_jax.server.admission import working
from helium_jax.server.batches.line import BEHIND_OTHERS, PreparedLine, RowAnswer
from helium_jax.server.batches.rows import read_row
from helium_jax.server.batches.service import BATCHES
from helium_jax.server.files.bodies import BatchBody, BatchLine, BatchList
from helium_jax.server.files.paging import page_of
from helium_jax.server.openai.answering import Job, complete
from helium_jax.server.openai.bodies import ChatBody, CompletionBody, SamplingFields
from helium_jax.server.openai.choices import Piece
from helium_jax.server.openai.embeddings import make_embeddings
from helium_jax.server.openai.formats import Format
from helium_jax.server.openai.handlers import prepare_chat, prepare_completions
from helium_jax.server.openai.response_format import check_format
from helium_jax.server.receive import finish_reading, parse_body, receive_object
from helium_jax.server.responses.handlers import prepare_response
from helium_jax.server.state import CONFIG, REQUEST_ID, TENANT, Asking
from helium_jax.server.writing import json_response
from helium_jax.text import GrammarSpec

T = TypeVar("T")


async def post_batch(request: web.Request) -> web.Response:
    """Starts a batch."""
    with working(request):
        raw = await receive_object(request)
        body, found = parse_body(BatchBody, raw)
        if body is not None and len(msgspec.json.encode(body.metadata)) > 16 * 1024:
            found.add("metadata", "has more than 16 KiB")
        warnings = finish_reading(found, strict=request.app[CONFIG].strict)
        assert body is not None, "a body that cannot be read has problems"
        reply = await request.app[BATCHES].create(request[TENANT], body)
        return json_response(msgspec.structs.replace(reply, warnings=warnings or UNSET))


async def get_batches(request: web.Request) -> web.Response:
    """A key's batches, the latest first."""
    batches = request.app[BATCHES].of_key(request[TENANT])
    page, has_more = page_of(request, batches, default_limit=20)
    return json_response(
        BatchList(
            data=page,
            has_more=has_more,
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
        )
    )


async def get_batch(request: web.Request) -> web.Response:
    """One batch."""
    batch_id = request.match_info["batch_id"]
    return json_response(request.app[BATCHES].get(request[TENANT], batch_id))


async def post_cancel(request: web.Request) -> web.Response:
    """Ends a batch."""
    batch_id = request.match_info["batch_id"]
    return json_response(request.app[BATCHES].cancel(request[TENANT], batch_id))


@dataclass(frozen=True, slots=True)
class _LineAsking:
    """A line as who asks; see `state.Asking`."""

    app: web.Application
    tenant: str
    request_id: str

    def __getitem__(self, key: web.RequestKey[T], /) -> T:
        values: dict[Any, Any] = {TENANT: self.tenant, REQUEST_ID: self.request_id}
        return values[key]


# What checks the body of a line, and its type where a plan's call may give the same answer.
_ENDPOINTS: dict[str, tuple[Callable[..., Any], type[SamplingFields] | None]] = {
    "/v1/chat/completions": (prepare_chat, ChatBody),
    "/v1/completions": (prepare_completions, CompletionBody),
    "/v1/responses": (prepare_response, None),
}


async def prepare_line(
    app: web.Application,
    tenant: str,
    endpoint: str,
    index: int,
    line: BatchLine,
    request_id: str,
) -> PreparedLine:
    """Checks the body of a line as its endpoint does.

    Args:
        app: whose endpoint.
        tenant: whose batch.
        endpoint: its path.
        index: of the line in its file.
        line: to check.
        request_id: of its answer.

    Raises:
        HeliumError: as the endpoint.
    """
    asking = _LineAsking(app, tenant, request_id)
    if line.body.get("stream"):
        raise RequestError("a line of a batch cannot be streamed", param="stream")
    if endpoint == "/v1/embeddings":
        return PreparedLine(
            index=index,
            line=line,
            request_id=request_id,
            order=(),
            run=lambda: make_embeddings(asking, line.body),
        )
    prepare, kind = _ENDPOINTS[endpoint]
    body = line.body
    if endpoint == "/v1/responses":
        # Its answer is in the batch's file: it takes no other's place on the shelf unless asked to.
        body = {"store": False, **body}

    async def check() -> tuple[Job, Format]:
        return await prepare(asking, body, asyncio.get_running_loop().time())

    job, form = await check()
    row = None
    if kind is not None:
        has_format = job.requests[0].grammar is not None
        row = read_row(line.body, job, _format_of(kind, line.body) if has_format else None)
    if row is not None:

        async def run_anew() -> Any:
            # Should the row fail: until then its prompt's ids need not be kept.
            again, another = await check()
            return await _run(asking, again, another)

        return PreparedLine(
            index=index,
            line=line,
            request_id=request_id,
            order=(),
            run=run_anew,
            row=row,
            write=lambda answer: form.whole([_piece(answer)], answer.usage_reply),
        )
    return PreparedLine(
        index=index,
        line=line,
        request_id=request_id,
        order=job.requests[0].token_ids,
        run=lambda: _run(asking, job, form),
    )


def _format_of(kind: type[SamplingFields], raw: dict[str, Any]) -> GrammarSpec | None:
    """What a body that is all right says its answer must look like."""
    body, found = parse_body(kind, raw)
    wanted = None if body is None else check_format(body, raw, found)
    return None if wanted is None else wanted.spec


async def _run(asking: Asking, job: Job, form: Format) -> Any:
    """Asks the engine behind all others."""
    behind = tuple(
        replace(one, priority=one.priority + BEHIND_OTHERS, prefer_cached=True)
        for one in job.requests
    )
    started = asyncio.get_running_loop().time()
    return await complete(asking, replace(job, requests=behind, started=started), form)


def _piece(answer: RowAnswer) -> Piece:
    """A row's answer as the one piece of its sequence."""
    return Piece(
        index=0,
        text=answer.text,
        token_ids=(),
        usage=answer.usage,
        finish_reason=answer.finish_reason,
    )
