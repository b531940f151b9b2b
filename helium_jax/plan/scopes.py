"""Which names can be seen from where: every use of a name in a plan, checked against its scopes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from helium_jax.plan.control import (
    BEST_OF_NAME,
    Branch,
    Loop,
    Map,
    Op,
    Race,
    bodies,
    body_fields,
    bound_names,
)
from helium_jax.plan.findings import Findings
from helium_jax.plan.nodes import Chat, Completion, Concat, Const, Lambda, Slice, Template, View
from helium_jax.plan.plan import Plan
from helium_jax.plan.reading_context import ANY_NAME, author_path
from helium_jax.plan.template import Text, slot_names
from helium_jax.plan.writing import chat_fields


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """A part of a plan in which names are defined.

    Attributes:
        path: where its operators stand.
        parent: the scope around it.
        owner: the operator that it is a body of.
    """

    path: str
    parent: "Scope | None" = None
    owner: str = ""

    @property
    def depth(self) -> int:
        return 0 if self.parent is None else self.parent.depth + 1

    def can_see(self, other: "Scope") -> bool:
        """Whether `other` is this scope or around it."""
        scope: Scope | None = self
        while scope is not None:
            if scope is other:
                return True
            scope = scope.parent
        return False


@dataclass(frozen=True, slots=True)
class Definition:
    """Where a name is defined."""

    name: str
    path: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class Use:
    """A place that needs a name."""

    name: str
    path: str
    scope: Scope
    is_slot: bool = False


@dataclass(slots=True)
class Scopes:
    """All definitions and uses of a plan, in the author's order, operators before their bodies."""

    definitions: list[Definition]
    uses: list[Use]
    ops: list[tuple[Op, str]]  # with their paths


def collect_scopes(plan: Plan) -> Scopes:
    """What `plan` defines and uses, and where."""
    top = Scope("plan.ops")
    found = Scopes(definitions=[], uses=[], ops=[])
    for kind, nodes in (("inputs", plan.inputs), ("params", plan.params)):
        for node in nodes:
            found.definitions.append(Definition(node.name, f"plan.{kind}.{node.name[:64]}", top))
    pending = [(op, top) for op in reversed(plan.ops)]
    while pending:
        op, scope = pending.pop()
        path = f"{scope.path}.{op.name}"
        found.ops.append((op, path))
        found.definitions.append(Definition(op.name, path, scope))
        inside = Scope(path, scope, op.name) if bound_names(op) else scope
        for name in bound_names(op):
            where = f"{path}.carry.{name[:64]}" if isinstance(op, Loop) else f"{path}.as"
            found.definitions.append(Definition(name, where, inside))
        found.uses += _uses(op, path, scope, inside)
        inner = []
        for body, field in zip(bodies(op), body_fields(op), strict=True):
            of_body = Scope(f"{path}.{field}.ops", inside, op.name)
            found.uses.append(Use(body.result, f"{path}.{field}.result", of_body))
            if isinstance(op, Loop):
                found.uses += [
                    Use(one.next, f"{path}.carry.{one.name[:64]}.next", of_body)
                    for one in op.carried
                ]
            inner += [(one, of_body) for one in body.ops]
        pending += reversed(inner)
    return found


def _uses(op: Op, path: str, scope: Scope, inside: Scope) -> Iterator[Use]:
    """The names that an operator uses itself; those of its bodies come with these."""
    for field, text in texts(op):
        for name in slot_names(text):
            yield Use(name, f"{path}.{field}", scope, is_slot=True)
    match op:
        case Chat(history=str() as history):
            yield Use(history, f"{path}.history", scope)
        case Lambda(args=args):
            for index, name in enumerate(args):
                yield Use(name, f"{path}.args[{index}]", scope)
        case Slice(source=source) | View(source=source):
            yield Use(source, f"{path}.source", scope)
        case Concat(sources=sources):
            for index, name in enumerate(sources):
                yield Use(name, f"{path}.sources[{index}]", scope)
        case Branch(condition=condition):
            yield from (Use(name, f"{path}.if", scope) for name in condition.names)
        case Loop(carried=carried, count=count, condition=condition):
            for one in carried:
                yield Use(one.initial, f"{path}.carry.{one.name[:64]}.from", scope)
            if isinstance(count, str):
                yield Use(count, f"{path}.count", scope)
            if condition is not None:
                yield from (Use(name, f"{path}.while", inside) for name in condition.names)
        case Map(over=over):
            yield from (Use(name, f"{path}.over", scope) for name in over.names)
        case _:
            pass
    if isinstance(op, Map | Race) and op.reduce.score is not None:
        names = (name for name in op.reduce.score.names if name != BEST_OF_NAME)
        yield from (Use(name, f"{path}.reduce.score", scope) for name in names)


def texts(op: Op) -> list[tuple[str, Text]]:
    """An operator's texts with the names of their fields; those in bodies are not its own."""
    match op:
        case Template(text=text):
            return [("template", text)]
        case Completion(prompt=prompt):
            return [("prompt", prompt)]
        case Chat(messages=messages):
            fields = chat_fields(op)
            return [(field, m.content) for field, m in zip(fields, messages, strict=False)]
        case Const() | _:
            return []


def check_uses(
    scopes: Scopes, known: frozenset[str], paths: Mapping[str, str], found: Findings
) -> None:
    """A fault for every name that is not there or cannot be seen where it is used."""
    defined: dict[str, Definition] = {}
    for definition in scopes.definitions:
        defined.setdefault(definition.name, definition)
    for use in scopes.uses:
        definition = defined.get(use.name)
        if use.name in known or (definition and use.scope.can_see(definition.scope)):
            continue
        shown = f"{{{{{use.name}}}}}" if use.is_slot else repr(use.name[:64])
        path = author_path(use.path, paths)
        if definition is not None:
            message = f"{shown} is inside of {definition.scope.owner!r} and cannot be seen here"
            hint = f"use {definition.scope.owner!r}, whose value is its result"
            found.add(path, f"{message}; {hint}", "not_visible")
            continue
        if ANY_NAME in known:
            continue
        near = [d.name for d in scopes.definitions if use.scope.can_see(d.scope)]
        hint = found.suggest(use.name, near, kinds="inputs, params and operators")
        found.add(path, f"{shown} is nothing in this plan; {hint}", "unknown_reference")


def check_unique(scopes: Scopes, paths: Mapping[str, str], found: Findings) -> None:
    """A fault for every name that is defined twice."""
    first: dict[str, Definition] = {}
    for definition in scopes.definitions:
        other = first.setdefault(definition.name, definition)
        if other is definition:
            continue
        kind = other.path.split(".")[1]
        at_top = other.scope.parent is None and definition.scope.parent is None
        where = kind if at_top else author_path(other.path, paths)
        found.add(
            author_path(definition.path, paths),
            f"the name is already in {where}; names are shared, choose another",
            "duplicate_name",
        )
