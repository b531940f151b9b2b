"""Iterative refinement: one summariser reads six chunks of reviews, its summary growing."""

from helium_jax.experiments.filler import Filler
from helium_jax.experiments.workload import Lengths, Workload
from helium_jax.plan import Expression, PlanBuilder

SUMMARY_TOKENS = (216, 260, 310, 345, 374, 401)


def iterative(fill: Filler, *, num_rows: int) -> Workload:
    """Six calls one after the other.

    Args:
        fill: writes the texts.
        num_rows: items that are reviewed.
    """
    builder = PlanBuilder("iterative")
    role = fill.system("summariser", 82)
    summary: Expression | None = None
    for index, length in enumerate(SUMMARY_TOKENS):
        chunk = builder.input(f"chunk{index}")
        summary = builder.chat(
            name=f"summary{index}",
            system=role,
            user=chunk if summary is None else summary + "\n" + chunk,
            **fill.output(length),
        )
    assert summary is not None
    builder.output("summary", summary)

    def chunk_text(row: int, index: int) -> str:
        return fill.text(f"chunk {row} {index}", 939 if index else 1000)

    rows = tuple(
        {f"chunk{index}": chunk_text(row, index) for index in range(len(SUMMARY_TOKENS))}
        for row in range(num_rows)
    )
    return Workload(
        name="iterative",
        plan=builder.build(),
        rows=rows,
        lengths=Lengths(calls=6, prompt_tokens=7_693, output_tokens=1_906, rows=200),
        scale=fill.scale,
    )
