"""What routes take beside their bodies: for the description of the API, and read."""

from collections.abc import Mapping

from aiohttp import web

from helium_jax.errors import RequestError
from helium_jax.server.openapi import Parameter

_TEXT = {"type": "string"}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
_LIMIT = Parameter(name="limit", schema={"type": "integer", "minimum": 1, "maximum": 10_000})
_AFTER = Parameter(name="after", schema=_TEXT)
_ORDER = Parameter(name="order", schema={"enum": ["asc", "desc"], "default": "desc"})
_FORMAT = Parameter(
    name="format", schema={"enum": ["text", "json", "mermaid", "dot"], "default": "text"}
)

# By method and path.
PARAMETERS: Mapping[tuple[str, str], tuple[Parameter, ...]] = {
    ("get", "/v1/files"): (Parameter(name="purpose", schema=_TEXT), _LIMIT, _AFTER, _ORDER),
    ("get", "/v1/batches"): (_LIMIT, _AFTER),
    ("get", "/v1/responses/{response_id}/input_items"): (_LIMIT, _AFTER, _ORDER),
    ("post", "/v1/plans/explain"): (_FORMAT,),
    ("post", "/v1/runs"): (Parameter(name="Idempotency-Key", place="header", schema=_TEXT),),
    ("get", "/v1/runs/{run_id}/events"): (
        Parameter(name="Last-Event-ID", place="header", schema=_TEXT),
    ),
    ("get", "/v1/runs/{run_id}/explain"): (
        _FORMAT,
        Parameter(name="analyze", schema={"enum": ["false", "true"], "default": "false"}),
    ),
    ("get", "/v1/runs/{run_id}/timeline"): (Parameter(name="limit", schema=_NUMBER),),
    ("get", "/v1/runs/{run_id}/prompts"): (Parameter(name="operator", schema=_TEXT),),
    ("get", "/v1/runs/{run_id}/prompt"): (
        Parameter(name="operator", schema=_TEXT, required=True),
        Parameter(name="row", schema=_NUMBER, required=True),
        Parameter(name="index", schema=_TEXT),
    ),
}


def choose(request: web.Request, name: str, choices: tuple[str, ...], default: str) -> str:
    """A query's value, which must be one of some.

    Raises:
        RequestError: it is none of them.
    """
    value = request.query.get(name, default)
    if value not in choices:
        message = f"{name} must be one of {', '.join(choices)}"
        raise RequestError(message, param=name)
    return value
