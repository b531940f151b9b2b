"""A formula's tree becomes a value; nothing but a FormulaError comes out otherwise."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from helium_jax.plan.formula_functions import FUNCTIONS, regex_states
from helium_jax.plan.formula_tree import Call, Compare, Constant, Logic, Name, Not, Step, Tree
from helium_jax.plan.formula_values import (
    Evaluated,
    FormulaError,
    describe_value,
    to_boolean,
    to_number,
)

# Characters and items that the functions of one evaluation may read, those of a regular expression
# as often as it has states: RE2 is linear in both (measured: at most 30 ns each, so one second).
MAX_WORK = 32_000_000


def evaluate_tree(tree: Tree, values: Mapping[str, str]) -> Evaluated:
    """The value of a tree over the texts of its names.

    Raises:
        FormulaError: a value does not fit its place, a name has none, or there is too much to read.
    """
    return _Evaluation(values).value(tree)


class _Evaluation:
    """One evaluation and what it has read so far."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._work = 0

    def value(self, tree: Tree) -> Evaluated:
        match tree:
            case Constant(value=value):
                return value
            case Name(name=name, position=position):
                if name not in self._values:
                    raise FormulaError(f"{name!r} has no value here", position)
                return self._values[name]
            case Compare():
                return self._compare(tree)
            case Logic(operator=connective, operands=operands):
                decides = connective == "or"
                for operand in operands:
                    if to_boolean(self.value(operand), operand.position) == decides:
                        return decides
                return not decides
            case Not(operand=operand):
                return not to_boolean(self.value(operand), operand.position)
            case Call(function=function, args=args, position=position):
                values = [self.value(arg) for arg in args]
                self._count(values, position, regex_states(function, values, position))
                return FUNCTIONS[function].call(values, position)
            case Step(base=base, key=key, position=position):
                return _take(self.value(base), key, position)

    def _compare(self, tree: Compare) -> bool:
        left, right = self.value(tree.left), self.value(tree.right)
        self._count([left, right], tree.position)
        if left is None or right is None:
            if tree.operator in ("==", "!="):
                return (left is right) == (tree.operator == "==")
            raise FormulaError("null has no order; test it with == null", tree.position)
        # The texts of number and boolean columns are compared as what they stand for.
        if isinstance(left, str) and not isinstance(right, str):
            left = _like(left, right, tree.left.position)
        elif isinstance(right, str) and not isinstance(left, str):
            right = _like(right, left, tree.right.position)
        if _kind(left) is not _kind(right):
            message = f"cannot compare {describe_value(left)} with {describe_value(right)}"
            raise FormulaError(message, tree.position)
        if tree.operator not in ("==", "!=") and _kind(left) not in (str, float):
            message = f"{describe_value(left)} has no order; use == or !="
            raise FormulaError(message, tree.position)
        return _COMPARE[tree.operator](left, right)

    def _count(self, values: list[Evaluated], position: int, times: int = 1) -> None:
        for value in values:
            if isinstance(value, str | list):
                self._work += len(value) * times
        if self._work > MAX_WORK:
            what = "characters" if times == 1 else f"characters, with {times} states of its regex"
            message = f"the formula reads over {MAX_WORK} {what}; shorten its texts"
            raise FormulaError(message, position)


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _kind(value: Evaluated) -> type:
    """What may be compared with each other: ints are numbers like floats, booleans are not."""
    kind = type(value)
    return float if kind is int else kind


def _like(text: str, other: Evaluated, position: int) -> Evaluated:
    """A text as a number or boolean, whichever it is compared with."""
    if isinstance(other, bool):
        return to_boolean(text, position)
    if isinstance(other, int | float):
        return to_number(text, position)
    return text


def _take(base: Evaluated, key: str | int, position: int) -> Evaluated:
    """An entry of a list or object."""
    if isinstance(key, int):
        if not isinstance(base, list):
            raise FormulaError(f"[{key}] needs a list, not {describe_value(base)}", position)
        if not -len(base) <= key < len(base):
            message = f"[{key}] is outside of a list of {len(base)}; test len(...) first"
            raise FormulaError(message, position)
        return base[key]
    if not isinstance(base, dict):
        hint = "; read it with json(...) first" if isinstance(base, str) else ""
        message = f"{key[:40]!r} needs an object, not {describe_value(base)}{hint}"
        raise FormulaError(message, position)
    if key not in base:
        names = ", ".join(repr(name[:20]) for name in list(base)[:5]) or "nothing"
        raise FormulaError(f"the object has no {key[:40]!r}; it has {names}", position)
    return base[key]
