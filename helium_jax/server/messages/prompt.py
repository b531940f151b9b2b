"""From Anthropic's messages to what a chat template takes, with every fault named."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from helium_jax.server.config import Limits
from helium_jax.server.messages.bodies import Block, CacheControl, PromptFields, ResultBlock
from helium_jax.server.openai.turns import TemplateMessage, Turns
from helium_jax.server.reading import Findings
from helium_jax.server.tools.calls import check_name

MAX_MARKS = 4  # Anthropic's own limit
TTL_S = {None: 300.0, "5m": 300.0, "1h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place up to which the prompt is to be held.

    Attributes:
        messages: the conversation up to there.
        ttl_s: for how long after its last use.
    """

    messages: tuple[TemplateMessage, ...]
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A conversation as the chat template takes it.

    Attributes:
        messages: the system's first, turns of one role in a row as one.
        prefill: text of the assistant's from which its answer goes on.
        marks: places to hold, in order.
    """

    messages: list[TemplateMessage]
    prefill: str = ""
    marks: tuple[Mark, ...] = ()


@dataclass(slots=True)
class _Rendering:
    """The conversation as far as it was read."""

    turns: Turns = field(default_factory=Turns)
    marks: list[Mark] = field(default_factory=list)

    def mark(self, control: CacheControl | None) -> None:
        """Notes that the conversation up to here is to be held."""
        if control is not None:
            copies = tuple(dict(message) for message in self.turns.messages)
            self.marks.append(Mark(messages=copies, ttl_s=TTL_S[control.ttl]))


def check_conversation(body: PromptFields, limits: Limits, found: Findings) -> Conversation:
    """Reads system and messages; the result is only meaningful without problems in `found`."""
    read = _Rendering()
    if body.system:
        _add_blocks(read, "system", body.system, "system", found)
    if not body.messages:
        found.add("messages", "is empty; send at least one message")
    elif len(body.messages) > limits.messages:
        found.add("messages", f"has {len(body.messages)} entries; the limit is {limits.messages}")
        return Conversation(messages=[])
    for i, turn in enumerate(body.messages):
        _add_blocks(read, turn.role, turn.content, f"messages[{i}].content", found)
    read.mark(body.cache_control)
    if read.turns.num_chars > limits.prompt_chars:
        found.add(
            "messages",
            f"have {read.turns.num_chars} characters; the limit is {limits.prompt_chars}",
        )
    if len(read.marks) > MAX_MARKS:
        found.add("cache_control", f"stands in {len(read.marks)} places; the limit is {MAX_MARKS}")
    messages, prefill = read.turns.messages, ""
    if messages and messages[-1]["role"] == "assistant":
        prefill = messages[-1]["content"]
        if "tool_calls" in messages[-1]:
            found.add("messages", "end with calls of tools; send their results")
        messages = messages[:-1]
    return Conversation(messages=messages, prefill=prefill, marks=tuple(read.marks))


def _add_blocks(
    read: _Rendering, role: str, content: str | Sequence[Block], path: str, found: Findings
) -> None:
    if not content:
        found.add(path, "is empty; send a text")
    if isinstance(content, str):
        read.turns.add_text(role, content)
        return
    for i, block in enumerate(content):
        where = f"{path}[{i}]"
        if block.type == "tool_use" and role == "assistant":
            _add_call(read, block, where, found)
        elif block.type == "tool_result" and role == "user":
            _add_result(read, block, where, found)
        else:
            text = _text(block, where, found)
            if text is not None:
                read.turns.add_text(role, text)
        read.mark(block.cache_control)


def _add_call(read: _Rendering, block: Block, path: str, found: Findings) -> None:
    missing = [name for name in ("id", "name", "input") if getattr(block, name) is None]
    for name in missing:
        found.add(f"{path}.{name}", "is required")
    if missing:
        return
    check_name(block.name or "", f"{path}.name", found)
    arguments = block.input or {}
    length = len(msgspec.json.encode(arguments))
    read.turns.add_call(block.id or "", block.name or "", arguments, num_chars=length)


def _add_result(read: _Rendering, block: Block, path: str, found: Findings) -> None:
    if block.tool_use_id is None:
        found.add(f"{path}.tool_use_id", "is required: the id of the call that was answered")
    elif block.tool_use_id not in read.turns.called:
        found.add(
            f"{path}.tool_use_id",
            f"{block.tool_use_id[:64]!r} is not the id of a call in an earlier message",
        )
    content = block.content or ""
    if not isinstance(content, str):
        parts = [_text(part, f"{path}.content[{j}]", found) or "" for j, part in enumerate(content)]
        content = "\n".join(parts)
    read.turns.add_result(
        block.tool_use_id or "", f"Error: {content}" if block.is_error else content
    )


def _text(block: Block | ResultBlock, path: str, found: Findings) -> str | None:
    """The text of a block that should be one."""
    if block.type != "text":
        found.add(
            f"{path}.type",
            f"blocks of type {block.type[:32]!r} are not for this model; send text",
            "unsupported_content",
        )
    elif not block.text:
        found.add(f"{path}.text", "is required and must not be empty")
    else:
        return block.text
    return None
