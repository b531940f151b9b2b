"""From a body's prompt or messages to token ids, with every fault named."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from helium_jax.errors import RequestError
from helium_jax.server.config import Limits
from helium_jax.server.openai.bodies import FOREIGN_MESSAGE_FIELDS, Message
from helium_jax.server.openai.sampling import check_foreign
from helium_jax.server.reading import Findings
from helium_jax.server.tools.calls import read_calls
from helium_jax.text import TextModel
from helium_jax.types import ModelInfo

# "developer" is OpenAI's newer name for "system"; templates know the older one.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt of a request.

    Attributes:
        path: where in the body it stands.
        text: as sent; None when it came as token ids.
        token_ids: as sent; None when it came as text.
    """

    path: str
    text: str | None = None
    token_ids: tuple[int, ...] | None = None


def check_messages(
    messages: Sequence[Message], raw: Sequence[Any], limits: Limits, found: Findings
) -> list[dict[str, Any]]:
    """The messages as chat templates take them; `raw` is what they were read from."""
    if not messages:
        found.add("messages", "is empty; send at least one message")
    elif len(messages) > limits.messages:
        found.add("messages", f"has {len(messages)} entries; the limit is {limits.messages}")
        return []
    rendered: list[dict[str, Any]] = []
    called: set[str] = set()  # ids of calls so far
    num_chars = 0
    for i, message in enumerate(messages):
        path = f"messages[{i}]"
        check_foreign(raw[i], FOREIGN_MESSAGE_FIELDS, path, found)
        role = ROLES.get(message.role)
        if message.role == "function":
            found.add_unsupported(f"{path}.role", f"the role {message.role!r}")
        elif role is None:
            found.add(f"{path}.role", f"{message.role[:32]!r} is not one of {[*ROLES]}")
        entry: dict[str, Any] = {"role": role or "user"}
        if message.content is None and message.tool_calls:
            entry["content"] = ""
        else:
            entry["content"] = join_parts(message.content, f"{path}.content", found)
        if message.name is not None:
            entry["name"] = message.name
        entry |= _calls(message, path, called, found)
        num_chars += len(entry["content"])
        num_chars += sum(len(call.function.arguments) for call in message.tool_calls or ())
        rendered.append(entry)
    if num_chars > limits.prompt_chars:
        found.add("messages", f"have {num_chars} characters; the limit is {limits.prompt_chars}")
    return rendered


def _calls(message: Message, path: str, called: set[str], found: Findings) -> dict[str, Any]:
    """What a message says of calls: those it makes, or the one whose result it is."""
    entry: dict[str, Any] = {}
    if message.tool_calls:
        if message.role != "assistant":
            found.add(f"{path}.tool_calls", "only messages of the assistant have calls")
        entry["tool_calls"] = read_calls(message.tool_calls, f"{path}.tool_calls", found)
        called.update(call.id for call in message.tool_calls)
    if message.role == "tool":
        if message.tool_call_id is None:
            found.add(f"{path}.tool_call_id", "is required: the id of the call that was answered")
        elif message.tool_call_id not in called:
            found.add(
                f"{path}.tool_call_id",
                f"{message.tool_call_id[:64]!r} is not the id of a call in an earlier message",
            )
        entry["tool_call_id"] = message.tool_call_id
    elif message.tool_call_id is not None:
        found.add(f"{path}.tool_call_id", 'is for messages of the role "tool"')
    return entry


# What the server itself gives to a template, or what a template must not be told by a client.
_RESERVED = re.compile(r"self|messages|tools|documents|add_generation_prompt|\w*_token")


def check_variables(variables: dict[str, Any], limits: Limits, found: Findings) -> dict[str, Any]:
    """The variables of the chat template: the template is the folder's, these are a client's."""
    path = "chat_template_kwargs"
    if len(variables) > limits.template_kwargs:
        found.add(path, f"has {len(variables)} entries; the limit is {limits.template_kwargs}")
        return {}
    for name, value in variables.items():
        if not name.isidentifier() or len(name) > 64 or _RESERVED.fullmatch(name):
            found.add(path, f"{name[:64]!r} is not a name that may be set")
        elif isinstance(value, str) and len(value) > limits.stop_chars:
            found.add(f"{path}.{name}", f"has more than {limits.stop_chars} characters")
    return variables


class Part(Protocol):
    """A part of a message, in any API."""

    @property
    def type(self) -> str: ...

    @property
    def text(self) -> str | None: ...


def join_parts(
    content: str | Sequence[Part] | None,
    path: str,
    found: Findings,
    *,
    kinds: Sequence[str] = ("text",),
) -> str:
    """The text of a message; `kinds` are the types of parts that have some, the usual one first."""
    if content is None:
        found.add(path, "is required; send a text")
        return ""
    if isinstance(content, str):
        return content
    if not content:
        found.add(path, "has no parts; send a text")
    texts: list[str] = []
    for i, part in enumerate(content):
        if part.type not in kinds:
            found.add(
                f"{path}[{i}].type",
                f"parts of type {part.type[:32]!r} are not for a text model; send {kinds[0]}",
                "unsupported_content",
            )
        elif part.text is None:
            found.add(f"{path}[{i}].text", "is required")
        else:
            texts.append(part.text)
    return "\n".join(texts)


def check_prompts(
    prompt: str | list[Any],
    info: ModelInfo,
    limits: Limits,
    found: Findings,
    *,
    name: str = "prompt",
) -> list[Prompt]:
    """The four forms of prompts: text, texts, token ids, lists of token ids.

    Empty prompts are errors in every form. `name`: the field in which they stand.
    """
    if isinstance(prompt, str):
        return _texts([prompt], [name], name, limits, found)
    if not prompt:
        found.add(name, "is empty; send a text or token ids")
        return []
    if isinstance(prompt[0], str):
        paths = [f"{name}[{i}]" for i in range(len(prompt))]
        if _too_many(prompt, name, limits, found):
            return []
        return _texts(prompt, paths, name, limits, found)
    if isinstance(prompt[0], list):
        if _too_many(prompt, name, limits, found):
            return []
        return [_ids(ids, f"{name}[{i}]", info, found) for i, ids in enumerate(prompt)]
    return [_ids(prompt, name, info, found)]


def _too_many(prompts: list[Any], name: str, limits: Limits, found: Findings) -> bool:
    if len(prompts) <= limits.prompts:
        return False
    found.add(name, f"has {len(prompts)} prompts; the limit is {limits.prompts}")
    return True


def _texts(
    texts: list[Any], paths: list[str], name: str, limits: Limits, found: Findings
) -> list[Prompt]:
    prompts = []
    num_chars = 0
    for text, path in zip(texts, paths, strict=True):
        if not isinstance(text, str):
            found.add(path, "is not a text, but the first prompt is; do not mix forms")
            continue
        if not text:
            found.add(path, "is empty; send a text or token ids")
        num_chars += len(text)
        prompts.append(Prompt(path=path, text=text))
    if num_chars > limits.prompt_chars:
        found.add(name, f"has {num_chars} characters; the limit is {limits.prompt_chars}")
    return prompts


def _ids(ids: Any, path: str, info: ModelInfo, found: Findings) -> Prompt:
    """Ids are checked here because a gather on the device would clamp wrong ones silently."""
    if not isinstance(ids, list):
        found.add(path, "is not a list of token ids, but the first prompt is; do not mix forms")
        return Prompt(path=path)
    if not ids:
        found.add(path, "is empty; send a text or token ids")
    if len(ids) >= info.max_model_len:
        found.add(
            path,
            f"{len(ids)} token ids leave no room in the context of {info.max_model_len} tokens",
            "context_length_exceeded",
        )
        return Prompt(path=path)
    check_ids(ids, path, info, found)
    return Prompt(path=path, token_ids=tuple(ids))


def check_ids(ids: Sequence[Any], path: str, info: ModelInfo, found: Findings) -> None:
    """Names the first id that is no token of the model, and how many more there are."""
    if not ids or (set(map(type, ids)) == {int} and min(ids) >= 0 and max(ids) < info.vocab_size):
        return  # there may be a million
    bad = [i for i, one in enumerate(ids) if type(one) is not int or not 0 <= one < info.vocab_size]
    if bad:
        more = f"; so are {len(bad) - 1} more" if len(bad) > 1 else ""
        found.add(f"{path}[{bad[0]}]", f"is not a token id from 0 to {info.vocab_size - 1}{more}")


async def encode_prompts(
    prompts: Sequence[Prompt], text: TextModel, *, add_special_tokens: bool
) -> list[tuple[int, ...]]:
    """Token ids of every prompt; texts are encoded off the event loop, all in one go."""

    def encode() -> list[tuple[int, ...]]:
        return [
            prompt.token_ids
            if prompt.token_ids is not None
            else tuple(text.encode(prompt.text or "", add_special_tokens=add_special_tokens))
            for prompt in prompts
        ]

    if all(prompt.token_ids is not None for prompt in prompts):
        return encode()
    return await asyncio.to_thread(encode)


def check_fits(num_tokens: int, max_tokens: int | None, max_model_len: int, path: str) -> None:
    """Refuses what the context cannot hold, before the engine sees any part of the request.

    Raises:
        RequestError: with both numbers.
    """
    if num_tokens + (max_tokens or 1) <= max_model_len:
        return
    wanted = "" if max_tokens is None else f" and max_tokens={max_tokens}"
    raise RequestError(
        f"a prompt of {num_tokens} tokens{wanted} exceeds the context of {max_model_len} "
        "tokens; shorten the prompt or lower max_tokens",
        code="context_length_exceeded",
        param=path,
    )
