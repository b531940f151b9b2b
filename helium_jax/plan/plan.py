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
from helium_jax.plan.control import Loop, Node, Op, bodies, body_fields, bound_names, walk
from helium_jax.plan.limits import RunLimits
from helium_jax.plan.nodes import Chat, Completion, Function, Input, Lambda, Output, Param
from helium_jax.plan.references import body_order, own_references, references
from helium_jax.plan.rewriting import Rewriting
from helium_jax.plan.signature import Signature, bound_signature, sign
from helium_jax.plan.table import html_table
from helium_jax.plan.writing import VERSION, write_input, write_limits, write_op, write_param

MAX_SHOWN = 6  # names of one kind


# Without slots, so that what is derived from the fields can be computed once and kept.
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Plan:
    """What to compute; says nothing of how or in which order.

    Two plans are equal when their documents are, whatever the order of names in them, and the
    functions of their lambdas.

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
        if not isinstance(other, Plan) or self.canonical_json != other.canonical_json:
            return False
        return self.functions == other.functions

    def __hash__(self) -> int:
        return hash(self.plan_id)

    def __repr__(self) -> str:
        """One line, whatever the plan's size; `explain_text` shows all of it."""
        facts = [f"{len(self.all_ops)} operator{'' if len(self.all_ops) == 1 else 's'}"]
        for kind, nodes in (
            ("inputs", self.inputs),
            ("params", self.params),
            ("outputs", self.outputs),
        ):
            names = [node.name for node in nodes]
            if names:
                facts.append(f"{kind}={names if len(names) <= MAX_SHOWN else len(names)}")
        return f"<Plan {self.name!r}: {', '.join(facts)}>"

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return html_table(self)

    @cached_property
    def all_ops(self) -> tuple[Op, ...]:
        """Every operator, those in bodies included, each before what it holds."""
        return tuple(walk(self.ops))

    @cached_property
    def nodes(self) -> Mapping[str, Node]:
        """Inputs, parameters and operators of the outermost scope by name."""
        return {node.name: node for node in (*self.inputs, *self.params, *self.ops)}

    @cached_property
    def dependencies(self) -> Mapping[str, tuple[str, ...]]:
        """The names that each of `nodes` needs, for itself and for its bodies."""
        return {name: references(node) for name, node in self.nodes.items()}

    @cached_property
    def topological_order(self) -> tuple[str, ...]:
        """Every one of `nodes` after those it needs, else in the author's order.

        The order inside a body is `references.body_order`.

        Raises:
            PlanError: there is a cycle, here or in a body.
        """
        order = graph.topological_order(self.dependencies)
        if len(order) < len(self.nodes) or self._has_cycle_in_body:
            raise PlanError(cycle_problems(self))
        return tuple(order)

    @cached_property
    def _has_cycle_in_body(self) -> bool:
        return any(
            len(body_order(body.ops)) < len(body.ops) for op in self.all_ops for body in bodies(op)
        )

    @cached_property
    def needed(self) -> frozenset[str]:
        """The nodes, also of bodies, that some output needs; the others are never computed.

        A branch, loop, map or race that is needed needs the results of all of its bodies.
        """
        needs: dict[str, tuple[str, ...]] = {node.name: () for node in self.nodes.values()}
        for op in self.all_ops:
            nexts = tuple(one.next for one in op.carried) if isinstance(op, Loop) else ()
            results = tuple(body.result for body in bodies(op))
            needs[op.name] = (*own_references(op), *results, *nexts)
        return graph.reachable(needs, (output.source for output in self.outputs))

    @cached_property
    def signatures(self) -> Mapping[str, Signature]:
        """The signature of every node, also of bodies: equal ones mean equal values.

        In a body a carried name or item has one value, whichever that is: two operators of equal
        signature in one body are equal in each of its runs. See `signature.sign`.
        """
        signatures: dict[str, Signature] = {}
        for name in self.topological_order:
            _sign_all(self.nodes[name], signatures)
        return signatures

    @property
    def document(self) -> dict[str, Any]:
        """The plan as a document of builtin values, in the author's order.

        Raises:
            PlanError: it has lambdas, which no document can hold.
        """
        problems = [
            Problem(
                path=f"plan.ops.{op.name}",
                message=f"calls the Python function {op.function.name!r}, which no file can hold; "
                "use a formula, slice, concat or view, or keep the plan in Python",
                code="unsupported_parameter",
            )
            for op in self.all_ops
            if isinstance(op, Lambda)
        ]
        if problems:
            raise PlanError(problems)
        return self.identity

    @cached_property
    def functions(self) -> Mapping[str, Function]:
        """The functions of the lambdas, by their names."""
        return {op.function.name: op.function for op in self.all_ops if isinstance(op, Lambda)}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The document; lambdas are in it by the names of their functions."""
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
        identity = self.identity
        # The one place where the order of keys counts: answers follow the order of a schema.
        formats = {
            op.name: op.settings.response_format.source
            for op in self.all_ops
            if isinstance(op, Chat | Completion) and op.settings.response_format is not None
        }
        if formats:
            identity = identity | {"formats": formats}
        return msgspec.json.encode(identity, order="deterministic")

    @cached_property
    def plan_id(self) -> str:
        """ "plan_" and a hash of the canonical JSON: the same plan twice is one plan."""
        return "plan_" + hashlib.sha256(self.canonical_json).hexdigest()[:32]

    def replace(self, rewrite: Callable[[Op], Op]) -> "Plan":
        """The plan with every operator rewritten, also in bodies; `self` when nothing changed.

        `rewrite` gets the operators of a scope in topological order, references already following
        earlier replacements, and after them those of their bodies. It may return an operator of
        another name that is already in the plan: references to the old one then lead to that one.
        If that one cannot be seen from there, because it is in a body that the old one is not in,
        the old one stays.
        """
        rewriting = Rewriting(self.ops, rewrite)
        renamed = rewriting.renamed
        pairs = zip(rewriting.ops, self.ops, strict=False)
        if len(rewriting.ops) == len(self.ops) and all(new is old for new, old in pairs):
            return self
        outputs = tuple(
            dataclasses.replace(output, source=renamed.get(output.source, output.source))
            for output in self.outputs
        )
        return dataclasses.replace(self, ops=rewriting.ops, outputs=outputs)


def _sign_all(node: Node, signatures: dict[str, Signature]) -> None:
    """Adds the signatures of a node and of what its bodies hold."""
    signatures[node.name] = sign(node, signatures)
    if isinstance(node, Input | Param):
        return
    signatures.update({name: bound_signature(name) for name in bound_names(node)})
    for body in bodies(node):
        for op in body_order(body.ops):
            _sign_all(op, signatures)


def cycle_problems(plan: Plan) -> list[Problem]:
    """One problem per cycle of a scope, which it spells out."""
    problems = []
    pending: list[tuple[str, tuple[Op, ...]]] = [("plan.ops", plan.ops)]
    while pending:
        path, ops = pending.pop()
        for cycle in graph.find_cycles({op.name: references(op) for op in ops}):
            message = f"needs itself: {' -> '.join(cycle)}; a plan may have no cycle"
            problems.append(Problem(path=f"{path}.{cycle[0]}", message=message, code="cycle"))
        inner = [
            (f"{path}.{op.name}.{field}.ops", body.ops)
            for op in ops
            for field, body in zip(body_fields(op), bodies(op), strict=True)
        ]
        pending += reversed(inner)
    return problems
