"""EXPLAIN and EXPLAIN ANALYZE: every stage of a plan on its way to a run, and what the run did.

Not here: the stages themselves (`helium_jax.executor.preparing`), and the plan alone, without a
model (`helium_jax.plan.explain_text`).
"""

from helium_jax.explain.document import explain_document
from helium_jax.explain.drawing import draw_dot, draw_mermaid
from helium_jax.explain.explaining import (
    analyze_plan,
    explain_plan,
    placeholder_row,
    report_on,
)
from helium_jax.explain.report import Actual, Estimate, Report, make_report
from helium_jax.explain.text import STAGES, Stage, explain_stages
from helium_jax.explain.timeline import draw_timeline

__all__ = [
    "STAGES",
    "Actual",
    "Estimate",
    "Report",
    "Stage",
    "analyze_plan",
    "draw_dot",
    "draw_mermaid",
    "draw_timeline",
    "explain_document",
    "explain_plan",
    "explain_stages",
    "make_report",
    "placeholder_row",
    "report_on",
]
