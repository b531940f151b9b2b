"""Minutes of mixed load on a real server: at the end nothing may be left of it.

python -m bench.soak --minutes 10
python -m bench.soak --seconds 15 --clients 8        # the short form, which the tests run
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import psutil

from bench.harness import Recorder
from bench.serving.mixture import Mixture
from bench.serving.process import ServerProcess, serve

SETTLE_S = 20.0  # until what was under way at the end is over
# Allocators and caches that are still filling look like leaks for a while.
MAX_GROWTH_SHARE = 0.05
POOL_THREADS = 32  # asyncio's own pool fills up as far as it is ever used at once
MAX_GROWTH_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the server's process holds at one moment.

    Attributes:
        at_s: since the load began.
        rss_bytes: memory.
        threads: of the process.
        files: open descriptors, sockets included.
        tasks: of its event loop.
    """

    at_s: float
    rss_bytes: int
    threads: int
    files: int
    tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must be as it was: `found` beside what `allowed` it to be."""

    name: str
    found: float
    allowed: str
    is_fine: bool


def main() -> int:
    """Runs the soak; 1 if something leaked, was not answered or was answered wrongly."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, help="instead of --minutes")
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--model", default="helium-tiny")
    parser.add_argument("--serve", action="append", default=[], help="option of helium-jax serve")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seconds = options.seconds or options.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        args = ["--model", options.model, f"--state-dir={folder}", *options.serve]
        with serve(args) as server:
            mixture, checks = asyncio.run(soak(server, seconds, options.clients, options.seed))
            exit_code = server.end()
    checks.append(_check("exit code", exit_code, "0", exit_code == 0))
    _print(mixture, checks)
    recorder = Recorder("soak")
    recorder.record(
        f"{seconds:g}s,{options.clients} clients",
        "helium-jax",
        **{check.name.replace(" ", "_"): check.found for check in checks},
        requests=sum(sum(tally.statuses.values()) for tally in mixture.tallies.values()),
        is_fine=all(check.is_fine for check in checks),
    )
    return 0 if all(check.is_fine for check in checks) else 1


async def soak(
    server: ServerProcess, seconds: float, num_clients: int, seed: int
) -> tuple[Mixture, list[Check]]:
    """Loads the server, lets it settle, and compares what it holds with what it held before."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    model = await asyncio.to_thread(lambda: server.model)
    async with aiohttp.ClientSession(server.url, connector=connector) as session:
        mixture = Mixture(session, model, seed=seed)
        await mixture.run(min(seconds / 5, 20.0), num_clients)  # everything was used once
        before = await _settle(server, 0.0)
        samples: list[Sample] = []
        sampling = asyncio.create_task(_sample_for_ever(server, samples))
        await mixture.run(seconds, num_clients)
        sampling.cancel()
        await asyncio.wait({sampling})
        after = await _settle(server, seconds)
        metrics = await asyncio.to_thread(server.metrics)
        async with session.get("/v1/cache") as response:
            cache = await response.json()
    return mixture, judge(mixture, before, after, samples, metrics, cache)


def judge(
    mixture: Mixture,
    before: Sample,
    after: Sample,
    samples: Sequence[Sample],
    metrics: dict[str, float],
    cache: dict[str, object],
) -> list[Check]:
    """Every check, those that are fine included."""
    kv = cache["kv"]
    assert isinstance(kv, list)
    used = sum(worker["used"] for worker in kv)
    lost = sum(one["pages"] - one["free"] - one["cached"] - one["used"] for one in kv)
    unexpected = sum(len(tally.unexpected) for tally in mixture.tallies.values())
    growth = _growth_bytes(samples)
    most = max(MAX_GROWTH_BYTES, MAX_GROWTH_SHARE * before.rss_bytes)
    compiles = sum(v for k, v in metrics.items() if k.startswith("helium:recompiles_after_warmup"))
    return [
        _check("unanswered", mixture.num_unanswered, "0", mixture.num_unanswered == 0),
        _check("unexpected answers", unexpected, "0", unexpected == 0),
        _check("pages used", used, "0", used == 0),
        _check("pages lost", lost, "0", lost == 0),
        _check("tasks gained", after.tasks - before.tasks, "<= 0", after.tasks <= before.tasks),
        _check("files gained", after.files - before.files, "<= 2", after.files <= before.files + 2),
        _check(
            "threads gained",
            after.threads - before.threads,
            f"<= {POOL_THREADS}",
            after.threads <= before.threads + POOL_THREADS,
        ),
        _check("growth MiB", growth / 2**20, f"< {most / 2**20:.0f}", growth < most),
        _check("compiles", compiles, "0", compiles == 0),
        _check("longest block ms", 1e3 * metrics["helium:event_loop_max_block_seconds"], "-", True),
        _check("longest busy ms", 1e3 * metrics["helium:event_loop_max_busy_seconds"], "-", True),
        _check("memory MiB", after.rss_bytes / 2**20, "-", True),
    ]


def _growth_bytes(samples: Sequence[Sample]) -> float:
    """How far memory rises over the second half, by its straight line of least squares."""
    half = samples[len(samples) // 2 :]
    if len(half) < 4:
        return 0.0
    line = statistics.linear_regression(
        [one.at_s for one in half], [float(one.rss_bytes) for one in half]
    )
    return line.slope * (half[-1].at_s - half[0].at_s)


def _check(name: str, found: float, allowed: str, is_fine: bool) -> Check:
    return Check(name=name, found=found, allowed=allowed, is_fine=is_fine)


async def _sample_for_ever(server: ServerProcess, samples: list[Sample]) -> None:
    start = time.monotonic()
    while True:
        samples.append(await _sample(server, time.monotonic() - start))
        await asyncio.sleep(1.0)


async def _sample(server: ServerProcess, at_s: float) -> Sample:
    metrics = await asyncio.to_thread(server.metrics)
    process = psutil.Process(server.popen.pid)
    return Sample(
        at_s=at_s,
        rss_bytes=process.memory_info().rss,
        threads=process.num_threads(),
        files=process.num_fds(),
        tasks=int(metrics["helium:event_loop_tasks"]),
    )


async def _settle(server: ServerProcess, at_s: float) -> Sample:
    """Waits until nothing runs any more; the sample then."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        metrics = await asyncio.to_thread(server.metrics)
        busy = ("num_requests_running", "num_requests_waiting", "runs_running", "runs_waiting")
        if not any(
            value for name, value in metrics.items() for one in busy if f"helium:{one}" in name
        ):
            break
        await asyncio.sleep(0.2)
    await asyncio.sleep(1.5)  # connections that were left linger for a second
    return await _sample(server, at_s)


def _print(mixture: Mixture, checks: Sequence[Check]) -> None:
    for name, tally in sorted(mixture.tallies.items()):
        counts = "  ".join(f"{status}: {n}" for status, n in sorted(tally.statuses.items()))
        print(f"{name:18} {counts}")
        for what in tally.unexpected:
            print(f"{'':18} unexpected: {what}")
    for check in checks:
        verdict = "ok" if check.is_fine else "FAULT"
        print(f"{check.name:18} {check.found:10.6g}  {check.allowed:8} {verdict}")


if __name__ == "__main__":
    raise SystemExit(main())
