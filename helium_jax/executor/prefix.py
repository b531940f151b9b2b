"""How much of an operator's prompt is the same for every row, in tokens."""

from collections.abc import Sequence

from helium_jax.executor.codec import TextCodec
from helium_jax.physical import Generate
from helium_jax.plan import Slot, Text

# Values that begin in different ways, so that a token that would swallow the end of the literal
# before it differs between at least two of them.
_FILLERS = ("", "a", "Zq", "0", " ", "\n", ".", "é", "of the context")


def count_static_prefix(codec: TextCodec, call: Generate) -> int:
    """Leading prompt tokens of `call` that do not depend on the row.

    Found by encoding the prompt with different values in its slots: the longest common prefix.
    """
    has_slots = any(isinstance(part, Slot) for turn in call.turns for part in turn.content)
    prompts = [_encode(codec, call, filler) for filler in (_FILLERS if has_slots else ("",))]
    return _common_prefix(prompts)


def _encode(codec: TextCodec, call: Generate, filler: str) -> Sequence[int]:
    if call.turns[0].role is None:
        return codec.encode(_fill(call.turns[0].content, filler))
    return codec.encode_chat(
        [{"role": turn.role or "", "content": _fill(turn.content, filler)} for turn in call.turns]
    )


def _fill(text: Text, filler: str) -> str:
    return "".join(filler if isinstance(part, Slot) else part for part in text)


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    length = 0
    for ids in zip(*prompts, strict=False):
        if len(set(ids)) > 1:
            break
        length += 1
    return length
