"""What to compute: nodes, plans, the plan file and its Python form, validation and EXPLAIN.

Nothing here runs anything, knows a schedule or sees a token: lowering is in `helium_jax.physical`,
running in `helium_jax.executor`.
"""

from helium_jax.plan.builder import Expression, PlanBuilder
from helium_jax.plan.explain import explain_json, explain_text
from helium_jax.plan.limits import RunLimits
from helium_jax.plan.nodes import (
    CachePolicy,
    CallSettings,
    Chat,
    Completion,
    Const,
    Input,
    Message,
    Node,
    Op,
    Output,
    Param,
    Template,
    Value,
)
from helium_jax.plan.plan import Plan
from helium_jax.plan.spec import check_plan, check_size, validate
from helium_jax.plan.template import Slot, Text, format_template, parse_template
from helium_jax.plan.wire import encode_json, encode_yaml, load_plan, parse_plan, plan_from_document

__all__ = [
    "CachePolicy",
    "CallSettings",
    "Chat",
    "Completion",
    "Const",
    "Expression",
    "Input",
    "Message",
    "Node",
    "Op",
    "Output",
    "Param",
    "Plan",
    "PlanBuilder",
    "RunLimits",
    "Slot",
    "Template",
    "Text",
    "Value",
    "check_plan",
    "check_size",
    "encode_json",
    "encode_yaml",
    "explain_json",
    "explain_text",
    "format_template",
    "load_plan",
    "parse_plan",
    "parse_template",
    "plan_from_document",
    "validate",
]
