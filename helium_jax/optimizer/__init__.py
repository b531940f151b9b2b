"""Rewrites plans into equal ones that cost less, and what is known for it.

Not here: the order of calls (`helium_jax.schedule`), running anything (`helium_jax.executor`); a
rule never calls a model and never runs a function of the plan.
"""

from helium_jax.optimizer.driver import (
    RULE_NAMES,
    Optimized,
    TraceStep,
    check_rule_names,
    optimize,
)
from helium_jax.optimizer.facts import ColumnFacts, Facts, describe_column, gather_facts
from helium_jax.optimizer.profile import OperatorProfile, Profile
from helium_jax.optimizer.rewriting import Note, Rewriting, Rule
from helium_jax.optimizer.rules import RULES
from helium_jax.optimizer.rules.group_rows_by_value import Grouping
from helium_jax.optimizer.trace_text import format_trace

__all__ = [
    "RULES",
    "RULE_NAMES",
    "ColumnFacts",
    "Facts",
    "Grouping",
    "Note",
    "OperatorProfile",
    "Optimized",
    "Profile",
    "Rewriting",
    "Rule",
    "TraceStep",
    "check_rule_names",
    "describe_column",
    "format_trace",
    "gather_facts",
    "optimize",
]
