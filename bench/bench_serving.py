"""A server under load over HTTP, with the figures of `vllm bench serve`.

python -m bench.bench_serving --rate 8 --requests 200                 # open loop, Poisson arrivals
python -m bench.bench_serving --rate inf --concurrency 32 --slo ttft=500 --slo tpot=100
python -m bench.bench_serving --library --concurrency 32              # what HTTP costs, in turns
python -m bench.bench_serving --url http://127.0.0.1:8000 --tool vllm # let another client drive it
"""

import argparse
import asyncio
import contextlib
import math
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench.harness import Recorder
from bench.serving.client import send_all
from bench.serving.figures import Outcome, figures_of
from bench.serving.process import ServerProcess, read_metrics, serve
from bench.serving.traffic import Arrival, Traffic, draw_arrivals
from helium_jax.config import EngineConfig
from helium_jax.runtime import open_runtime
from helium_jax.types import GenerateRequest, Generator, SamplingParams, Usage

TOOLS = ("vllm", "guidellm")


def main() -> int:
    """Measures what the command line says; 1 if requests failed or a tool is missing."""
    options = _parse()
    traffic = Traffic(
        num_requests=options.requests,
        rate_per_s=options.rate,
        burstiness=options.burstiness,
        num_prefixes=options.prefixes,
        prefix_tokens=options.prefix_tokens,
        input_tokens=options.input_tokens,
        output_tokens=options.output_tokens,
        spread=options.spread,
        seed=options.seed,
    )
    with _server(options) as url_and_model:
        url, model = url_and_model
        if options.tool is not None:
            return drive_with(options.tool, url, model, traffic)
        return 1 if asyncio.run(_measure(url, model, traffic, options)) else 0


async def _measure(url: str, model: str, traffic: Traffic, options: argparse.Namespace) -> int:
    """Plays the rounds, over HTTP and with --library in turns without; how many have failed."""
    recorder = Recorder("serving")
    case = f"rate={options.rate:g},concurrency={options.concurrency or 'open'}"
    warm = draw_arrivals(Traffic(num_requests=4, output_tokens=4, seed=options.seed + 1))
    failed = 0
    async with contextlib.AsyncExitStack() as stack:
        library = None
        if options.library:
            runtime = open_runtime(options.model, EngineConfig())
            library = (await stack.enter_async_context(runtime)).generator
            await generate_all(library, warm, max_concurrency=None)
        await send_all(url, model, warm)
        for round_ in range(options.rounds):
            # Prompts of its own in every round: a prefix cache helps within a round only.
            arrivals = draw_arrivals(replace(traffic, seed=options.seed + 100 * round_))
            outcomes, seconds = await send_all(
                url, model, arrivals, max_concurrency=options.concurrency
            )
            figures = figures_of(outcomes, seconds, dict(options.slo))
            blocks = await asyncio.to_thread(_read_blocks, url)
            recorder.record(case, "http", round=round_, **figures, **blocks)
            failed += int(figures["failed"])
            for reason in sorted({one.error for one in outcomes if one.error})[:3]:
                print(f"  failed: {reason}")
            if library is not None:
                outcomes, seconds = await generate_all(
                    library, arrivals, max_concurrency=options.concurrency
                )
                recorder.record(case, "library", round=round_, **figures_of(outcomes, seconds, {}))
    return failed


def _read_blocks(url: str) -> dict[str, float]:
    """How long the server's event loop was kept from turning, if it tells: ms since its start."""
    metrics = read_metrics(url)
    names = {"block_ms": "max_block_seconds", "busy_ms": "max_busy_seconds"}
    found = {name: metrics.get(f"helium:event_loop_{ours}") for name, ours in names.items()}
    return {name: 1e3 * value for name, value in found.items() if value is not None}


async def generate_all(
    generator: Generator, arrivals: Sequence[Arrival], *, max_concurrency: int | None
) -> tuple[list[Outcome], float]:
    """What `send_all` does, without a server: the same calls on the generator in this process."""
    room = asyncio.Semaphore(max_concurrency or len(arrivals) or 1)
    start = time.perf_counter()

    async def play(index: int, arrival: Arrival) -> Outcome:
        await asyncio.sleep(arrival.at_s - (time.perf_counter() - start))
        async with room:
            request = GenerateRequest(
                request_id=str(index),
                token_ids=arrival.token_ids,
                sampling=SamplingParams(
                    temperature=0.0, max_tokens=arrival.max_tokens, ignore_eos=True
                ),
            )
            sent = last = time.perf_counter()
            ttft_s, itl_s = None, []
            usage = Usage(prompt_tokens=0, completion_tokens=0, kv_cached=0)
            async for event in generator.generate(request):
                now = time.perf_counter()
                if ttft_s is None:
                    ttft_s = now - sent
                else:
                    itl_s.append(now - last)
                last, usage = now, event.usage or usage
            return Outcome(
                prompt_tokens=usage.prompt_tokens,
                cached_tokens=usage.kv_cached,
                completion_tokens=usage.completion_tokens,
                ttft_s=ttft_s,
                e2el_s=last - sent,
                itl_s=tuple(itl_s),
            )

    outcomes = await asyncio.gather(*(play(i, one) for i, one in enumerate(arrivals)))
    return [*outcomes], time.perf_counter() - start


def tool_command(tool: str, url: str, model: str, traffic: Traffic) -> list[str]:
    """The command line that lets another client drive the server with like traffic."""
    if tool == "vllm":
        return [
            *("vllm", "bench", "serve", "--backend", "openai", "--base-url", url),
            *("--model", model, "--tokenizer", "gpt2", "--dataset-name", "random"),
            *("--num-prompts", str(traffic.num_requests), "--ignore-eos"),
            *("--random-input-len", str(traffic.input_tokens)),
            *("--random-output-len", str(traffic.output_tokens)),
            *("--random-prefix-len", str(traffic.prefix_tokens)),
            *("--request-rate", str(traffic.rate_per_s), "--burstiness", str(traffic.burstiness)),
        ]
    profile = ("constant", "--rate", str(traffic.rate_per_s))
    return [
        *("guidellm", "benchmark", "--target", url, "--model", model),
        *("--max-requests", str(traffic.num_requests)),
        *("--data", f"prompt_tokens={traffic.input_tokens},output_tokens={traffic.output_tokens}"),
        *("--rate-type", *(profile if math.isfinite(traffic.rate_per_s) else ("throughput",))),
    ]


def drive_with(tool: str, url: str, model: str, traffic: Traffic) -> int:
    """Runs another client against the server; its exit code, 1 if it is not installed."""
    if shutil.which(tool) is None:
        print(f"{tool} is not installed; `pip install {tool}` in an environment of its own")
        return 1
    return subprocess.run(tool_command(tool, url, model, traffic), check=False).returncode


@contextlib.contextmanager
def _server(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The server that was named, or one that is started for the occasion: (url, model)."""
    if options.url is not None:
        yield options.url, options.model
        return
    with serve(["--model", options.model, *options.serve]) as server:
        yield server.url, server.model
        _end(server)


def _end(server: ServerProcess) -> None:
    code = server.end()
    if code:
        print(f"the server ended with exit code {code}: {''.join(server.said[-5:])}")


def _promise(source: str) -> tuple[str, float]:
    name, _, value = source.partition("=")
    if name not in ("ttft", "tpot", "e2el"):
        raise argparse.ArgumentTypeError("write ttft=MS, tpot=MS or e2el=MS")
    return name, float(value)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--url", help="a running server; by default one is started")
    parser.add_argument("--model", default="helium-tiny", help="to start, or its name at --url")
    parser.add_argument("--serve", action="append", default=[], help="option of helium-jax serve")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--rate", type=float, default=math.inf, help="requests a second, or inf")
    parser.add_argument("--burstiness", type=float, default=1.0)
    parser.add_argument("--concurrency", type=int, help="most requests on their way")
    parser.add_argument("--prefixes", type=int, default=4)
    parser.add_argument("--prefix-tokens", type=int, default=64)
    parser.add_argument("--input-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--spread", type=float, default=0.0)
    parser.add_argument("--slo", action="append", default=[], type=_promise, help="ttft=MS, ...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--library", action="store_true", help="the same calls without HTTP")
    parser.add_argument("--tool", choices=TOOLS, help="drive the server with this client")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
