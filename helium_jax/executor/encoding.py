"""The token ids of a call's prompt."""

import asyncio
import functools
from collections.abc import Callable, Sequence

from helium_jax.executor.codec import TextCodec
from helium_jax.executor.events import Call
from helium_jax.executor.values import Turns

INLINE_CHARS = 4_000  # longer prompts are encoded in a thread, so that the loop stays responsive


async def encode_call(codec: TextCodec, call: Call) -> tuple[int, ...]:
    """The prompt of a call, up to where its answer begins.

    A call with a history goes on from that call's ids where the chat template allows it, so that
    the KV of what was generated is found again.

    Raises:
        RequestError: the chat template refuses the messages.
    """
    size = sum(len(text) for _, text in call.turns)
    if call.history is not None:
        size += sum(len(text) for _, text in call.history.conversation)
    encode: Callable[[], Sequence[int]] = functools.partial(_encode, codec, call)
    if size <= INLINE_CHARS:
        return tuple(encode())
    return tuple(await asyncio.to_thread(encode))


async def encode_known(codec: TextCodec, turns: Turns) -> tuple[int, ...]:
    """The ids with which a prompt begins whose last turn goes on in a way that is not known.

    What the end of the known text becomes depends on what follows it, so that part is left out.

    Raises:
        RequestError: the chat template refuses the messages.
    """

    def encode() -> tuple[int, ...]:
        one, other = (_encode_turns(codec, turns, filler) for filler in ("a", "\n0"))
        length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
        return tuple(one[:length])

    if sum(len(text) for _, text in turns) <= INLINE_CHARS:
        return encode()
    return await asyncio.to_thread(encode)


def _encode_turns(codec: TextCodec, turns: Turns, filler: str) -> Sequence[int]:
    *before, (role, text) = turns
    if role is None:
        return codec.encode(text + filler)
    return codec.encode_chat(_messages([*before, (role, text + filler)]))


def _encode(codec: TextCodec, call: Call) -> Sequence[int]:
    first_role, first_text = call.turns[0]
    if first_role is None:
        return codec.encode(first_text)
    later = _messages(call.turns)
    if call.history is None:
        return codec.encode_chat(later)
    token_ids = codec.continue_chat(
        _messages(call.history.conversation[:-1]),
        call.history.text,
        later,
        prompt_ids=call.history.prompt_ids,
        answer_ids=call.history.token_ids,
    )
    if token_ids is not None:
        return token_ids
    return codec.encode_chat([*_messages(call.history.conversation), *later])


def _messages(turns: Sequence[tuple[str | None, str]]) -> list[dict[str, str]]:
    return [{"role": role or "user", "content": text} for role, text in turns]
