"""A plan as an HTML table, for notebooks: static, small, and nothing of it is ever markup."""

from collections.abc import Iterable, Iterator
from html import escape
from typing import Protocol

from helium_jax.plan.control import Node, Op, bodies
from helium_jax.plan.describing import details, type_word
from helium_jax.plan.nodes import Input, Output, Param
from helium_jax.plan.references import own_references

MAX_LINES = 100
MAX_CHARS = 120  # of a cell


class Tabular(Protocol):
    """What is shown of a plan."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> tuple[Input, ...]: ...
    @property
    def params(self) -> tuple[Param, ...]: ...
    @property
    def ops(self) -> tuple[Op, ...]: ...
    @property
    def outputs(self) -> tuple[Output, ...]: ...


def html_table(plan: Tabular) -> str:
    """The nodes in the author's order, those in bodies indented; a plan need not be valid."""
    lines = list(_lines(plan))
    shown = "".join(map(_row, lines[:MAX_LINES]))
    left = len(lines) - MAX_LINES
    rest = f'<tr><td colspan="4">and {left} more</td></tr>' if left > 0 else ""
    heads = "".join(f"<th>{head}</th>" for head in ("name", "type", "needs", ""))
    return (
        f"<table><caption>Plan {_cell(plan.name or '(unnamed)')}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{shown}{rest}</tbody></table>"
    )


def _lines(plan: Tabular) -> Iterator[tuple[int, str, str, str, str]]:
    """Depth, name, type, needs and facts of every line."""
    nodes: Iterable[Node] = (*plan.inputs, *plan.params, *plan.ops)
    pending: list[tuple[int, Node]] = [(0, node) for node in reversed([*nodes])]
    while pending:
        depth, node = pending.pop()
        needs = ", ".join(own_references(node))
        yield depth, node.name, type_word(node), needs, ", ".join(details(node, None, None))
        if not isinstance(node, Input | Param):
            inner = [op for body in bodies(node) for op in body.ops]
            pending += [(depth + 1, op) for op in reversed(inner)]
    for output in plan.outputs:
        yield 0, output.name, "output", output.source, ""


def _row(line: tuple[int, str, str, str, str]) -> str:
    depth, *texts = line
    first, *others = map(_cell, texts)
    cells = "".join(f'<td style="text-align:left">{text}</td>' for text in others)
    indent = f"padding-left:{1 + depth}em"
    return f'<tr><td style="text-align:left;{indent}">{first}</td>{cells}</tr>'


def _cell(text: str) -> str:
    return escape(text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 3] + "...")
