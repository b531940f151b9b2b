"""What happens around every handler: id, key, drain, errors to envelopes, one log line."""

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from helium_jax.errors import CapacityError, HeliumError, InternalError
from helium_jax.server.config import ServerConfig
from helium_jax.server.errors import (
    MethodNotAllowedError,
    NotFoundError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    envelope,
    status_of,
)
from helium_jax.server.listener import new_request_id
from helium_jax.server.messages.errors import is_messages_path, messages_envelope
from helium_jax.server.state import (
    CLOCK,
    CONFIG,
    IS_ADMIN,
    METRICS,
    REQUEST_ID,
    STATE,
    TENANT,
    TURNSTILE,
)
from helium_jax.server.viewer import VIEWER_PATHS

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
OPEN_PATHS = frozenset({"/docs", "/health/live", "/version"}) | VIEWER_PATHS
_GOOD_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@web.middleware
async def answer_every_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever a handler raises into the error envelope, and logs the outcome."""
    clock = request.app[CLOCK]
    start = clock()
    request_id = _request_id(request)
    request[REQUEST_ID] = request_id
    try:
        await request.app[TURNSTILE].pass_through()
        request[TENANT], request[IS_ADMIN] = _authenticate(request, request.app[CONFIG])
        response = await handler(request)
    except HeliumError as error:
        response = error_response(error, request_id, request.path)
    except web.HTTPException as error:
        response = error_response(_from_aiohttp(error, request), request_id, request.path)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not request.app[STATE].is_aborting or task is None or request.transport is None:
            log.info("client went away", extra={"request_id": request_id})
            raise
        task.uncancel()
        response = error_response(shutting_down(), request_id, request.path)
    except ConnectionError:  # of this connection: the server makes no other
        log.info("client went away", extra={"request_id": request_id})
        raise
    except Exception as error:
        log.exception("bug in a handler", extra={"request_id": request_id})
        response = error_response(_bug(error), request_id, request.path)
    if not response.prepared:
        response.headers["x-request-id"] = request_id
        if is_messages_path(request.path):
            response.headers["request-id"] = request_id  # where Anthropic's clients look
    resource = request.match_info.route.resource
    route = "unknown" if resource is None else resource.canonical
    request.app[METRICS].count("http_requests_total", route=route, status=str(response.status))
    log.info(
        "%s %s %d in %.1f ms",
        request.method,
        route,
        response.status,
        (clock() - start) * 1e3,
        extra={"request_id": request_id},
    )
    return response


def error_response(error: HeliumError, request_id: str, path: str) -> web.Response:
    """The error in the envelope of its path, with the headers that its status calls for."""
    status, _ = status_of(error)
    if status >= 500:
        log.error("%s", error.message, extra={"request_id": request_id})
    told = messages_envelope(error, request_id) if is_messages_path(path) else envelope(error)
    response = web.Response(
        body=msgspec.json.encode(told), status=status, content_type="application/json"
    )
    response.headers["x-request-id"] = request_id
    if isinstance(error, CapacityError):
        response.headers["Retry-After"] = str(max(error.retry_after_s, 1))
    if isinstance(error, UnauthorizedError):
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooLargeError):
        response.force_close()  # the rest of the body is not worth reading
    return response


def shutting_down() -> UnavailableError:
    """What new work gets once the first signal has come, and old work when its time is over."""
    return UnavailableError("the server is shutting down; try another one")


def _request_id(request: web.Request) -> str:
    """The client's id if it is harmless, else our own."""
    given = request.headers.get("x-request-id", "")
    return given if _GOOD_ID.fullmatch(given) else new_request_id()


def _authenticate(request: web.Request, config: ServerConfig) -> tuple[str, bool]:
    """Who asks: a digest of the key, "" on a server without keys; and whether it is an admin.

    The key is compared with every configured one in constant time, also after a match.
    """
    keys = (*config.api_keys, *config.admin_keys)
    if not keys or request.path in OPEN_PATHS:
        return "", not keys
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    offered = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    offered_bytes = offered.encode("utf-8", "surrogateescape")
    matches = [hmac.compare_digest(offered_bytes, key.encode()) for key in keys]
    if not offered or not any(matches):
        raise UnauthorizedError(
            "a valid API key is needed: send Authorization: Bearer <key> or x-api-key: <key>"
        )
    tenant = hashlib.blake2b(offered_bytes, person=b"helium-tenant", digest_size=16).hexdigest()
    return tenant, not config.admin_keys or any(matches[len(config.api_keys) :])


def _from_aiohttp(error: web.HTTPException, request: web.Request) -> HeliumError:
    """aiohttp's own refusals in our terms; their texts, which echo input, are dropped."""
    if isinstance(error, web.HTTPNotFound):
        return NotFoundError("there is nothing at this path; GET /openapi.json lists what there is")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return MethodNotAllowedError(f"this path takes {allowed} only")
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        limit = request.app[CONFIG].limits.body_bytes
        return TooLargeError(f"the body is over this server's limit of {limit} bytes")
    return NotFoundError(f"the request cannot be answered ({error.status})")


def _bug(error: Exception) -> InternalError:
    """What a client may know of a bug: nothing but that it is one."""
    return InternalError(
        f"a bug in helium-jax ({type(error).__name__}); the log has more under this request id"
    )
