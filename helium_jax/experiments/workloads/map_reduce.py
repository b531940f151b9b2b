"""Map-reduce: experts answer a question, each in a role of its own; a summariser reads them."""

from helium_jax.experiments.filler import Filler
from helium_jax.experiments.workload import Lengths, Workload
from helium_jax.plan import Expression, PlanBuilder

NUM_ROLES = 7
NUM_QUESTIONS = 6  # about one context


def map_reduce_mmlu(fill: Filler, *, num_rows: int, branches: int = 14) -> Workload:
    """14 experts in 7 roles, so that each prompt is there twice, and a summariser.

    Args:
        fill: writes the texts.
        num_rows: questions.
        branches: experts; two neighbours have one role.
    """
    builder = PlanBuilder("map-reduce-mmlu")
    question = builder.input("question")
    answers: list[Expression] = []
    for index in range(branches):
        role = index % max(1, branches // 2)
        answers.append(
            builder.chat(
                name=f"expert{index}",
                system=fill.system(f"role {role}", 45),
                user=question,
                **fill.output(250 + 86 * role / (NUM_ROLES - 1)),
            )
        )
    summary = builder.chat(
        name="summary",
        system=fill.system("summariser", 100),
        user=_join(question, answers, fill.text("sum up", 44)),
        **fill.output(168),
    )
    builder.output("answer", summary)
    rows = tuple({"question": fill.text(f"question {row}", 120)} for row in range(num_rows))
    return Workload(
        name="map-reduce-mmlu",
        plan=builder.build(),
        rows=rows,
        lengths=Lengths(calls=15, prompt_tokens=6_691, output_tokens=4_286, rows=200),
        scale=fill.scale,
    )


def map_reduce_tatqa(fill: Filler, *, num_rows: int, branches: int = NUM_ROLES) -> Workload:
    """Six questions about one context, each answered by 7 experts and summed up.

    Args:
        fill: writes the texts.
        num_rows: contexts.
        branches: experts.
    """
    builder = PlanBuilder("map-reduce-tatqa")
    context = builder.input("context")
    for number in range(NUM_QUESTIONS):
        asked = context + builder.input(f"question{number}")
        answers = [
            builder.chat(
                name=f"expert{index}-{number}",
                system=fill.system(f"role {index}", 45),
                user=asked,
                **fill.output(390),
            )
            for index in range(branches)
        ]
        summary = builder.chat(
            name=f"summary-{number}",
            system=fill.system("summariser", 90),
            user=_join(asked, answers, fill.text("sum up", 47)),
            **fill.output(250),
        )
        builder.output(f"answer{number}", summary)
    return Workload(
        name="map-reduce-tatqa",
        plan=builder.build(),
        rows=tuple(context_row(fill, row) for row in range(num_rows)),
        lengths=Lengths(calls=48, prompt_tokens=44_710, output_tokens=17_941, rows=100),
        scale=fill.scale,
    )


def context_row(
    fill: Filler, row: int, context: float = 480, question: float = 53
) -> dict[str, str]:
    """A context with six questions about it, as columns."""
    questions = {
        f"question{number}": fill.text(f"question {row} {number}", question)
        for number in range(NUM_QUESTIONS)
    }
    return {"context": fill.text(f"context {row}", context)} | questions


def _join(asked: Expression, answers: list[Expression], instruction: str) -> Expression:
    text = asked
    for answer in answers:
        text = text + "\n" + answer
    return text + "\n" + instruction
