"""From a request's bytes to a JSON object: type, size, time and syntax are checked here."""

import asyncio
import itertools
from functools import partial
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from helium_jax.errors import RequestError
from helium_jax.server.errors import (
    BodyError,
    BodyTimeoutError,
    MediaTypeError,
    TooLargeError,
)
from helium_jax.server.reading import MAX_NAMED, Findings, read_struct
from helium_jax.server.state import CONFIG
from helium_jax.server.strict_json import parse_json

LARGE_BYTES = 256 * 1024  # from here on a body is decoded in a thread: it takes milliseconds
T = TypeVar("T", bound=msgspec.Struct)


async def receive_object(request: web.Request, *, unique_keys: bool = False) -> dict[str, Any]:
    """Reads the body and decodes it; with `unique_keys` no key may appear twice in an object.

    A missing Content-Type is fine if the body parses. `text/plain` is refused: a browser sends
    it across origins without asking.

    Raises:
        MediaTypeError, TooLargeError, BodyTimeoutError, InvalidJsonError, RequestError.
    """
    config = request.app[CONFIG]
    kind = request.headers.get("Content-Type")
    if kind is not None:
        essence = kind.partition(";")[0].strip().lower()
        if essence != "application/json" and not essence.endswith("+json"):
            raise MediaTypeError(
                "the Content-Type must be application/json; "
                "with curl: -H 'Content-Type: application/json'"
            )
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise MediaTypeError("the Content-Encoding must be identity: send the body as it is")
    limit = config.limits.body_bytes
    if (request.content_length or 0) > limit:
        raise TooLargeError(f"the body is over this server's limit of {limit} bytes")
    try:
        async with asyncio.timeout(config.body_timeout_s):
            data = await request.read()
    except TimeoutError:
        request.protocol.close()  # the rest of the body may still come: this connection is done
        raise BodyTimeoutError(
            f"the body did not arrive within {config.body_timeout_s:g} s"
        ) from None
    parse = partial(
        parse_json,
        data,
        max_depth=config.limits.json_depth,
        max_marks=config.limits.json_marks,
        unique_keys=unique_keys,
    )
    value = parse() if len(data) < LARGE_BYTES else await asyncio.to_thread(parse)
    if not isinstance(value, dict):
        raise RequestError('the body must be a JSON object, such as {"model": ...}')
    return value


def finish_reading(found: Findings, *, strict: bool) -> list[str]:
    """Ends the checks of a body.

    Returns: warnings for the answer, also one per unknown field.

    Raises:
        BodyError: there are problems; with `strict`, unknown fields are problems too.
    """
    if strict:
        for path in found.unknown:
            found.add(path, "is not a field of this endpoint", "unknown_parameter")
    if found.problems:
        raise BodyError(found.problems)
    first = itertools.islice(found.unknown, MAX_NAMED)
    named = [f"{path}: unknown field, ignored" for path in first]
    more = len(found.unknown) - len(named)
    if more:
        named.append(f"{more} more unknown fields, ignored")
    return [*named, *found.warnings]


def parse_body(kind: type[T], raw: dict[str, Any]) -> tuple[T | None, Findings]:
    """Reads the typed fields; the caller adds its own checks before `finish_reading`."""
    found = Findings()
    return read_struct(kind, raw, "", found), found
