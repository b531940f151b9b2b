"""One server in front of a real engine for the clients nobody here wrote.

It runs in a thread of its own with its own event loop, so that synchronous clients can be plain
tests; the model is tiny and random, deterministic, and its bytes are the tokens.
"""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from helium_jax.config import EngineConfig
from helium_jax.runtime import open_runtime
from helium_jax.server import ServerConfig, make_app, start_server

KEY = "a key of the tests"
ENGINE = EngineConfig(
    page_size=16,
    num_pages=256,
    max_num_seqs=8,
    max_num_batched_tokens=64,
    deterministic=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Where the server is, and what opens it."""

    url: str
    key: str
    model: str


@pytest.fixture(scope="session")
def live(model_folder) -> Iterator[Live]:
    """A real server with a key, up for all tests of this folder."""
    ports: list[int] = []
    up = threading.Event()
    loop = asyncio.new_event_loop()
    ending = asyncio.Event()

    async def serve() -> None:
        config = ServerConfig(port=0, api_keys=(KEY,))
        async with open_runtime(str(model_folder), ENGINE) as runtime:
            server = await start_server(make_app(runtime, config), config)
            ports.append(server.port)
            up.set()
            await ending.wait()
            await server.close()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            up.set()  # also when it could not start: the fixture must not wait for ever
            loop.close()

    thread = threading.Thread(target=run, name="server of the client tests")
    thread.start()
    up.wait()
    assert ports, "the server did not start"
    yield Live(url=f"http://127.0.0.1:{ports[0]}", key=KEY, model=model_folder.name)
    loop.call_soon_threadsafe(ending.set)
    thread.join()
