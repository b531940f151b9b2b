"""SIGTERM and Ctrl-C for a running server: the first drains it, the second ends the process."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable

from helium_jax.server import RunningServer

SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def serve_until_signal(
    server: RunningServer, shutdown_timeout_s: float, say: Callable[[str], None]
) -> int:
    """Waits for the first signal, drains and closes the server.

    Returns the exit code: 0 when all running work ended by itself, 1 when some was cut off. A
    second signal ends the process at once with 128 + its number. The handlers are taken away at
    the end.
    """
    first = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if first.is_set():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(128 + number)  # the user's second word: no clean-up may delay it
        first.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        await first.wait()
        say(
            f"shutting down: running requests have {shutdown_timeout_s:g} s, "
            "a second signal ends at once"
        )
        is_clean = await server.drain(shutdown_timeout_s)
        await server.close()
        if not is_clean:
            say("running requests were cut off")
        return 0 if is_clean else 1
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
