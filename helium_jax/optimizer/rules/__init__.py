"""The rewrite rules, one file each, and their order.

Rules do not know each other; what one leaves behind for another is found in the next round.
"""

from helium_jax.optimizer.rewriting import Rule
from helium_jax.optimizer.rules.fetch_cached_outputs import fetch_cached_outputs
from helium_jax.optimizer.rules.fold_constant_templates import fold_constant_templates
from helium_jax.optimizer.rules.group_rows_by_value import group_rows_by_value
from helium_jax.optimizer.rules.merge_equal_subplans import merge_equal_subplans
from helium_jax.optimizer.rules.prune_unused_nodes import prune_unused_nodes

RULES: tuple[Rule, ...] = (
    # First, so that no other rule works on what nobody needs.
    prune_unused_nodes,
    # Before merging: a template of constants then equals the constant it spells.
    fold_constant_templates,
    # Before fetching: what an equal operator's answers serve is fetched once.
    merge_equal_subplans,
    # Last; what only fetched calls needed is pruned in the next round.
    fetch_cached_outputs,
)

__all__ = [
    "RULES",
    "fetch_cached_outputs",
    "fold_constant_templates",
    "group_rows_by_value",
    "merge_equal_subplans",
    "prune_unused_nodes",
]
