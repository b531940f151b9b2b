"""The socket: connections that are counted, timed and answered in JSON even when they send no HTTP.

aiohttp answers broken HTTP as text and echoes the input; `Connection` answers in the error
envelope. Its keep-alive timer, which starts with the connection, doubles as header timeout.
"""

import asyncio
import json
import logging
import os
import uuid
from collections.abc import Callable

from aiohttp import web

from helium_jax.errors import CapacityError, InternalError, RequestError
from helium_jax.server.config import ServerConfig
from helium_jax.server.errors import envelope
from helium_jax.server.lifecycle import ServerState
from helium_jax.server.state import STATE

log = logging.getLogger(__name__)
_POLL_S = 0.02


class Connection(web.RequestHandler):
    """aiohttp's connection with our answer to what is not HTTP."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what no handler saw or no middleware caught, and closes the connection."""
        if isinstance(exc, ConnectionError):
            raise exc  # nobody is there to be answered; aiohttp ends the connection
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun; a second one cannot be sent")
        request_id = new_request_id()
        if status < 500:
            log.info("unreadable HTTP from %s", request.remote, extra={"request_id": request_id})
            error = RequestError("the request is not valid HTTP/1.1", code="invalid_http")
        else:
            log.error("bug in the server", exc_info=exc, extra={"request_id": request_id})
            error = InternalError("a bug in helium-jax; the log has more under this request id")
        response = web.json_response(
            envelope(error), status=status, headers={"x-request-id": request_id}
        )
        response.force_close()
        return response


class _Refusal(asyncio.Protocol):
    """Answers a connection over the limit and closes it, without reading."""

    def __init__(self, limit: int) -> None:
        error = CapacityError(
            f"the server has {limit} open connections, its limit; try again later",
            code="too_many_connections",
        )
        body = json.dumps(envelope(error)).encode()
        self._answer = (
            b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\n"
            b"retry-after: 1\r\nconnection: close\r\nx-request-id: %s\r\n"
            b"content-length: %d\r\n\r\n%s" % (new_request_id().encode(), len(body), body)
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._answer)
        transport.close()


class RunningServer:
    """A listening application; ends by `close`, or gently by `drain` and then `close`."""

    def __init__(
        self, runner: web.AppRunner, listening: asyncio.Server, state: ServerState
    ) -> None:
        self._runner = runner
        self._listening = listening
        self._state = state

    @property
    def port(self) -> int:
        """The port that is bound."""
        return self._listening.sockets[0].getsockname()[1]

    @property
    def num_connections(self) -> int:
        """Open connections."""
        server = self._runner.server
        return 0 if server is None else len(server.connections)

    async def drain(self, timeout_s: float) -> bool:
        """Refuses new work and waits for the running; returns whether all of it finished.

        The port stays open, so that health checks see the server leave and new work is told.
        """
        self._state.drain()
        try:
            async with asyncio.timeout(timeout_s):
                while self._state.working:
                    await asyncio.wait(self._state.working)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Closes the port and every connection; running work gets an error."""
        self._state.abort()
        await _stop_accepting(self._listening)
        self._listening.close()
        if self._state.working:
            await asyncio.wait(self._state.working, timeout=1.0)
        await self._runner.cleanup()


async def _stop_accepting(listening: asyncio.Server) -> None:
    """Accepts nothing more, and lets connections that were accepted get their protocol.

    A server that is closed in between loses their sockets (CPython issue 109564): asyncio cannot
    attach them any more, drops them unclosed, and nobody answers the client.
    """
    loop = asyncio.get_running_loop()
    for listener in listening.sockets:
        loop.remove_reader(listener.fileno())
    for _ in range(3):  # the task that makes the transport, then its `connection_made`
        await asyncio.sleep(0)


async def start_server(app: web.Application, config: ServerConfig) -> RunningServer:
    """Binds the port of `config` and answers from now on.

    Raises:
        RequestError: the address cannot be bound, or the state directory is not to be had.
    """
    # shutdown_timeout is aiohttp's wait for open connections; our own drain has come before it.
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=_POLL_S
    )
    try:
        await runner.setup()
    except RequestError:  # another server has the state directory
        await runner.cleanup()
        raise
    manager = runner.server
    assert manager is not None, "setup makes the server"
    loop = asyncio.get_running_loop()

    def make_protocol() -> asyncio.Protocol:
        if len(manager.connections) >= config.max_connections:
            return _Refusal(config.max_connections)
        return Connection(
            manager,
            loop=loop,
            access_log=None,  # type: ignore[arg-type] - None turns it off, as web.run_app says
            keepalive_timeout=config.header_timeout_s,
            lingering_time=1.0,
            auto_decompress=False,
        )

    try:
        listening = await _bind(config, make_protocol, start_serving=True)
    except RequestError:
        await runner.cleanup()
        raise
    return RunningServer(runner, listening, app[STATE])


async def check_address(config: ServerConfig) -> None:
    """Says before a model is loaded whether its server could listen.

    Raises:
        RequestError: the address cannot be bound.
    """
    listening = await _bind(config, asyncio.Protocol, start_serving=False)
    listening.close()


async def _bind(
    config: ServerConfig, make_protocol: Callable[[], asyncio.Protocol], *, start_serving: bool
) -> asyncio.Server:
    try:
        return await asyncio.get_running_loop().create_server(
            make_protocol,
            config.host,
            config.port,
            reuse_address=True,
            backlog=1024,
            start_serving=start_serving,
        )
    except OSError as error:
        # A positive errno is the system's, which says it in fewer words than asyncio.
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror
        raise RequestError(
            f"cannot listen on {config.host}:{config.port}: {reason}; "
            "choose another --host or --port",
            param="port",
        ) from error


def new_request_id() -> str:
    """An id that nobody can guess."""
    return f"req-{uuid.uuid4().hex}"
