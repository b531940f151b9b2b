"""Results, worker processes and the machine's own ceilings.

A result is one JSON line: `subject`, `case`, `implementation`, fields with their unit as suffix,
and where and when it was measured. Times are taken around whole workloads after a warm-up; rounds
of different implementations alternate, so that a slow minute hits all of them.
"""

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.workloads import Call
from helium_jax.experiments.environment import environment

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"


class Recorder:
    """Writes results to a file of their own and, as short lines, to standard output."""

    def __init__(self, subject: str, folder: Path = RESULTS) -> None:
        self._subject = subject
        self._environment = environment()
        stamp = self._environment["date"].replace(":", "")
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{subject}-{stamp}.jsonl"

    def record(self, case: str, implementation: str, **fields: Any) -> None:
        """Appends one result; field names end in their unit."""
        fields = {name: _rounded(value) for name, value in fields.items()}
        head = {"subject": self._subject, "case": case, "implementation": implementation}
        with self.path.open("a") as file:
            print(json.dumps({**head, **fields, **self._environment}), file=file)
        shown = "  ".join(f"{name}={value}" for name, value in fields.items())
        print(f"{case:18} {implementation:28} {shown}", flush=True)


def _rounded(value: Any) -> Any:
    if not isinstance(value, float) or not math.isfinite(value) or value == 0.0:
        return value
    return round(value, max(0, 3 - math.floor(math.log10(abs(value)))))


def summarise(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile (of few rounds: the slowest) of wall times."""
    ordered = sorted(seconds)
    return {
        "median_s": statistics.median(ordered),
        "p95_s": ordered[max(0, math.ceil(0.95 * len(ordered)) - 1)],
        "rounds": len(ordered),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What the machine itself can do, measured through XLA in the same run.

    Attributes:
        read_gb_s: summing a large float32 array, 1e9 bytes a second.
        copy_gb_s: writing a negated copy of it; bytes read plus bytes written.
        float32_gflop_s: a product of 512 rows with a [4096, 4096] matrix held as [out, in].
        bfloat16_gflop_s: the same from bfloat16 to float32.
    """

    read_gb_s: float
    copy_gb_s: float
    float32_gflop_s: float
    bfloat16_gflop_s: float


def measure_ceilings(*, num_bytes: int = 1 << 29, width: int = 4096, rounds: int = 5) -> Ceilings:
    """Measures this process's default device; the best of `rounds`, because it is a ceiling."""
    import jax
    import jax.numpy as jnp

    def best(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
        jax.block_until_ready(function(*arguments))
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            times.append(time.perf_counter() - start)
        return min(times)

    @jax.jit
    def total(x: jax.Array) -> jax.Array:
        return jnp.sum(x, axis=1)

    def read_gb_s(x: jax.Array) -> float:
        if jax.default_backend() != "cpu":
            return num_bytes / best(total, x) / 1e9
        # XLA's own sum reads at half of what two threads of a plain product do.
        parts = np.array_split(np.asarray(x).ravel(), os.cpu_count() or 1)
        with ThreadPoolExecutor(len(parts)) as pool:
            return max(_read_rate(pool, parts) for _ in range(rounds))

    @jax.jit
    def negate(x: jax.Array) -> jax.Array:
        return -x

    @jax.jit
    def product(x: jax.Array, weight: jax.Array) -> jax.Array:
        return jax.lax.dot_general(
            x, weight, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
        )

    # Many rows, because XLA shares rows among its threads.
    large = jnp.ones((256, num_bytes // 1024), jnp.float32)
    flops = 2.0 * 512 * width * width

    def rate(dtype: Any) -> float:
        x, weight = jnp.ones((512, width), dtype), jnp.ones((width, width), dtype)
        return flops / best(product, x, weight) / 1e9

    return Ceilings(
        read_gb_s=read_gb_s(large),
        copy_gb_s=2 * num_bytes / best(negate, large) / 1e9,
        float32_gflop_s=rate(jnp.float32),
        bfloat16_gflop_s=rate(jnp.bfloat16),
    )


def _read_rate(pool: ThreadPoolExecutor, parts: Sequence[np.ndarray]) -> float:
    """Gigabytes per second at which the threads of `pool` read one part each."""
    start = time.perf_counter()
    list(pool.map(lambda part: np.dot(part, part), parts))
    return sum(part.nbytes for part in parts) / (time.perf_counter() - start) / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a worker says of one execution: as `driver.Run`."""

    wall_s: float
    outputs: dict[str, list[int] | None]
    counters: dict[str, float]


class Worker:
    """An implementation in its own process; see worker.py."""

    def __init__(self, process: "subprocess.Popen[str]", name: str) -> None:
        self._process = process
        self.name = name
        self.start_s: float = self._read()["start_s"]

    def run(self, calls: Sequence[Call]) -> Answer:
        """Executes a workload and waits for it.

        Raises:
            RuntimeError: the worker died, or a call failed; its standard error says why.
        """
        assert self._process.stdin is not None
        print(json.dumps([asdict(call) for call in calls]), file=self._process.stdin, flush=True)
        return Answer(**self._read())

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer


@contextlib.contextmanager
def open_worker(
    adapter: str,
    model: str,
    options: dict[str, Any],
    *,
    python: str = sys.executable,
    name: str | None = None,
) -> Iterator[Worker]:
    """Starts `adapter` on `model` in the interpreter `python`; ends it with the context."""
    command = [python, "-m", "bench.worker", adapter]
    with subprocess.Popen(
        [*command, "--model", model, "--options", json.dumps(options)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Worker(process, name or adapter)
        finally:
            _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    """Lets a worker end by itself, which it does at the end of its input; else kills it."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
