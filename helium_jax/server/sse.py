"""Server-sent events: one JSON value an event; a reader that does not read is dropped."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Protocol

import msgspec
from aiohttp import web

from helium_jax.errors import HeliumError
from helium_jax.server.errors import envelope
from helium_jax.server.middleware import shutting_down
from helium_jax.server.state import REQUEST_ID, STATE
from helium_jax.server.writing import CHUNK_BYTES, write_in_time

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"


class Wire(Protocol):
    """How one endpoint puts its events on the wire."""

    @property
    def response(self) -> web.StreamResponse:
        """To return from the handler, once something was sent."""
        ...

    @property
    def has_begun(self) -> bool:
        """Whether bytes are under way and the status is settled."""
        ...

    async def send(self, value: msgspec.Struct) -> None:
        """Sends one event."""
        ...

    async def ping(self) -> None:
        """Sends what clients skip."""
        ...

    async def finish(self) -> None:
        """Ends the stream as complete."""
        ...

    async def fail(self, error: HeliumError) -> None:
        """Ends the stream with an error."""
        ...


class EventStream:
    """An answer made of events; nothing is sent before the first, so that an early error still
    gets its own status.

    Attributes:
        response: to return from the handler, once something was sent.
    """

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                "x-request-id": request[REQUEST_ID],
            }
        )

    @property
    def has_begun(self) -> bool:
        """Whether bytes are under way and the status is settled."""
        return self.response.prepared

    async def send(self, value: object) -> None:
        """Sends one event; `value` is a msgspec type or plain JSON."""
        await self._write(b"data: " + msgspec.json.encode(value) + b"\n\n")

    async def send_events(self, events: Iterable[tuple[str, str, bytes]]) -> None:
        """Sends events under their ids, which a client may come back with, names and data.

        What is there at once is written together, and the event loop turns in between.
        """
        together = bytearray()
        for event_id, type_, data in events:
            together += f"id: {event_id}\nevent: {type_}\ndata: ".encode() + data + b"\n\n"
            if len(together) >= CHUNK_BYTES:
                await self._write(together)
                await asyncio.sleep(0)
                together = bytearray()
        if together:
            await self._write(together)

    async def send_named(self, type_: str, value: object) -> None:
        """Sends one event under a name; `value` as in `send`."""
        await self._write(f"event: {type_}\ndata: ".encode() + msgspec.json.encode(value) + b"\n\n")

    async def ping(self) -> None:
        """Sends a comment, which clients skip."""
        await self._write(PING)

    async def finish(self) -> None:
        """Ends the stream as complete."""
        await self._write(DONE)
        await self.response.write_eof()

    async def end(self) -> None:
        """Ends a stream whose last event says that it is complete."""
        await self.response.write_eof()

    async def fail(self, error: HeliumError) -> None:
        """Ends the stream with an error and without [DONE], which says that it is incomplete."""
        await self.send(envelope(error))
        await self.response.write_eof()

    async def _write(self, data: bytes | bytearray) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        await write_in_time(self._request, self.response, data)


@contextlib.asynccontextmanager
async def ending_in_words(request: web.Request, stream: Wire) -> AsyncIterator[None]:
    """What ends a stream early becomes its last event: an error, or the shutdown.

    What cannot be told there is raised: an error before the first byte, which still gets its own
    status, and whatever happens to a client that has left.
    """
    try:
        yield
    except HeliumError as error:
        if not stream.has_begun:
            raise
        await stream.fail(error)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        is_told = request.app[STATE].is_aborting and request.transport is not None
        if task is None or not (is_told and stream.has_begun):
            raise
        task.uncancel()
        await stream.fail(shutting_down())
