"""Server-sent events: one JSON value an event; a reader that does not read is dropped."""

import asyncio
from typing import Protocol

import msgspec
from aiohttp import web

from helium_jax.errors import HeliumError
from helium_jax.server.errors import envelope
from helium_jax.server.state import CONFIG, REQUEST_ID

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
        self._config = request.app[CONFIG]
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

    async def send_event(self, event_id: str, type_: str, data: bytes) -> None:
        """Sends one event under a name and an id that a client may come back with."""
        head = f"id: {event_id}\nevent: {type_}\ndata: ".encode()
        await self._write(head + data + b"\n\n")

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

    async def _write(self, data: bytes) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        try:
            async with asyncio.timeout(self._config.write_timeout_s):
                await self.response.write(data)
        except TimeoutError:
            transport = self._request.transport
            if transport is not None:
                transport.abort()
            raise ConnectionResetError("the client does not read its answer") from None
