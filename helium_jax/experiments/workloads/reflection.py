"""Reflection: an expert drafts, two critics speak one after the other, the expert refines."""

from helium_jax.experiments.filler import Filler
from helium_jax.experiments.workload import Lengths, Workload
from helium_jax.experiments.workloads.map_reduce import NUM_QUESTIONS, context_row
from helium_jax.plan import PlanBuilder


def reflection(fill: Filler, *, num_rows: int) -> Workload:
    """Six questions about one context, one draft with its critics each.

    Args:
        fill: writes the texts.
        num_rows: contexts.
    """
    builder = PlanBuilder("reflection")
    context = builder.input("context")
    for number in range(NUM_QUESTIONS):
        asked = context + builder.input(f"question{number}")
        draft = builder.chat(
            name=f"draft-{number}",
            system=fill.system("expert", 130),
            user=asked,
            **fill.output(120),
        )
        extraction = builder.chat(
            name=f"extraction-{number}",
            system=fill.system("extraction critic", 48),
            user=asked + "\n" + draft,
            **fill.output(258),
        )
        calculation = builder.chat(
            name=f"calculation-{number}",
            system=fill.system("calculation critic", 59),
            user=asked + "\n" + draft + "\n" + extraction,
            **fill.output(511),
        )
        final = builder.chat(
            name=f"final-{number}",
            history=draft,
            user=extraction + "\n" + calculation + fill.next_turn("refine", 44),
            **fill.output(139),
        )
        builder.output(f"answer{number}", final)
    return Workload(
        name="reflection",
        plan=builder.build(),
        rows=tuple(context_row(fill, row, 540, 58) for row in range(num_rows)),
        lengths=Lengths(calls=24, prompt_tokens=25_143, output_tokens=6_169, rows=200),
        scale=fill.scale,
    )
