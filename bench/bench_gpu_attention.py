"""Attention on a GPU at the shapes that decide serving, against what the machine can read."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helium_jax.kernels.attention import (
    ORDERS,
    Target,
    make_layout,
    pack_batch,
    paged_attention,
    unpack_batch,
)
from helium_jax.kernels.attention.cascade import CascadeCosts
from helium_jax.kernels.pages import QUANTIZED, SCALE_BYTES, KVPages, allocate_pages

FREE_GROUPS = CascadeCosts(block=0.0, page=0.0, row=0.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """N, K, H, B and dtypes of one layer; the defaults are those of Qwen3-8B."""

    num_heads: int = 32
    num_kv_heads: int = 8
    head_size: int = 128
    page_size: int = 64
    dtype: str = "bfloat16"
    kv_dtype: str = "bfloat16"

    @property
    def kv_bytes(self) -> int:
        """Of a token's keys and values."""
        scale = SCALE_BYTES if self.kv_dtype in QUANTIZED else 0
        of_head = self.head_size * jnp.dtype(self.kv_dtype).itemsize + scale
        return 2 * self.num_kv_heads * of_head


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """`count` equal sequences, whose first `shared` tokens are the same pages.

    Attributes:
        name: of the case.
        count: sequences.
        new: query rows of each.
        context: tokens of each, the new and the shared ones included.
        shared: leading tokens that all have in common; whole pages of it count.
    """

    name: str
    count: int
    new: int
    context: int
    shared: int = 0

    def kv_bytes(self, heads: Heads, *, once: bool) -> int:
        """Keys and values that must be read, the shared ones once or by every sequence."""
        tokens = self.count * self.context
        if once:
            tokens -= (self.count - 1) * self.shared
        return tokens * heads.kv_bytes

    def flops(self, heads: Heads) -> float:
        """Of both products, of causal pairs only."""
        pairs = self.new * (self.context - self.new) + self.new * (self.new + 1) / 2
        return 4.0 * self.count * pairs * heads.num_heads * heads.head_size


DECODE = (
    Batch(name="32 x 1K", count=32, new=1, context=1024),
    Batch(name="128 x 1K", count=128, new=1, context=1024),
    Batch(name="128 x 4K", count=128, new=1, context=4096),
    Batch(name="16 x 32K", count=16, new=1, context=32768),
    Batch(name="1 x 32K", count=1, new=1, context=32768),
)
PREFILL = (
    Batch(name="prefill 2K", count=1, new=2048, context=2048),
    Batch(name="prefill 8K", count=1, new=8192, context=8192),
    Batch(name="prefill 2K at 32K", count=1, new=2048, context=32768),
)
CASCADE = (
    Batch(name="64 x (8K + 0.5K)", count=64, new=1, context=8704, shared=8192),
    Batch(name="128 x (16K + 0.5K)", count=128, new=1, context=16896, shared=16384),
    Batch(name="16 x (2K + 0.5K)", count=16, new=1, context=2560, shared=2048),
)
TINY = (
    Batch(name="3 x 100", count=3, new=1, context=100),
    Batch(name="prefill 40", count=1, new=40, context=40),
    Batch(name="4 x (64 + 20)", count=4, new=1, context=84, shared=64),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One case's arrays: all that a timed call needs."""

    q: jax.Array
    pages: KVPages
    ints: jax.Array
    layout: Any


def prepare(batch: Batch, heads: Heads, target: Target, *, cascade: bool) -> Prepared:
    """Random queries and pages on the device; page ids in random order, as after a while."""
    size = heads.page_size
    columns = -(-batch.context // size)
    shared = batch.shared // size
    rng = np.random.default_rng(0)
    own = columns - shared
    ids = rng.permutation(shared + batch.count * own).astype(np.int32)
    tables = np.empty((batch.count, columns), np.int32)
    tables[:, :shared] = ids[:shared]
    tables[:, shared:] = ids[shared:].reshape(batch.count, own)
    num_tokens = max(2, batch.count * batch.new)
    layout = make_layout(
        num_tokens=num_tokens,
        num_seqs=batch.count,
        pages_per_seq=columns,
        page_size=size,
        num_pages=len(ids),
        target=target,
    )
    ints = np.empty(layout.num_ints, np.int32)
    pack_batch(
        layout,
        [batch.new] * batch.count,
        [batch.context] * batch.count,
        tables,
        cascade=cascade,
        out=ints,
        costs=FREE_GROUPS,
    )
    pages = random_pages(heads, len(ids), ORDERS[target.implementation])
    q = jax.random.normal(
        jax.random.key(1), (num_tokens, heads.num_heads, heads.head_size), heads.dtype
    )
    return Prepared(q=q, pages=pages, ints=jnp.asarray(ints), layout=layout)


def storage_platform(order: str) -> str | None:
    """Kernels' pools are stored as on their devices, also where they are interpreted."""
    return None if order == "columns" else "gpu"


def random_pages(heads: Heads, num_pages: int, order: str) -> KVPages:
    """One layer of pages with random elements, in the order of a kernel or of XLA."""
    allocate = partial(
        allocate_pages, num_layers=1, num_pages=num_pages, page_size=heads.page_size,
        num_kv_heads=heads.num_kv_heads, head_size=heads.head_size, dtype=heads.kv_dtype,
        order=order, platform=storage_platform(order),
    )  # fmt: skip
    keys = iter(jax.random.split(jax.random.key(2), 3))

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.signedinteger):
            return jax.random.randint(next(keys), leaf.shape, -127, 128, leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jnp.unsignedinteger):  # bits of a float, on CPUs
            drawn = jax.random.normal(next(keys), leaf.shape).astype(heads.kv_dtype)
            return jax.lax.bitcast_convert_type(drawn, leaf.dtype)
        return jax.random.normal(next(keys), leaf.shape).astype(leaf.dtype)

    return jax.tree.map(draw, jax.eval_shape(allocate))


def make_call(prepared: Prepared, implementation: str, repeats: int) -> Callable[[], None]:
    """A compiled call of `repeats` attentions, each waiting for the one before."""
    layout, scale = prepared.layout, prepared.q.shape[-1] ** -0.5

    @jax.jit
    def run(q: jax.Array, pages: KVPages, ints: jax.Array) -> jax.Array:
        batch = unpack_batch(layout, ints)

        def again(_: jax.Array, q: jax.Array) -> jax.Array:
            out, _ = paged_attention(q, pages, 0, batch, scale=scale, implementation=implementation)
            return q + (out * 1e-3).astype(q.dtype)

        return jax.lax.fori_loop(0, repeats, again, q)

    compiled = run.lower(prepared.q, prepared.pages, prepared.ints).compile()
    return lambda: compiled(prepared.q, prepared.pages, prepared.ints).block_until_ready()


def seconds_of(call: Callable[[], None], rounds: int) -> list[float]:
    """Wall seconds of each of `rounds` calls after one that warms up."""
    call()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return sorted(times)


def time_attention(
    batch: Batch, heads: Heads, target: Target, *, cascade: bool, rounds: int, repeats: int
) -> float:
    """Median seconds of one attention."""
    prepared = prepare(batch, heads, target, cascade=cascade)
    call = make_call(prepared, target.implementation, repeats)
    times = seconds_of(call, rounds)
    return times[len(times) // 2] / repeats


def attention_results(
    target: Target, heads: Heads, *, bandwidth: float, flop_rate: float, is_tiny: bool
) -> Iterator[tuple[str, dict[str, float]]]:
    """(case, fields) for every shape; bandwidth in bytes and flop_rate in flops a second."""
    rounds, repeats = (1, 1) if is_tiny else (5, 10)
    decode, prefill, cascades = (TINY[:1], TINY[1:2], TINY[2:]) if is_tiny else (
        DECODE, PREFILL, CASCADE
    )  # fmt: skip

    of_pool = "" if heads.kv_dtype == heads.dtype else f" {heads.kv_dtype}"
    if of_pool:  # reading is what the pool's dtype changes
        prefill, cascades = prefill[:1], ()

    def seconds(batch: Batch, cascade: bool = False) -> float:
        return time_attention(batch, heads, target, cascade=cascade, rounds=rounds, repeats=repeats)

    for batch in decode:
        taken = seconds(batch)
        rate = batch.kv_bytes(heads, once=False) / taken
        yield f"decode {batch.name}{of_pool}", dict(us=taken * 1e6, of_bandwidth=rate / bandwidth)
    for batch in prefill:
        taken = seconds(batch)
        rate = batch.flops(heads) / taken
        yield f"{batch.name}{of_pool}", dict(us=taken * 1e6, of_flop_rate=rate / flop_rate)
    for batch in cascades:
        flat, grouped = seconds(batch), seconds(batch, cascade=True)
        rate = batch.kv_bytes(heads, once=True) / grouped
        yield (
            f"cascade {batch.name}",
            dict(flat_us=flat * 1e6, us=grouped * 1e6, speedup=flat / grouped,
                 of_bandwidth=rate / bandwidth),
        )  # fmt: skip
