"""Debate: three agents answer, then answer again with the answers of the others before them."""

from helium_jax.experiments.filler import Filler
from helium_jax.experiments.workload import Lengths, Workload
from helium_jax.experiments.workloads.map_reduce import NUM_QUESTIONS, context_row
from helium_jax.plan import Expression, PlanBuilder

NUM_AGENTS = 3


def debate_mmlu(fill: Filler, *, num_rows: int, rounds: int = 2) -> Workload:
    """One question a row.

    Args:
        fill: writes the texts.
        num_rows: questions.
        rounds: times every agent speaks.
    """
    builder = PlanBuilder("debate-mmlu")
    asked = builder.input("question")
    lengths = _Turns(first=300, later=360, instruction=72)
    for index, answer in enumerate(_debate(builder, fill, asked, "", rounds, lengths)):
        builder.output(f"answer{index}", answer)
    rows = tuple({"question": fill.text(f"question {row}", 116)} for row in range(num_rows))
    return Workload(
        name="debate-mmlu",
        plan=builder.build(),
        rows=rows,
        lengths=Lengths(calls=6, prompt_tokens=3_855, output_tokens=1_974, rows=200),
        scale=fill.scale,
    )


def debate_tatqa(fill: Filler, *, num_rows: int, rounds: int = 2) -> Workload:
    """Six questions about one context, one debate each.

    Args:
        fill: writes the texts.
        num_rows: contexts.
        rounds: times every agent speaks.
    """
    builder = PlanBuilder("debate-tatqa")
    context = builder.input("context")
    lengths = _Turns(first=375, later=405, instruction=85)
    for number in range(NUM_QUESTIONS):
        asked = context + builder.input(f"question{number}")
        answers = _debate(builder, fill, asked, f"-{number}", rounds, lengths)
        for index, answer in enumerate(answers):
            builder.output(f"answer{index}-{number}", answer)
    return Workload(
        name="debate-tatqa",
        plan=builder.build(),
        rows=tuple(context_row(fill, row, 480, 50) for row in range(num_rows)),
        lengths=Lengths(calls=36, prompt_tokens=42_300, output_tokens=14_035, rows=100),
        scale=fill.scale,
    )


class _Turns:
    """Lengths in tokens: answers of the first and of later rounds, the later instruction."""

    def __init__(self, *, first: float, later: float, instruction: float) -> None:
        self.first, self.later, self.instruction = first, later, instruction


def _debate(
    builder: PlanBuilder,
    fill: Filler,
    asked: Expression,
    suffix: str,
    rounds: int,
    lengths: _Turns,
) -> list[Expression]:
    """The last answers of all agents; each goes on with its own conversation."""
    answers = [
        builder.chat(
            name=f"agent{agent}-1{suffix}",
            system=fill.system(f"agent {agent}", 40),
            user=asked,
            **fill.output(lengths.first),
        )
        for agent in range(NUM_AGENTS)
    ]
    instruction = fill.next_turn("answer again", lengths.instruction)
    for number in range(2, rounds + 1):
        later = []
        for agent in range(NUM_AGENTS):
            others = [answer for other, answer in enumerate(answers) if other != agent]
            user = others[0]
            for other in others[1:]:
                user = user + "\n" + other
            later.append(
                builder.chat(
                    name=f"agent{agent}-{number}{suffix}",
                    history=answers[agent],
                    user=user + instruction,
                    **fill.output(lengths.later),
                )
            )
        answers = later
    return answers
