"""A plan: named operators over the columns of a batch of rows, and the outputs wanted of them."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from helium_jax.errors import PlanError, Problem
from helium_jax.plan import graph
from helium_jax.plan.control import Node, Op, walk
from helium_jax.plan.limits import RunLimits
from helium_jax.plan.nodes import Input, Output, Param
from helium_jax.plan.references import references, rename_references
from helium_jax.plan.signature import Signature, sign
from helium_jax.plan.writing import VERSION, write_input, write_limits, write_op, write_param


# Without slots, so that what is derived from the fields can be computed once and kept.
@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What to compute; says nothing of how or in which order.

    Two plans are equal when their documents are, whatever the order of names in them.

    Attributes:
        name: for people.
        inputs: the columns.
        params: values per run.
        ops: the operators, in the author's order.
        outputs: the results.
        limits: what one run may spend.
    """

    name: str = ""
    inputs: tuple[Input, ...] = ()
    params: tuple[Param, ...] = ()
    ops: tuple[Op, ...] = ()
    outputs: tuple[Output, ...] = ()
    limits: RunLimits = field(default_factory=RunLimits)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.canonical_json == other.canonical_json

    def __hash__(self) -> int:
        return hash(self.plan_id)

    @cached_property
    def all_ops(self) -> tuple[Op, ...]:
        """Every operator, those in bodies included, each before what it holds."""
        return tuple(walk(self.ops))

    @cached_property
    def nodes(self) -> Mapping[str, Node]:
        """Inputs, parameters and operators by name."""
        return {node.name: node for node in (*self.inputs, *self.params, *self.ops)}

    @cached_property
    def dependencies(self) -> Mapping[str, tuple[str, ...]]:
        """The names that each node needs."""
        return {name: references(node) for name, node in self.nodes.items()}

    @cached_property
    def topological_order(self) -> tuple[str, ...]:
        """Every node after those it needs, else in the author's order.

        Raises:
            PlanError: there is a cycle.
        """
        order = graph.topological_order(self.dependencies)
        if len(order) < len(self.nodes):
            raise PlanError(cycle_problems(self))
        return tuple(order)

    @cached_property
    def needed(self) -> frozenset[str]:
        """The nodes that some output needs; the others are never computed."""
        return graph.reachable(self.dependencies, (output.source for output in self.outputs))

    @cached_property
    def signatures(self) -> Mapping[str, Signature]:
        """Every node's signature: equal ones mean equal values; see `nodes.sign`."""
        signatures: dict[str, Signature] = {}
        for name in self.topological_order:
            signatures[name] = sign(self.nodes[name], signatures)
        return signatures

    @cached_property
    def document(self) -> dict[str, Any]:
        """The plan as a document of builtin values, in the author's order."""
        document: dict[str, Any] = {"version": VERSION}
        if self.name:
            document["name"] = self.name
        parts = {
            "inputs": {node.name: write_input(node) for node in self.inputs},
            "params": {node.name: write_param(node) for node in self.params},
            "ops": {op.name: write_op(op) for op in self.ops},
            "outputs": {output.name: output.source for output in self.outputs},
            "limits": write_limits(self.limits),
        }
        return document | {key: part for key, part in parts.items() if part}

    @cached_property
    def canonical_json(self) -> bytes:
        """The document with sorted keys: what the plan's identity is made of."""
        return msgspec.json.encode(self.document, order="deterministic")

    @cached_property
    def plan_id(self) -> str:
        """ "plan_" and a hash of the canonical JSON: the same plan twice is one plan."""
        return "plan_" + hashlib.sha256(self.canonical_json).hexdigest()[:32]

    def replace(self, rewrite: Callable[[Op], Op]) -> "Plan":
        """The plan with every operator rewritten; `self` when nothing changed.

        `rewrite` gets the operators in topological order, references already following earlier
        replacements. It may return an operator of another name that is already in the plan:
        references to the old one then lead to that one.
        """
        renamed: dict[str, str] = {}
        rewritten: dict[str, Op] = {}
        operators = {op.name: op for op in self.ops}
        for name in self.topological_order:
            if name in operators:
                op = rewrite(rename_references(operators[name], renamed))
                rewritten.setdefault(op.name, op)
                if op.name != name:
                    renamed[name] = op.name
        kept = [rewritten[op.name] for op in self.ops if op.name in rewritten]
        added = [op for name, op in rewritten.items() if name not in operators]
        if not renamed and all(op is operators[op.name] for op in kept):
            return self
        outputs = tuple(
            dataclasses.replace(output, source=renamed.get(output.source, output.source))
            for output in self.outputs
        )
        return dataclasses.replace(self, ops=(*kept, *added), outputs=outputs)


def cycle_problems(plan: Plan) -> list[Problem]:
    """One problem per cycle, which it spells out."""
    return [
        Problem(
            path=f"plan.ops.{cycle[0]}",
            message=f"needs itself: {' -> '.join(cycle)}; a plan may have no cycle",
            code="cycle",
        )
        for cycle in graph.find_cycles(plan.dependencies)
    ]
