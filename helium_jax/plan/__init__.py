"""What to compute: nodes, plans, the plan file and its Python form, validation and EXPLAIN.

Nothing here runs anything, knows a schedule or sees a token: lowering is in `helium_jax.physical`,
running in `helium_jax.executor`.
"""

from helium_jax.plan.builder import PlanBuilder
from helium_jax.plan.control import (
    Body,
    Branch,
    Carried,
    Control,
    Loop,
    Map,
    Node,
    Op,
    Race,
    Reduce,
    bodies,
    bound_names,
    is_call,
    is_deterministic,
)
from helium_jax.plan.explain import explain_json, explain_text
from helium_jax.plan.expression import Expression
from helium_jax.plan.formula import (
    Formula,
    FormulaError,
    evaluate,
    evaluate_condition,
    evaluate_items,
    evaluate_number,
    parse_formula,
)
from helium_jax.plan.limits import RunLimits
from helium_jax.plan.nodes import (
    CachePolicy,
    CallSettings,
    Chat,
    Completion,
    Concat,
    Const,
    Function,
    Input,
    Lambda,
    Message,
    Output,
    Param,
    Slice,
    Template,
    Value,
    View,
)
from helium_jax.plan.outline import Line, outline
from helium_jax.plan.plan import Plan
from helium_jax.plan.references import body_order, references, rename_references, replace_bodies
from helium_jax.plan.signature import Signature, sign
from helium_jax.plan.size import Size, max_executions, row_size
from helium_jax.plan.spec import check_plan, check_size, validate
from helium_jax.plan.template import Slot, Text, format_template, parse_template
from helium_jax.plan.wire import encode_json, encode_yaml, load_plan, parse_plan, plan_from_document

__all__ = [
    "Body",
    "Branch",
    "CachePolicy",
    "CallSettings",
    "Carried",
    "Chat",
    "Completion",
    "Concat",
    "Const",
    "Control",
    "Expression",
    "Formula",
    "FormulaError",
    "Function",
    "Input",
    "Lambda",
    "Line",
    "Loop",
    "Map",
    "Message",
    "Node",
    "Op",
    "Output",
    "Param",
    "Plan",
    "PlanBuilder",
    "Race",
    "Reduce",
    "RunLimits",
    "Signature",
    "Size",
    "Slice",
    "Slot",
    "Template",
    "Text",
    "Value",
    "View",
    "bodies",
    "body_order",
    "bound_names",
    "check_plan",
    "check_size",
    "encode_json",
    "encode_yaml",
    "evaluate",
    "evaluate_condition",
    "evaluate_items",
    "evaluate_number",
    "explain_json",
    "explain_text",
    "format_template",
    "is_call",
    "is_deterministic",
    "load_plan",
    "max_executions",
    "outline",
    "parse_formula",
    "parse_plan",
    "parse_template",
    "plan_from_document",
    "references",
    "rename_references",
    "replace_bodies",
    "row_size",
    "sign",
    "validate",
]
