"""Responses that can be asked for and continued by their id, as long as there is room."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from helium_jax.server.errors import NotFoundError
from helium_jax.server.openai.turns import TemplateMessage
from helium_jax.server.responses.replies import ResponseReply


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptResponse:
    """A response that is over.

    Attributes:
        reply: as it was told, encoded.
        messages: the conversation up to its end without instructions, encoded.
        num_inputs: of the messages, those that came before the response.
    """

    reply: bytes
    messages: bytes
    num_inputs: int

    @property
    def num_bytes(self) -> int:
        """What it takes."""
        return len(self.reply) + len(self.messages)

    def read_messages(self) -> list[TemplateMessage]:
        """The conversation, as chat templates take it."""
        return msgspec.json.decode(self.messages, type=list[dict[str, Any]])


@dataclass(slots=True)
class _OfKey:
    responses: OrderedDict[str, KeptResponse] = field(default_factory=OrderedDict)
    num_bytes: int = 0


class ResponseShelf:
    """Kept responses of every key; of each key the one that was not used for longest leaves."""

    def __init__(self, *, max_responses: int, max_bytes: int) -> None:
        """Both are for one key; the latest response stays even if it alone has more bytes."""
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._keys: dict[str, _OfKey] = {}

    def put(
        self,
        tenant: str,
        reply: ResponseReply,
        messages: list[TemplateMessage],
        *,
        num_inputs: int,
    ) -> None:
        """Keeps a response and the conversation up to its end; see KeptResponse."""
        kept = KeptResponse(
            reply=msgspec.json.encode(reply),
            messages=msgspec.json.encode(messages),
            num_inputs=num_inputs,
        )
        own = self._keys.setdefault(tenant, _OfKey())
        own.responses[reply.id] = kept
        own.num_bytes += kept.num_bytes
        while len(own.responses) > 1 and (
            len(own.responses) > self._max_responses or own.num_bytes > self._max_bytes
        ):
            _, left = own.responses.popitem(last=False)
            own.num_bytes -= left.num_bytes

    def get(self, tenant: str, response_id: str, *, param: str, code: str) -> KeptResponse:
        """A key's response.

        Raises:
            NotFoundError: this key has none of that id; names `param` and has the given `code`.
        """
        own = self._keys.get(tenant, _OfKey())
        kept = own.responses.get(response_id)
        if kept is None:
            raise NotFoundError(
                f"there is no response {response_id[:80]!r}: it was not stored, was deleted, or "
                "left when there was no more room",
                code=code,
                param=param,
            )
        own.responses.move_to_end(response_id)
        return kept

    def remove(self, tenant: str, response_id: str) -> None:
        """Forgets a key's response; raises as `get`."""
        kept = self.get(tenant, response_id, param="response_id", code="response_not_found")
        del self._keys[tenant].responses[response_id]
        self._keys[tenant].num_bytes -= kept.num_bytes


RESPONSES = web.AppKey("responses", ResponseShelf)
