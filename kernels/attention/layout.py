"""What describes a step to attention: static capacities, and the arrays within them."""

from dataclasses import dataclass, field

import jax


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayout:
    """Static capacities of one token bucket; hashable, so it may be a static argument of a jit.

    Attributes:
        num_tokens: T, rows of the flat token axis, padding included.
        num_seqs: S, most sequences of a step.
        pages_per_seq: C, most pages of one sequence.
        page_size: B, tokens of a page.
        num_pages: P, pages of the pool; the host refuses page ids beyond it.
    """

    num_tokens: int
    num_seqs: int
    pages_per_seq: int
    page_size: int
    num_pages: int

    @property
    def sections(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Name and shape of every array in the packed ints, in their order."""
        tokens, seqs, pages = self.num_tokens, self.num_seqs, self.pages_per_seq
        return (
            ("token_seqs", (tokens,)),
            ("token_positions", (tokens,)),
            ("page_tables", (seqs, pages)),
        )

    @property
    def num_ints(self) -> int:
        """int32 elements that `pack_batch` fills."""
        return sum(_size(shape) for _, shape in self.sections)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBatch:
    """One step as attention sees it, on the device.

    Attributes:
        token_seqs: int32 [T], the sequence of each row; -1 marks padding.
        token_positions: int32 [T], position of each row in its sequence; 0 for padding.
        page_tables: int32 [S, C], the pages of each sequence in order; 0 beyond its length.
        layout: the capacities.
    """

    token_seqs: jax.Array
    token_positions: jax.Array
    page_tables: jax.Array
    layout: AttentionLayout = field(metadata=dict(static=True))


def make_layout(
    *, num_tokens: int, num_seqs: int, pages_per_seq: int, page_size: int, num_pages: int
) -> AttentionLayout:
    """The layout of one token bucket.

    A step of T tokens has at most T sequences with work, so callers pass
    `num_seqs=min(num_tokens, max_num_seqs)`.

    Raises:
        ValueError: a capacity is below 1, or num_tokens below 2 (a row that is alone in a product
            has other bits than one in company, see README.md).
    """
    layout = AttentionLayout(
        num_tokens=num_tokens,
        num_seqs=num_seqs,
        pages_per_seq=pages_per_seq,
        page_size=page_size,
        num_pages=num_pages,
    )
    for name in ("num_tokens", "num_seqs", "pages_per_seq", "page_size", "num_pages"):
        least = 2 if name == "num_tokens" else 1
        if getattr(layout, name) < least:
            raise ValueError(f"{name}={getattr(layout, name)} must be at least {least}")
    return layout


def unpack_batch(layout: AttentionLayout, ints: jax.Array) -> AttentionBatch:
    """Takes apart, inside the step, what `pack_batch` filled: ints is int32 [layout.num_ints].

    Raises:
        ValueError: ints has another shape or dtype.
    """
    if ints.shape != (layout.num_ints,) or ints.dtype != "int32":
        raise ValueError(
            f"ints is {ints.dtype}{list(ints.shape)}; expected int32[{layout.num_ints}]"
        )
    arrays = {}
    start = 0
    for name, shape in layout.sections:
        end = start + _size(shape)
        arrays[name] = ints[start:end].reshape(shape)
        start = end
    return AttentionBatch(**arrays, layout=layout)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
