"""A line of a batch that is checked and can be answered, as a row or by itself."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from helium_jax.server.batches.rows import BatchRow
from helium_jax.server.files.bodies import BatchLine
from helium_jax.server.openai.replies import UsageReply
from helium_jax.types import Usage

# Added to each line's priority: whoever waits for an answer goes first.
BEHIND_OTHERS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RowAnswer:
    """What a row of a run gave.

    Attributes:
        text: up to the stop string.
        finish_reason: "stop" or "length".
        usage: of the call that gave it.
        usage_reply: what it cost, as clients see it.
    """

    text: str
    finish_reason: str
    usage: Usage
    usage_reply: UsageReply


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedLine:
    """A line whose body is all right.

    Attributes:
        index: of the line in its file, from 0.
        line: it.
        request_id: of its answer.
        order: lines that are asked by themselves go to the engine in this order, so that equal
            prefixes follow each other.
        run: gives the endpoint's reply to it.
        row: it as a row of a plan; None: it is asked by itself.
        write: a row's answer as the endpoint's reply; None where there is no row.
    """

    index: int
    line: BatchLine
    request_id: str
    order: tuple[int, ...]
    run: Callable[[], Awaitable[Any]]
    row: BatchRow | None = None
    write: Callable[[RowAnswer], Any] | None = None
