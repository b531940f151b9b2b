"""Formulas: the small safe language of conditions, lists and scores.

    contains(lower(verdict), 'yes') and number(score) >= 0.5
    matches(answer, '^[A-D]$')
    json(reply).items[0].name
    lines(plan)

A formula reads the texts of other nodes and gives a text, number, boolean or list of texts. It has
comparison, `and`, `or`, `not`, steps into JSON values and lists, and these functions:

    contains starts_with ends_with matches        of a text: true or false
    extract(text, regex) extract_all json         what is in a text: a text, a list, any JSON value
    lines split words join                        a text to a list of trimmed texts, and back
    len number lower upper trim                   of a text; len also of a list

There are no loops, no arithmetic and no way to reach anything else. A text that is compared with a
number or boolean counts as one, and a text that is none is an error of its row. Regular expressions
are RE2's, whose time is linear in the text; source, depth, results and lists are bounded.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from helium_jax.plan.formula_evaluation import evaluate_tree
from helium_jax.plan.formula_syntax import parse_tree
from helium_jax.plan.formula_tree import Tree, format_tree, rename_tree, tree_names
from helium_jax.plan.formula_values import (
    FormulaError,
    to_boolean,
    to_list,
    to_number,
    to_text,
)

FormulaValue = str | float | bool | list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """A formula that has been read.

    Attributes:
        source: as written.
        tree: what it means.
        names: the nodes it reads, each once, in order of their first place.
    """

    source: str
    tree: Tree
    names: tuple[str, ...]


def parse_formula(source: str) -> Formula:
    """The formula in a text.

    Raises:
        FormulaError: it is none; says where and what would be right.
    """
    tree = parse_tree(source)
    return Formula(source=source, tree=tree, names=tree_names(tree))


def rename_formula(formula: Formula, names: Mapping[str, str]) -> Formula:
    """The formula over other names; `formula` itself when it has none of them."""
    if not any(name in names for name in formula.names):
        return formula
    tree = rename_tree(formula.tree, names)
    source = format_tree(tree)
    # Read again for the positions; longer names must not make a good formula a bad one.
    tree = parse_tree(source, max_chars=None)
    return Formula(source=source, tree=tree, names=tree_names(tree))


def evaluate(formula: Formula, values: Mapping[str, str]) -> FormulaValue:
    """The formula's value; JSON objects as JSON text, null as the empty text, numbers as float.

    Args:
        formula: what to compute.
        values: the texts of its names, at least.

    Raises:
        FormulaError: a value does not fit, such as a text that is no number; says where.
    """
    value = evaluate_tree(formula.tree, values)
    if isinstance(value, list):
        return to_list(value, formula.tree.position)
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return to_number(value, formula.tree.position)
    return to_text(value, formula.tree.position)


def evaluate_condition(formula: Formula, values: Mapping[str, str]) -> bool:
    """The formula's value as a boolean; also the texts "true" and "false" are.

    Raises:
        FormulaError: as `evaluate`, or it is no boolean.
    """
    return to_boolean(evaluate_tree(formula.tree, values), formula.tree.position)


def evaluate_items(formula: Formula, values: Mapping[str, str], max_items: int) -> list[str]:
    """The formula's value as a list of texts.

    Raises:
        FormulaError: as `evaluate`, or it is no list, or has over `max_items` entries.
    """
    value = evaluate_tree(formula.tree, values)
    items = to_list(value, formula.tree.position)
    if len(items) > max_items:
        message = f"the list has {len(items)} items but max_items is {max_items}; raise it"
        raise FormulaError(message, formula.tree.position)
    return items


def evaluate_number(formula: Formula, values: Mapping[str, str]) -> float:
    """The formula's value as a finite number; also a text that is one.

    Raises:
        FormulaError: as `evaluate`, or it is no number.
    """
    return to_number(evaluate_tree(formula.tree, values), formula.tree.position)
