"""Sends requests over HTTP at their time, whatever became of earlier ones, and times them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence

import aiohttp

from bench.serving.figures import Outcome
from bench.serving.traffic import Arrival


async def send_all(
    url: str, model: str, arrivals: Sequence[Arrival], *, max_concurrency: int | None = None
) -> tuple[list[Outcome], float]:
    """Plays the arrivals against a server; returns the outcomes and the seconds it took.

    Args:
        url: of the server, without a path.
        model: its name.
        arrivals: by time.
        max_concurrency: most requests on their way; others wait here, and their time with them,
            as for `vllm bench serve`. None: no bound, an open loop.
    """
    room = asyncio.Semaphore(max_concurrency or len(arrivals) or 1)
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        start = time.perf_counter()

        async def play(arrival: Arrival) -> Outcome:
            await asyncio.sleep(arrival.at_s - (time.perf_counter() - start))
            async with room:
                return await send(session, model, arrival)

        outcomes = await asyncio.gather(*map(play, arrivals))
        return [*outcomes], time.perf_counter() - start


async def send(session: aiohttp.ClientSession, model: str, arrival: Arrival) -> Outcome:
    """One streamed completion, in the words that `vllm bench serve` uses."""
    body = {
        "model": model,
        "prompt": arrival.token_ids,
        "max_tokens": arrival.max_tokens,
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "logprobs": None,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start = last = time.perf_counter()
    ttft_s, itl_s, usage, is_done = None, [], None, False
    try:
        async with session.post("/v1/completions", json=body) as response:
            if response.status != 200:
                return Outcome(error=f"{response.status}: {(await response.text())[:200]}")
            async for data in read_events(response):
                now = time.perf_counter()
                if data == "[DONE]":
                    is_done = True
                    continue
                event = json.loads(data)
                if "error" in event:
                    return Outcome(error=str(event["error"]))
                if event.get("usage"):
                    usage = event["usage"]
                if event["choices"]:
                    if ttft_s is None:
                        ttft_s = now - start
                    else:
                        itl_s.append(now - last)
                    last = now
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Outcome(error=f"{type(error).__name__}: {error}")
    if usage is None or not is_done:
        return Outcome(error="the stream ended without usage or [DONE]")
    return Outcome(
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        completion_tokens=usage["completion_tokens"],
        ttft_s=ttft_s,
        e2el_s=last - start,
        itl_s=tuple(itl_s),
    )


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """The data of every server-sent event; comments are skipped."""
    async for line in response.content:
        if line.startswith(b"data: "):
            yield line.removeprefix(b"data: ").decode().rstrip()
