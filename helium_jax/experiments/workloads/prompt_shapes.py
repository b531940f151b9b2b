"""Prompt shapes P1 to P6: four experts and a summariser, by the lengths of what they read."""

from dataclasses import dataclass

from helium_jax.experiments.filler import Filler
from helium_jax.experiments.workload import Lengths, Workload
from helium_jax.plan import PlanBuilder

NUM_EXPERTS = 4
ROWS_PER_CONTEXT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptShape:
    """Lengths in tokens of the parts of a call."""

    system: int
    context: int
    question: int
    output: int


SHAPES = {
    "P1": PromptShape(system=1024, context=128, question=128, output=64),
    "P2": PromptShape(system=1024, context=512, question=512, output=256),
    "P3": PromptShape(system=1024, context=1024, question=1024, output=512),
    "P4": PromptShape(system=2048, context=256, question=256, output=128),
    "P5": PromptShape(system=2048, context=1024, question=1024, output=512),
    "P6": PromptShape(system=2048, context=2048, question=2048, output=1024),
}


def prompt_shape(fill: Filler, *, num_rows: int, shape: str) -> Workload:
    """Experts with system texts of their own; four rows share a context, shuffled in the batch.

    Args:
        fill: writes the texts.
        num_rows: questions.
        shape: "P1" to "P6".
    """
    lengths = SHAPES[shape]
    builder = PlanBuilder(f"prompt-shape-{shape}")
    asked = builder.input("context") + builder.input("question")
    answers = [
        builder.chat(
            name=f"expert{index}",
            system=fill.system(f"expert {index}", lengths.system),
            user=asked,
            **fill.output(lengths.output),
        )
        for index in range(NUM_EXPERTS)
    ]
    user = asked
    for answer in answers:
        user = user + "\n" + answer
    summary = builder.chat(
        name="summary",
        system=fill.system("summariser", lengths.system),
        user=user,
        **fill.output(lengths.output),
    )
    builder.output("answer", summary)
    num_contexts = -(-num_rows // ROWS_PER_CONTEXT)
    rows = tuple(
        {
            # Rows of one context lie apart, as in a batch that nobody sorted.
            "context": fill.text(f"context {row % num_contexts}", lengths.context),
            "question": fill.text(f"question {row}", lengths.question),
        }
        for row in range(num_rows)
    )
    prompt = lengths.system + lengths.context + lengths.question
    return Workload(
        name=f"prompt-shape-{shape}",
        plan=builder.build(),
        rows=rows,
        lengths=Lengths(
            calls=NUM_EXPERTS + 1,
            prompt_tokens=(NUM_EXPERTS + 1) * prompt + NUM_EXPERTS * lengths.output,
            output_tokens=(NUM_EXPERTS + 1) * lengths.output,
            rows=100,
        ),
        scale=fill.scale,
    )
