"""What the handlers of one application share; handed to them through typed keys."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from aiohttp import web

from helium_jax.server.config import ServerConfig
from helium_jax.server.lifecycle import ServerState
from helium_jax.server.runs.service import RunService
from helium_jax.server.turnstile import Turnstile
from helium_jax.server.waiting_room import WaitingRoom
from helium_jax.telemetry.metrics import Metrics
from helium_jax.text import TextModel
from helium_jax.types import Generator


class Runtime(Protocol):
    """What the server needs of a model: text and tokens (see helium_jax.runtime)."""

    @property
    def generator(self) -> Generator: ...

    @property
    def text(self) -> TextModel: ...


T = TypeVar("T")


class Asking(Protocol):
    """Who asks for an answer: an HTTP request, or a line of a batch."""

    @property
    def app(self) -> web.Application: ...

    def __getitem__(self, key: web.RequestKey[T], /) -> T: ...


RUNTIME = web.AppKey("runtime", Runtime)
CONFIG = web.AppKey("config", ServerConfig)
STATE = web.AppKey("state", ServerState)
METRICS = web.AppKey("metrics", Metrics)
TURNSTILE = web.AppKey("turnstile", Turnstile)
WAITING_ROOM = web.AppKey("waiting_room", WaitingRoom)
RUNS = web.AppKey("runs", RunService)
STARTED_UNIX = web.AppKey("started_unix", int)
CLOCK: web.AppKey[Callable[[], float]] = web.AppKey("clock")
REQUEST_ID = web.RequestKey("request_id", str)
IS_ADMIN = web.RequestKey("is_admin", bool)
TENANT = web.RequestKey("tenant", str)
