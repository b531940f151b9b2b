"""What ends a running server: SIGTERM and Ctrl-C, the first gently, and a failed engine."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from helium_jax.server import RunningServer
from helium_jax.server.watchdog import EngineFailure

SIGNALS = (signal.SIGTERM, signal.SIGINT)
FAREWELL_S = 2.0  # after a failure: other workers may finish, and errors reach their clients


async def serve_until_signal(
    server: RunningServer,
    shutdown_timeout_s: float,
    say: Callable[[str], None],
    *,
    watch: Coroutine[Any, Any, EngineFailure],
    farewell_s: float = FAREWELL_S,
) -> int:
    """Waits for the first signal or for `watch`, then drains or ends, and closes the server.

    Returns the exit code: 0 when all running work ended by itself, 1 when some was cut off or the
    engine failed. A second signal ends the process at once with 128 + its number, and so does an
    engine that hangs, with 1, because nothing can wait for its thread. The handlers are taken away
    at the end.
    """
    first = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if first.is_set():
            _end_process(128 + number)  # the user's second word: no clean-up may delay it
        first.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    watching = asyncio.create_task(watch)
    signalled = asyncio.create_task(first.wait())
    try:
        await asyncio.wait({signalled, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            return await _end_failed(server, watching.result(), say, farewell_s)
        say(
            f"shutting down: running requests have {shutdown_timeout_s:g} s, "
            "a second signal ends at once"
        )
        draining = asyncio.create_task(server.drain(shutdown_timeout_s))
        await asyncio.wait({draining, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():  # nothing will end by itself any more
            draining.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await draining
            return await _end_failed(server, watching.result(), say, 0.0)
        await server.close()
        if not draining.result():
            say("running requests were cut off")
        return 0 if draining.result() else 1
    finally:
        for task in (watching, signalled):
            task.cancel()
        await asyncio.wait({watching, signalled})
        for number in SIGNALS:
            loop.remove_signal_handler(number)


async def _end_failed(
    server: RunningServer, failure: EngineFailure, say: Callable[[str], None], farewell_s: float
) -> int:
    """Refuses new work, tells what waits, and ends; the exit code."""
    say(f"{failure.message}; the server ends")
    await server.drain(farewell_s)
    await server.close()
    if failure.hangs:
        _end_process(1)
    return 1


def _end_process(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
