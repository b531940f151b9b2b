"""Parallel chains: experts read six chunks for one aspect each and sum up; a writer reads them."""

from helium_jax.experiments.filler import Filler
from helium_jax.experiments.workload import Lengths, Workload
from helium_jax.plan import Expression, PlanBuilder

NUM_CHUNKS = 6


def parallel_chains(fill: Filler, *, num_rows: int, branches: int = 7) -> Workload:
    """Per expert six extractions, each with the one before in its prompt, and a summary.

    Args:
        fill: writes the texts.
        num_rows: items that are reviewed.
        branches: experts.
    """
    builder = PlanBuilder("parallel-chains")
    item = builder.input("item")
    chunks = [builder.input(f"chunk{index}") for index in range(NUM_CHUNKS)]
    summaries: list[Expression] = []
    for expert in range(branches):
        role = fill.system(f"aspect {expert}", 100)
        notes: list[Expression] = []
        for index, chunk in enumerate(chunks):
            note = builder.chat(
                name=f"note{expert}-{index}",
                system=role,
                user=notes[-1] + "\n" + chunk if notes else chunk,
                **fill.output(435),
            )
            notes.append(note)
        summaries.append(
            builder.chat(
                name=f"summary{expert}",
                system=role,
                user=_join(item, notes, fill.text("sum up", 180)),
                **fill.output(512),
            )
        )
    writer = builder.chat(
        name="writer",
        system=fill.system("writer", 200),
        user=_join(item, summaries, fill.text("write", 194)),
        **fill.output(512),
    )
    builder.output("report", writer)
    return Workload(
        name="parallel-chains",
        plan=builder.build(),
        rows=tuple(_row(fill, row) for row in range(num_rows)),
        lengths=Lengths(calls=50, prompt_tokens=92_882, output_tokens=22_346, rows=100),
        scale=fill.scale,
    )


def _row(fill: Filler, row: int) -> dict[str, str]:
    chunks = {f"chunk{i}": fill.text(f"chunk {row} {i}", 1080) for i in range(NUM_CHUNKS)}
    return {"item": fill.text(f"item {row}", 480)} | chunks


def _join(item: Expression, texts: list[Expression], instruction: str) -> Expression:
    joined = item
    for text in texts:
        joined = joined + "\n" + text
    return joined + "\n" + instruction
