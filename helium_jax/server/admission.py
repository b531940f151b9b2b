"""Lets requests in: none while the server ends."""

import asyncio
import contextlib
from collections.abc import Iterator

from aiohttp import web

from helium_jax.server.middleware import shutting_down
from helium_jax.server.state import STATE


@contextlib.contextmanager
def working(request: web.Request) -> Iterator[None]:
    """Counts the current task as work that a shutdown waits for.

    Raises:
        UnavailableError: the shutdown has begun; nothing new is let in.
    """
    state = request.app[STATE]
    if state.is_draining:
        raise shutting_down()
    task = asyncio.current_task()
    assert task is not None, "handlers run in tasks"
    state.working.add(task)
    try:
        yield
    finally:
        state.working.discard(task)
