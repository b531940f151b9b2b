"""The trees of formulas, and their one way of being written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Comparison = Literal["==", "!=", "<=", ">=", "<", ">"]
Connective = Literal["and", "or"]

COMPARISONS: tuple[Comparison, ...] = ("==", "!=", "<=", ">=", "<", ">")
RESERVED = ("and", "or", "not", "true", "false", "null")
NO_PLACE = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A value written in the formula."""

    value: str | int | float | bool | None
    position: int = field(default=NO_PLACE, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """The value of a node."""

    name: str
    position: int = field(default=NO_PLACE, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """`left operator right`."""

    operator: Comparison
    left: "Tree"
    right: "Tree"
    position: int = field(default=NO_PLACE, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Logic:
    """`a and b and c` or `a or b or c`: two operands or more, read until one decides."""

    operator: Connective
    operands: "tuple[Tree, ...]"
    position: int = field(default=NO_PLACE, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Not:
    """`not operand`."""

    operand: "Tree"
    position: int = field(default=NO_PLACE, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """`function(args)`."""

    function: str
    args: "tuple[Tree, ...]"
    position: int = field(default=NO_PLACE, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`base.key`, `base["key"]` or `base[3]`."""

    base: "Tree"
    key: str | int
    position: int = field(default=NO_PLACE, compare=False)


Tree = Constant | Name | Compare | Logic | Not | Call | Step


def children(tree: Tree) -> tuple[Tree, ...]:
    """The trees directly inside a tree."""
    match tree:
        case Constant() | Name():
            return ()
        case Compare(left=left, right=right):
            return (left, right)
        case Logic(operands=operands):
            return operands
        case Not(operand=operand):
            return (operand,)
        case Call(args=args):
            return args
        case Step(base=base):
            return (base,)


def tree_names(tree: Tree) -> tuple[str, ...]:
    """The names in a tree, each once, in order of their first place."""
    names: dict[str, None] = {}
    pending = [tree]
    while pending:
        one = pending.pop()
        if isinstance(one, Name):
            names[one.name] = None
        pending += reversed(children(one))
    return tuple(names)


def rename_tree(tree: Tree, names: Mapping[str, str]) -> Tree:
    """The tree with other names; positions stay those of the old source."""
    match tree:
        case Constant():
            return tree
        case Name(name=name, position=at):
            return Name(name=names.get(name, name), position=at)
        case Compare(operator=operator, left=left, right=right, position=at):
            left, right = rename_tree(left, names), rename_tree(right, names)
            return Compare(operator=operator, left=left, right=right, position=at)
        case Logic(operator=operator, operands=operands, position=at):
            renamed = tuple(rename_tree(one, names) for one in operands)
            return Logic(operator=operator, operands=renamed, position=at)
        case Not(operand=operand, position=at):
            return Not(operand=rename_tree(operand, names), position=at)
        case Call(function=function, args=args, position=at):
            renamed = tuple(rename_tree(arg, names) for arg in args)
            return Call(function=function, args=renamed, position=at)
        case Step(base=base, key=key, position=at):
            return Step(base=rename_tree(base, names), key=key, position=at)


def format_tree(tree: Tree) -> str:
    """The source that is read back as `tree`, with no more brackets than needed."""
    match tree:
        case Constant(value=value):
            return _format_constant(value)
        case Name(name=name):
            return f"{{{{{name}}}}}" if name in RESERVED else name
        case Compare(operator=operator, left=left, right=right):
            return f"{_operand(left, 4)} {operator} {_operand(right, 4)}"
        case Logic(operator=operator, operands=operands):
            level = _LEVELS[operator] + 1
            return f" {operator} ".join(_operand(operand, level) for operand in operands)
        case Not(operand=operand):
            return f"not {_operand(operand, 3)}"
        case Call(function=function, args=args):
            return f"{function}({', '.join(format_tree(arg) for arg in args)})"
        case Step(base=base, key=int() as index):
            return f"{_operand(base, 5)}[{index}]"
        case Step(base=base, key=key):
            dotted = isinstance(key, str) and key.isascii() and key.isidentifier()
            return _operand(base, 5) + (f".{key}" if dotted else f"[{_quote(str(key))}]")


# How tightly each binds; what binds less than its place asks for stands in brackets.
_LEVELS: dict[str, int] = {"or": 1, "and": 2}


def _level(tree: Tree) -> int:
    match tree:
        case Logic(operator=operator):
            return _LEVELS[operator]
        case Not():
            return 3
        case Compare():
            return 3
        case Constant(value=value) if not isinstance(value, str):
            return 4  # `-1[0]` and `1.a` would be read otherwise
    return 5


def _operand(tree: Tree, least: int) -> str:
    written = format_tree(tree)
    return written if _level(tree) >= least else f"({written})"


def _format_constant(value: str | int | float | bool | None) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quote(value) if isinstance(value, str) else repr(value)


def _quote(text: str) -> str:
    # Single quotes, as they stand best inside the double quotes of a plan file.
    inner = json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"')
    return "'" + inner.replace("'", "\\'") + "'"
