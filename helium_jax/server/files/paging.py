"""Pages of a list in OpenAI's way: `after` an id, at most `limit`."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from aiohttp import web

from helium_jax.errors import RequestError

MAX_LIMIT = 10_000


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=_HasId)


def in_order(request: web.Request, items: Sequence[Item]) -> list[Item]:
    """The items, oldest first as they come, in the order that a query asks for: "desc" if none.

    Raises:
        RequestError: the order is no such word.
    """
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise RequestError("order must be asc or desc", param="order")
    return list(items) if order == "asc" else list(reversed(items))


def page_of(
    request: web.Request, items: Sequence[Item], *, default_limit: int
) -> tuple[list[Item], bool]:
    """The items that a query asks for, and whether there are more behind them.

    Raises:
        RequestError: the limit is no number in range, or nothing has the id `after`.
    """
    text = request.query.get("limit", str(default_limit))
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= MAX_LIMIT):
        raise RequestError(f"limit must be a number from 1 to {MAX_LIMIT}", param="limit")
    after = request.query.get("after")
    start = 0
    if after is not None:
        place = next((i for i, item in enumerate(items) if item.id == after), None)
        if place is None:
            raise RequestError(f"nothing in this list has the id {after[:80]!r}", param="after")
        start = place + 1
    rest = items[start:]
    return list(rest[: int(text)]), len(rest) > int(text)
