"""EXPLAIN as text: trees like PostgreSQL's, one operator a line, actual figures under estimates."""

from collections.abc import Iterator, Sequence
from typing import Literal

from helium_jax.explain.report import Actual, Estimate, Report, is_far_off
from helium_jax.optimizer import format_trace
from helium_jax.physical import Generate
from helium_jax.plan import Plan, explain_text
from helium_jax.plan.control import Node
from helium_jax.plan.describing import details, title
from helium_jax.plan.explain import MAX_INDENT
from helium_jax.plan.outline import outline

Stage = Literal["logical", "optimized", "physical", "scheduled"]
STAGES: tuple[Stage, ...] = ("logical", "optimized", "physical", "scheduled")
MAX_SEQUENCES = 40  # shown per worker


def explain_stages(report: Report, stages: Sequence[Stage] = STAGES) -> str:
    """The stages that are asked for, then what the run did if there was one."""
    parts: list[str] = []
    for stage in stages:
        match stage:
            case "logical":
                plan = report.prepared.plan
                parts.append(f"Logical\n{explain_text(plan, num_rows=report.prepared.num_rows)}")
            case "optimized":
                parts.append(_optimized(report))
            case "physical":
                parts.append(_physical(report))
            case "scheduled":
                parts.append(_scheduled(report))
    parts.append(_sums(report))
    return "\n\n".join(parts)


def _optimized(report: Report) -> str:
    plan = report.prepared.optimized.plan
    lines = ["Optimized", *_tree(report, plan), "Rewrites"]
    lines += [f"  {line}" for line in format_trace(report.prepared.optimized.trace).splitlines()]
    if report.prepared.optimized.grouping.columns:
        columns = ", ".join(report.prepared.optimized.grouping.columns)
        lines.append(f"  rows with equal values of {columns} are kept together")
    return "\n".join(lines)


def _tree(report: Report, plan: Plan) -> Iterator[str]:
    for line in outline(plan):
        indent = "  " * min(line.depth, MAX_INDENT)
        if line.node is None:
            yield f"{indent}{line.label}"
            continue
        if line.is_repeated:
            yield f"{indent}->  {title(line.node)}  (shown above)"
            continue
        first, *others = operator_lines(report, line.node)
        yield f"{indent}->  {first}"
        yield from (f"{indent}      {fact}" for fact in others)


def operator_lines(report: Report, node: Node) -> Iterator[str]:
    """What is known of an operator of the optimised plan: expected, then actual."""
    name, num_rows = node.name, report.prepared.num_rows
    if name in report.prepared.optimized.fetched:
        yield f"CacheFetch {name}  (rows={num_rows})"
        return
    facts = details(node, num_rows, None)
    if (estimate := report.estimates.get(name)) is not None:
        facts += _estimate_facts(estimate)
    yield f"{title(node)}  ({', '.join(facts)})"
    if (actual := report.actuals.get(name)) is not None:
        yield from _actual_lines(estimate, actual)


def _estimate_facts(estimate: Estimate) -> list[str]:
    facts = [
        f"calls={estimate.calls:g}",
        f"prompt={estimate.prompt_tokens:.0f}",
        f"static={estimate.static_tokens}",
        f"out={estimate.output_tokens:.0f}",
        f"new={estimate.computed_tokens:.0f}",
    ]
    if estimate.known:
        facts.append(f"cached rows={estimate.known}")
    if estimate.start is not None and estimate.end is not None:
        facts.append(f"cost={estimate.start:.2f}..{estimate.end:.2f} steps")
    return facts


def _actual_lines(estimate: Estimate | None, actual: Actual) -> Iterator[str]:
    when = ""
    if actual.start is not None and actual.end is not None:
        when = f" time={actual.start:.2f}..{actual.end:.2f} s"
    failed = f" failed={actual.failed}" if actual.failed else ""
    yield (
        f"(actual values={actual.done}{failed} calls={actual.calls} "
        f"out={actual.output_tokens:.1f}{when})"
    )
    flags = []
    if estimate is not None and actual.calls:
        if is_far_off(estimate.output_tokens, actual.output_tokens):
            flags.append("answers")
        if is_far_off(estimate.calls, actual.calls):
            flags.append("calls")
    note = f"  ! over 3x from the estimate: {', '.join(flags)}" if flags else ""
    yield (
        f"KV: hit={actual.kv_cached} computed={actual.computed} tokens; "
        f"results: equal call={actual.saved} cache={actual.cached}{note}"
    )


def _physical(report: Report) -> str:
    physical = report.prepared.physical
    lines = [f"Physical  ({len(physical.all_operators)} steps)"]
    for number, operator in enumerate(physical.all_operators, start=1):
        needs = ", ".join(physical.needs.get(operator.name, ()))
        after = f"  after {needs}" if needs else ""
        history = ""
        if isinstance(operator, Generate) and operator.history is not None:
            history = f"  continues {operator.history}"
        lines.append(f"  {number}. {type(operator).__name__} {operator.name}{after}{history}")
    if report.prefixes:
        lines.append("Static prefixes (* computed ahead of the calls)")
        for weighed in report.prefixes:
            prefix = weighed.prefix
            lines.append(
                f"  {'* ' if weighed.is_chosen else ''}{', '.join(prefix.operators)}: "
                f"{len(prefix.token_ids)} tokens, {weighed.reason}"
            )
    if report.prompt_tree:
        lines.append("Prompts (templated radix tree)")
        lines += [f"  {line}" for line in report.prompt_tree.splitlines()]
    return "\n".join(lines)


def _scheduled(report: Report) -> str:
    schedule = report.schedule
    if schedule is None:
        return "Scheduled\n  nothing is planned without a model and rows"
    workers = sorted({worker for rows in schedule.placement for worker in rows})
    unit = "token steps" if schedule.model == "token_step" else "s"
    lines = [f"Scheduled  (predicted {schedule.makespan:.2f} {unit})"]
    for worker in workers:
        lines.append(f"  worker {worker}, inner sequences row by row:")
        sequences = schedule.sequences_on(worker)
        lines += [f"    {' -> '.join(inner)}" for inner in sequences[:MAX_SEQUENCES]]
        if len(sequences) > MAX_SEQUENCES:
            lines.append(f"    and {len(sequences) - MAX_SEQUENCES} more")
    if schedule.refined is not None:
        lines.append(f"  refined call by call ({len(schedule.refined)} calls)")
    return "\n".join(lines)


def _sums(report: Report) -> str:
    seconds = report.prepared.seconds
    lines = []
    if report.estimates:
        lines.append(
            f"Prompt tokens: without any reuse {report.needed_tokens:.0f}, "
            f"here {report.computed_tokens:.0f} (estimated)"
        )
    if report.result is not None:
        statistics = report.result.statistics
        lines += [
            f"Actual prompt tokens: without any reuse {statistics.needed}, computed "
            f"{statistics.computed} (KV hit {statistics.kv_cached}, equal calls "
            f"{statistics.single_flight_saved}, output cache {statistics.result_cached}, "
            f"merged operators {statistics.merged_saved})",
            f"Computed ahead: {statistics.precomputed} tokens, first call after "
            f"{statistics.precompute_seconds * 1000:.0f} ms",
        ]
    lines.append(
        "Planning: " + ", ".join(f"{name} {s * 1000:.1f} ms" for name, s in seconds.items())
    )
    if report.result is not None:
        lines.append(
            f"Execution: {report.result.statistics.seconds:.2f} s, "
            f"{report.result.statistics.num_calls} calls, {report.result.status}"
        )
    if report.models is not None:
        lines.append(
            f"Cost models: token-step error {report.models.token_step_error:.1%}, roofline error "
            f"{report.models.roofline_error:.1%} of the run's time; better: {report.models.better}"
        )
    return "\n".join(lines)
