"""What the handlers of one application share; handed to them through typed keys."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from helium_jax.server.config import ServerConfig
from helium_jax.telemetry.metrics import Metrics
from helium_jax.text import TextModel
from helium_jax.types import Generator

if TYPE_CHECKING:
    from helium_jax.server.run_service import RunService


class Runtime(Protocol):
    """What the server needs of a model: text and tokens (see helium_jax.runtime)."""

    @property
    def generator(self) -> Generator: ...

    @property
    def text(self) -> TextModel: ...


@dataclass(slots=True, kw_only=True)
class ServerState:
    """Progress of one server: owned by its application, changed by `Work` and the shutdown.

    Attributes:
        working: tasks that answer a request for tokens just now.
        is_draining: set by the first signal: not ready, no new work.
        is_aborting: set when the drain has taken too long: running work is told to end.
    """

    working: set["asyncio.Task[object]"] = field(default_factory=set)
    is_draining: bool = False
    is_aborting: bool = False

    def drain(self) -> None:
        """Refuses new work from now on."""
        self.is_draining = True

    def abort(self) -> None:
        """Ends running work; each of its clients gets a shutting_down error."""
        self.is_draining = self.is_aborting = True
        for task in self.working:
            task.cancel()


RUNTIME = web.AppKey("runtime", Runtime)
CONFIG = web.AppKey("config", ServerConfig)
STATE = web.AppKey("state", ServerState)
METRICS = web.AppKey("metrics", Metrics)
RUNS: web.AppKey["RunService"] = web.AppKey("runs")
STARTED_UNIX = web.AppKey("started_unix", int)
CLOCK: web.AppKey[Callable[[], float]] = web.AppKey("clock")
REQUEST_ID = web.RequestKey("request_id", str)
IS_ADMIN = web.RequestKey("is_admin", bool)
TENANT = web.RequestKey("tenant", str)
