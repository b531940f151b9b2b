"""Errors in Anthropic's envelope, for the paths of its Messages API."""

from helium_jax.errors import HeliumError
from helium_jax.server.errors import status_of
from helium_jax.server.messages.replies import ErrorCause, MessagesError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def is_messages_path(path: str) -> bool:
    """Whether clients of Anthropic's API ask here."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def messages_envelope(error: HeliumError, request_id: str) -> MessagesError:
    """The error body; other statuses of the client's are invalid_request_error, else api_error."""
    status, _ = status_of(error)
    fallback = "invalid_request_error" if status < 500 else "api_error"
    return MessagesError(
        error=ErrorCause(
            type=_TYPES.get(status, fallback),
            message=error.message,
            code=error.code,
            param=error.param,
        ),
        request_id=request_id,
    )
