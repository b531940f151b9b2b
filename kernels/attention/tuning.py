"""How a step is cut into pieces, by implementation and bucket: the numbers, and why."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the pieces of a step are cut for.

    Attributes:
        implementation: a key of IMPLEMENTATIONS; only those that read lists of their own matter.
        num_heads: N.
        num_kv_heads: K.
        head_size: H; others than GPUs do not ask.
        num_cores: multiprocessors of a GPU, likewise.
    """

    implementation: str = "xla"
    num_heads: int = 1
    num_kv_heads: int = 1
    head_size: int = 128
    num_cores: int = 132


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The static sizes of `AttentionLayout` that are a choice; see there."""

    block_rows: int
    run_pages: int
    unit_pages: int
    max_splits: int = 1
    max_parts: int = 0
    num_workers: int = 0


# Prefix groups that one row may be in, where parts of a row are merged after the kernel: two reads
# the common case (a system prompt, then a shared document) without making every merge dear.
_MAX_DEPTH = 2


def choose_tuning(
    target: Target, *, num_tokens: int, page_size: int, deterministic: bool
) -> Tuning:
    """The sizes for one token bucket."""
    page_size = max(page_size, 1)
    if target.implementation == "mosaic_tpu":
        return _tune_tpu(target, num_tokens, page_size, deterministic)
    if target.implementation == "mosaic_gpu":
        return _tune_gpu(target, num_tokens, page_size, deterministic)
    return Tuning(
        # Equal blocks in all buckets where bits matter: their shape decides the order of sums.
        block_rows=8 if deterministic else min(max(num_tokens, 2), 64),
        run_pages=max(1, 128 // page_size),
        unit_pages=max(1, 512 // page_size),
    )


def _tune_tpu(target: Target, num_tokens: int, page_size: int, deterministic: bool) -> Tuning:
    """Blocks of about 128 rows fill the matrix unit's 128 lanes once the heads are stacked."""
    group = target.num_heads // target.num_kv_heads
    rows = 8
    while rows * 2 * group <= 128 and rows < num_tokens and not deterministic:
        rows *= 2
    pages = max(1, 512 // page_size)  # 512 tokens: 2 MiB of 8 heads of 128 in bfloat16
    return Tuning(
        block_rows=rows, run_pages=pages, unit_pages=pages, max_splits=1, max_parts=1 + _MAX_DEPTH
    )


def _tune_gpu(target: Target, num_tokens: int, page_size: int, deterministic: bool) -> Tuning:
    """Blocks fill one or two 64-row tiles; workers fill two thread blocks per multiprocessor."""
    group = target.num_heads // target.num_kv_heads
    rows = 2
    while rows * 2 * group <= 64:
        rows *= 2
    # Wider heads have two warpgroups for one tile.
    if not deterministic and num_tokens > 2 * rows and target.head_size <= 128:
        rows *= 2
    # A row is cut into at most so many parts: few rows need many to fill the machine, and many
    # rows fill it alone, while every part costs a read in the merge.
    splits = next(
        (s for most, s in ((8, 32), (32, 16), (64, 8), (256, 4)) if num_tokens <= most), 2
    )
    if deterministic:
        splits = 1
    pages = max(1, 64 // page_size)
    return Tuning(
        block_rows=rows,
        run_pages=pages,
        unit_pages=pages,
        max_splits=splits,
        max_parts=splits * (1 + _MAX_DEPTH),
        num_workers=max(1, 2 * target.num_cores // target.num_kv_heads),
    )
