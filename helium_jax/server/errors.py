"""Errors that only HTTP knows, and the one table from error class to status."""

from collections.abc import Sequence

from helium_jax.errors import (
    CapacityError,
    HeliumError,
    InternalError,
    PlanError,
    Problem,
    RequestError,
)


class BodyError(RequestError):
    """A body has faults; `problems` names every one of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        super().__init__("\n".join(map(str, problems)), code=first.code, param=first.path)
        self.problems = tuple(problems)


class InvalidJsonError(RequestError):
    """The bytes of a body are not the JSON we accept."""

    code = "invalid_json"


class UnauthorizedError(RequestError):
    """No key, or none that we know."""

    code = "invalid_api_key"


class NotFoundError(RequestError):
    """No such path or thing."""

    code = "not_found"


class ForbiddenError(RequestError):
    """The key is known, but this takes another one."""

    code = "forbidden"


class ConflictError(RequestError):
    """The thing is not in a state in which this can be done."""

    code = "conflict"


class GoneError(RequestError):
    """What was asked for is not kept any more."""

    code = "gone"


class MethodNotAllowedError(RequestError):
    """The path exists, but not with this method."""

    code = "method_not_allowed"


class BodyTimeoutError(RequestError):
    """The body did not arrive in time."""

    code = "request_timeout"


class TooLargeError(RequestError):
    """The body is longer than the limit."""

    code = "request_too_large"


class MediaTypeError(RequestError):
    """The body comes in a type or an encoding that we do not read."""

    code = "unsupported_media_type"


class UnavailableError(CapacityError):
    """The server cannot take work at all just now: it is shutting down or its engine is stuck."""

    code = "shutting_down"


# First match counts: subclasses before their parents.
STATUS_BY_ERROR: tuple[tuple[type[HeliumError], int, str], ...] = (
    (UnauthorizedError, 401, "authentication_error"),
    (ForbiddenError, 403, "permission_error"),
    (NotFoundError, 404, "invalid_request_error"),
    (MethodNotAllowedError, 405, "invalid_request_error"),
    (BodyTimeoutError, 408, "invalid_request_error"),
    (ConflictError, 409, "invalid_request_error"),
    (GoneError, 410, "invalid_request_error"),
    (TooLargeError, 413, "invalid_request_error"),
    (MediaTypeError, 415, "invalid_request_error"),
    (RequestError, 400, "invalid_request_error"),
    (PlanError, 400, "invalid_request_error"),
    (UnavailableError, 503, "service_unavailable_error"),
    (CapacityError, 429, "rate_limit_error"),
    (InternalError, 500, "server_error"),
    (HeliumError, 500, "server_error"),
)


GONE_CODES = frozenset({"shutting_down", "engine_dead"})  # of the engine's errors


def status_of(error: HeliumError) -> tuple[int, str]:
    """Status and envelope type of an error.

    Whatever its class, an error that says that the engine is going or gone is a 503: another
    server may answer.
    """
    if error.code in GONE_CODES:
        return 503, "service_unavailable_error"
    return next((s, kind) for cls, s, kind in STATUS_BY_ERROR if isinstance(error, cls))


def envelope(error: HeliumError) -> dict[str, object]:
    """The error body of every endpoint; `problems` appears when there is more than one."""
    _, kind = status_of(error)
    inner: dict[str, object] = {
        "message": error.message,
        "type": kind,
        "param": error.param,
        "code": error.code,
    }
    problems = getattr(error, "problems", ())
    if len(problems) > 1:
        inner["problems"] = [
            {"param": problem.path, "message": problem.message, "code": problem.code}
            for problem in problems
        ]
    return {"error": inner}
