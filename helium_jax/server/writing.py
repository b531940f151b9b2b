"""Writes answers: short ones as JSON, long ones in parts, as fast as a client takes them."""

import asyncio
from collections.abc import Iterable, Mapping

import msgspec
from aiohttp import web

from helium_jax.server.state import CONFIG, REQUEST_ID

CHUNK_BYTES = 64 * 1024
_SMALL_BYTES = 16 * 1024  # fits into a transport's empty buffer


def json_response(value: object, *, status: int = 200) -> web.Response:
    """A msgspec type or plain JSON as an answer."""
    return web.Response(
        body=msgspec.json.encode(value), content_type="application/json", status=status
    )


async def write_in_time(
    request: web.Request, response: web.StreamResponse, data: bytes | bytearray | memoryview
) -> None:
    """Writes a part of an answer; a client that does not take it is dropped.

    Raises:
        ConnectionResetError: the client is gone, by itself or just now.
    """
    transport = request.transport
    if transport is not None and not transport.get_write_buffer_size() and len(data) < _SMALL_BYTES:
        await response.write(data)  # there is room: a timer for every token would be a waste
        return
    try:
        async with asyncio.timeout(request.app[CONFIG].write_timeout_s):
            await response.write(data)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client does not read its answer") from None


async def send_parts(
    request: web.Request, parts: Iterable[bytes], headers: Mapping[str, str]
) -> web.StreamResponse:
    """A whole answer of many parts, which are joined to larger ones on their way.

    The event loop turns between them: written at once, 50 MB keep it for 200 ms.
    """
    response = web.StreamResponse(headers={**headers, "x-request-id": request[REQUEST_ID]})
    await response.prepare(request)
    chunk = bytearray()
    for part in parts:
        chunk += part
        if len(chunk) >= CHUNK_BYTES:
            await write_in_time(request, response, chunk)
            await asyncio.sleep(0)  # a client that reads fast never makes a write wait
            chunk = bytearray()
    await write_in_time(request, response, chunk)
    await response.write_eof()
    return response


def cut(content: bytes) -> Iterable[bytes]:
    """The parts of a long answer that is there as one."""
    view = memoryview(content)
    return (bytes(view[at : at + CHUNK_BYTES]) for at in range(0, len(view), CHUNK_BYTES))
