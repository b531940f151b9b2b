"""Trading: nineteen agents read about a stock, debate, trade in eight characters and decide.

Four analysts (fundamentals, market, news, social media) each read documents and sum up; a bull and
a bear debate the summaries before a research manager; each of eight traders makes a decision that
three risk analysts debate; a fund manager judges every branch and decides at the end. The eight
traders are four prompts, each there twice.
"""

from helium_jax.experiments.filler import Filler
from helium_jax.experiments.workload import Lengths, Workload
from helium_jax.plan import Expression, PlanBuilder

# Tokens of each document; those marked stay the same from one day to the next.
FUNDAMENTALS = (703, 1_900, 2_334, 2_334)  # the same on both days
PRICES = (16_406, 18_415)
NEWS = (800,) * 5
SOCIAL = (4_700,) * 3  # the same on both days
NUM_RISK_ANALYSTS = 3


def trading(
    fill: Filler, *, num_rows: int, branches: int = 8, second_day: bool = False
) -> Workload:
    """88 calls a row.

    Args:
        fill: writes the texts.
        num_rows: stocks.
        branches: traders; half as many prompts.
        second_day: measure a day whose fundamentals and social inputs the day before had as well.
    """
    builder = PlanBuilder("trading")
    reports = [
        _analyst(builder, fill, name, len(documents))
        for name, documents in (
            ("fundamentals", FUNDAMENTALS),
            ("market", PRICES),
            ("news", NEWS),
            ("social", SOCIAL),
        )
    ]
    view = _research(builder, fill, reports)
    decisions = [
        _branch(builder, fill, reports, view, branch, branch % max(1, branches // 2))
        for branch in range(branches)
    ]
    final = builder.chat(
        name="fund-manager",
        system=fill.system("fund manager", 250),
        user=_joined(decisions) + fill.text("decide on all", 41),
        **fill.output(512),
    )
    builder.output("decision", final)
    first = tuple(_row(fill, row, day=1) for row in range(num_rows))
    second = tuple(_row(fill, row, day=2) for row in range(num_rows))
    return Workload(
        name="trading-day-two" if second_day else "trading",
        plan=builder.build(),
        rows=second if second_day else first,
        earlier=first if second_day else None,
        lengths=Lengths(calls=88, prompt_tokens=304_221, output_tokens=44_745, rows=16),
        scale=fill.scale,
    )


def _row(fill: Filler, row: int, *, day: int) -> dict[str, str]:
    """One stock's documents as columns."""
    columns = {}
    for name, documents, changes in (
        ("fundamentals", FUNDAMENTALS, False),
        ("market", PRICES, True),
        ("news", NEWS, True),
        ("social", SOCIAL, False),
    ):
        version = day if changes else 0
        for index, length in enumerate(documents):
            columns[f"{name}{index}"] = fill.text(f"{name} {index} {row} {version}", length)
    return columns


def _analyst(builder: PlanBuilder, fill: Filler, name: str, num_documents: int) -> Expression:
    """One call a document and a summary, all under one system text."""
    role = fill.system(name, 200)
    notes = [
        builder.chat(
            name=f"{name}-read{index}",
            system=role,
            user=builder.input(f"{name}{index}"),
            **fill.output(512),
        )
        for index in range(num_documents)
    ]
    return builder.chat(
        name=f"{name}-summary",
        system=role,
        user=_joined(notes) + fill.text(f"sum up {name}", 80),
        **fill.output(512),
    )


def _research(builder: PlanBuilder, fill: Filler, reports: list[Expression]) -> Expression:
    """Two rounds between bull and bear, and what the manager makes of them."""
    instruction = fill.text("argue", 45)
    bull, bear = (
        builder.chat(
            name=f"{side}-1",
            system=fill.system(side, 220),
            user=_joined(reports) + instruction,
            **fill.output(512),
        )
        for side in ("bull", "bear")
    )
    reply = fill.next_turn("reply", 44)
    bull_again, bear_again = (
        builder.chat(name=f"{side}-2", history=own, user=other + reply, **fill.output(512))
        for side, own, other in (("bull", bull, bear), ("bear", bear, bull))
    )
    return builder.chat(
        name="research-manager",
        system=fill.system("research manager", 200),
        user=_joined([bull, bear, bull_again, bear_again]) + fill.text("weigh", 40),
        **fill.output(512),
    )


def _branch(
    builder: PlanBuilder,
    fill: Filler,
    reports: list[Expression],
    view: Expression,
    branch: int,
    character: int,
) -> Expression:
    """A trader, two rounds of three risk analysts, and a judgement of both."""
    trader = builder.chat(
        name=f"trader{branch}",
        system=fill.system(f"trader {character}", 220),
        user=view + fill.text("trade", 46),
        **fill.output(473),
    )
    first = [
        builder.chat(
            name=f"risk{analyst}-1-{branch}",
            system=fill.system(f"risk analyst {analyst}", 120),
            user=_joined(reports) + "\n" + trader + fill.text("assess the risk", 60),
            **fill.output(512),
        )
        for analyst in range(NUM_RISK_ANALYSTS)
    ]
    instruction = fill.next_turn("assess again", 40)
    second = [
        builder.chat(
            name=f"risk{analyst}-2-{branch}",
            history=own,
            user=_joined(first) + instruction,
            **fill.output(512),
        )
        for analyst, own in enumerate(first)
    ]
    return builder.chat(
        name=f"judge{branch}",
        system=fill.system("fund manager", 250),
        user=_joined([*first, *second]) + fill.text("decide on one", 44),
        **fill.output(512),
    )


def _joined(texts: list[Expression]) -> Expression:
    joined = texts[0]
    for text in texts[1:]:
        joined = joined + "\n" + text
    return joined
