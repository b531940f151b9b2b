"""EXPLAIN as a document of builtin values, for programs."""

import dataclasses
from typing import Any

from helium_jax.errors import PlanError
from helium_jax.explain.report import Report, is_far_off
from helium_jax.plan import Plan


def explain_document(report: Report) -> dict[str, Any]:
    """The same facts as the text, under stable names; absent where nothing is known."""
    prepared = report.prepared
    optimized = prepared.optimized
    document: dict[str, Any] = {
        "plan_id": prepared.plan.plan_id,
        "name": prepared.plan.name,
        "rows": prepared.num_rows,
        "logical": _document(prepared.plan),
        "optimized": {
            "plan": _document(optimized.plan),
            "fetched": list(optimized.fetched),
            "merged": dict(optimized.merged),
            "row_groups": list(optimized.grouping.columns),
            "rewrites": [
                {
                    "rule": step.rule,
                    "operators": list(step.num_ops),
                    "calls": list(step.num_calls),
                    "notes": [dataclasses.asdict(note) for note in step.notes],
                }
                for step in optimized.trace
            ],
        },
        "physical": [
            {
                "name": operator.name,
                "type": type(operator).__name__,
                "needs": list(prepared.physical.needs.get(operator.name, ())),
            }
            for operator in prepared.physical.all_operators
        ],
        "scheduled": _schedule(report),
        "operators": {name: _operator(report, name) for name in report.estimates},
        "tokens": {"without_reuse": report.needed_tokens, "expected": report.computed_tokens},
        "static_prefixes": [
            {
                "operators": list(weighed.prefix.operators),
                "tokens": len(weighed.prefix.token_ids),
                "uses": weighed.prefix.uses,
                "saved_tokens": weighed.prefix.saved_tokens,
                "computed_ahead": weighed.is_chosen,
                "reason": weighed.reason,
            }
            for weighed in report.prefixes
        ],
        "planning_seconds": dict(prepared.seconds),
    }
    if report.result is not None:
        statistics = dataclasses.asdict(report.result.statistics)
        document["actual"] = {"status": report.result.status, **statistics}
    if report.models is not None:
        document["cost_models"] = dataclasses.asdict(report.models)
    return document


def _document(plan: Plan) -> dict[str, Any] | None:
    """The plan's document; None for one with functions, which no document can hold."""
    try:
        return plan.document
    except PlanError:
        return None


def _operator(report: Report, name: str) -> dict[str, Any]:
    estimate, actual = report.estimates[name], report.actuals.get(name)
    entry: dict[str, Any] = {"estimate": dataclasses.asdict(estimate)}
    if actual is not None:
        entry["actual"] = dataclasses.asdict(actual)
        entry["far_off"] = bool(actual.calls) and (
            is_far_off(estimate.calls, actual.calls)
            or is_far_off(estimate.output_tokens, actual.output_tokens)
        )
    return entry


def _schedule(report: Report) -> dict[str, Any] | None:
    schedule = report.schedule
    if schedule is None:
        return None
    workers = sorted({worker for rows in schedule.placement for worker in rows})
    return {
        "cost_model": schedule.model,
        "token_steps" if schedule.model == "token_step" else "seconds": schedule.makespan,
        "workers": {
            str(worker): [list(inner) for inner in schedule.sequences_on(worker)]
            for worker in workers
        },
        "rows": list(schedule.rows),
    }
