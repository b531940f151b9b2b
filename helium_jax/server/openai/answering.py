"""Runs what a body asked for and writes the answer, whole or as events, for every endpoint."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web

from helium_jax.server.openai.choices import Piece, Pieces, run_sequences, sum_usage
from helium_jax.server.openai.formats import Format
from helium_jax.server.openai.replies import UsageReply
from helium_jax.server.sse import EventStream, Wire, ending_in_words
from helium_jax.server.state import (
    CONFIG,
    METRICS,
    RUNTIME,
    TENANT,
    WAITING_ROOM,
    Asking,
)
from helium_jax.server.writing import json_response
from helium_jax.types import GenerateRequest, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A body that is all right, ready to run.

    Attributes:
        requests: one per answer; the n answers of a prompt follow each other.
        answers_per_prompt: n.
        stop: strings that end an answer.
        include_stop: an answer ends with its stop string instead of before it.
        streams: answer as events.
        include_usage: a stream ends with the usage.
        continuous_usage: every event of a stream has the usage so far.
        started: the event loop's time of arrival.
        shown: special tokens that the answers' texts have by their names.
    """

    requests: tuple[GenerateRequest, ...]
    answers_per_prompt: int
    stop: tuple[str, ...]
    include_stop: bool
    streams: bool
    include_usage: bool
    continuous_usage: bool
    started: float
    shown: frozenset[int] = frozenset()


async def answer(
    request: web.Request,
    job: Job,
    form: Format,
    *,
    open_wire: Callable[[web.Request], Wire] = EventStream,
) -> web.StreamResponse:
    """Runs a job and writes its answer, whole or as events, in the format `form`.

    `open_wire`: how events are put on the wire.
    """
    if job.streams:
        async with _running(request, job) as pieces:
            return await _stream(request, job, form, pieces, open_wire(request))
    reply = await complete(request, job, form)
    return json_response(reply)


async def complete(asking: Asking, job: Job, form: Format) -> msgspec.Struct:
    """Runs a job to its end; the whole answer in the format `form`."""
    async with _running(asking, job) as pieces:
        collected = [piece async for piece in _all_pieces(pieces)]
    usages = _zero_usages(job)
    for piece in collected:
        usages[piece.index] = piece.usage
    usage = sum_usage(usages, job.answers_per_prompt)
    asking.app[METRICS].count("prompt_tokens_total", usage.prompt_tokens)
    return form.whole(collected, usage)


@contextlib.asynccontextmanager
async def _running(asking: Asking, job: Job) -> AsyncIterator[Pieces]:
    runtime, metrics = asking.app[RUNTIME], asking.app[METRICS]
    room, lengths = asking.app[WAITING_ROOM], [len(one.token_ids) for one in job.requests]
    with room.enter(asking[TENANT], lengths) as on_begun:
        running = run_sequences(
            runtime.generator,
            job.requests,
            make_detokenizer=lambda: runtime.text.detokenizer(
                job.stop, include_stop=job.include_stop, shown=job.shown
            ),
            metrics=metrics,
            started=job.started,
            on_begun=on_begun,
        )
        try:
            async with running as pieces:
                yield pieces
        except asyncio.CancelledError:
            metrics.count("requests_cancelled_total")
            raise


def _zero_usages(job: Job) -> list[Usage]:
    """What each sequence has cost before its first token."""
    return [
        Usage(prompt_tokens=len(one.token_ids), completion_tokens=0, kv_cached=0)
        for one in job.requests
    ]


async def _all_pieces(pieces: Pieces) -> AsyncIterator[Piece]:
    while not pieces.is_finished:
        piece = await pieces.next()
        assert piece is not None, "without a time-out there is always a piece"
        yield piece


async def _stream(
    request: web.Request, job: Job, form: Format, pieces: Pieces, stream: Wire
) -> web.StreamResponse:
    config = request.app[CONFIG]
    usages = _zero_usages(job)
    async with ending_in_words(request, stream):
        while not pieces.is_finished:
            piece = await pieces.next(config.ping_interval_s)
            if piece is None:
                await stream.ping()
                continue
            usages[piece.index] = piece.usage
            so_far: UsageReply | bool = job.include_usage
            if job.continuous_usage:
                so_far = sum_usage(usages, job.answers_per_prompt)
            for chunk in form.chunks(piece, usage=so_far):
                await stream.send(chunk)
        usage = sum_usage(usages, job.answers_per_prompt)
        request.app[METRICS].count("prompt_tokens_total", usage.prompt_tokens)
        if job.include_usage:
            await stream.send(form.usage_chunk(usage))
        await stream.finish()
    return stream.response
