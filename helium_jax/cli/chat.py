"""`helium-jax chat`: a conversation in the terminal, with the engine in this process."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import click
from rich.console import Console

from helium_jax.cli.engine_options import engine_config, engine_options
from helium_jax.cli.progress import compile_progress
from helium_jax.config import EngineConfig
from helium_jax.errors import RequestError
from helium_jax.runtime import Runtime, open_runtime
from helium_jax.text.answer import stream_answer
from helium_jax.types import FinishReason, GenerateRequest, SamplingParams, Usage

Messages = list[dict[str, str]]


@click.command()
@click.option("--model", default="helium-tiny", show_default=True, help="Folder or built-in name.")
@click.option("--system", help="System message.")
@click.option("--message", "-m", help="Ask this one thing, print the answer and end.")
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(0, 2))
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens of an answer.")
@click.option(
    "--seed", "sampling_seed", type=click.IntRange(0, 2**63 - 1), help="Of sampled answers."
)
@engine_options
def chat(
    model: str,
    system: str | None,
    message: str | None,
    temperature: float,
    max_tokens: int | None,
    sampling_seed: int | None,
    **options: Any,
) -> None:
    """Talk to a model in the terminal.

    Answers stream to stdout. An empty line or Ctrl-D ends the conversation.
    """
    if message is not None and not message.strip():
        raise RequestError("--message is empty; say something, or leave it out to chat")
    sampling = SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=sampling_seed)
    messages: Messages = [] if system is None else [{"role": "system", "content": system}]
    asyncio.run(_chat(model, engine_config(options), messages, message, sampling))


async def _chat(
    model: str,
    engine: EngineConfig,
    messages: Messages,
    message: str | None,
    sampling: SamplingParams,
) -> None:
    """One answer if there is a message, else question after question; all on one growing KV."""
    notes = Console(stderr=True)
    async with contextlib.AsyncExitStack() as stack:
        with compile_progress(notes) as progress:
            runtime = await stack.enter_async_context(
                open_runtime(model, engine, progress=progress)
            )
        async for question in _questions(message, notes):
            messages.append({"role": "user", "content": question})
            answer = await _answer(runtime, messages, sampling, notes, is_chat=message is None)
            messages.append({"role": "assistant", "content": answer})


async def _questions(message: str | None, notes: Console) -> AsyncIterator[str]:
    if message is not None:
        yield message
        return
    if sys.stdin.isatty():
        notes.print("an empty line ends the conversation", style="dim")
    while True:
        try:
            line = await asyncio.to_thread(notes.input, "[bold]you:[/bold] ")
        except EOFError:
            return
        if not line.strip():
            return
        yield line


async def _answer(
    runtime: Runtime,
    messages: Messages,
    sampling: SamplingParams,
    notes: Console,
    *,
    is_chat: bool,
) -> str:
    """Streams one answer to stdout and returns it."""
    ids = tuple(runtime.text.encode_chat(messages))
    room = runtime.generator.info.max_model_len - len(ids)
    if room < 1:
        raise RequestError(
            f"the conversation has {len(ids)} tokens, which fill the context of "
            f"{runtime.generator.info.max_model_len}; start a new one"
        )
    request = GenerateRequest(
        request_id=f"chat-{len(messages)}", token_ids=ids, sampling=fit(sampling, room)
    )
    out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    said: list[str] = []
    usage: Usage | None = None
    reason: FinishReason | None = None
    pieces = stream_answer(runtime.generator, request, runtime.text.detokenizer())
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            out.print(piece.text, end="")
            said.append(piece.text)
            usage, reason = piece.usage, piece.finish_reason
    out.print()
    if is_chat and usage is not None:
        cut = ", cut at its length limit" if reason is FinishReason.LENGTH else ""
        notes.print(
            f"{usage.prompt_tokens} tokens read, {usage.kv_cached} of them from the cache, "
            f"{usage.completion_tokens} written{cut}",
            style="dim",
        )
    return "".join(said)


def fit(sampling: SamplingParams, room: int) -> SamplingParams:
    """The parameters with no more tokens than there is room for."""
    if sampling.max_tokens is None or sampling.max_tokens <= room:
        return sampling
    return replace(sampling, max_tokens=room)
