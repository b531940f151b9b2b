"""The document that a builder writes: its names, and the body that is being written."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from helium_jax.errors import PlanError, Problem
from helium_jax.plan.nodes import Function
from helium_jax.plan.plan import Plan
from helium_jax.plan.writing import VERSION


class Recording:
    """A plan document that grows; good for one builder.

    Attributes:
        document: as `plan_from_document` reads it.
    """

    def __init__(self, name: str) -> None:
        self.document: dict[str, Any] = {
            "version": VERSION,
            "name": name,
            "inputs": {},
            "params": {},
            "ops": {},
            "outputs": {},
            "limits": {},
        }
        self._kinds: dict[str, str] = {}  # of every name but those of outputs
        self._num_ops = 0
        self._scopes: list[dict[str, Any]] = [self.document["ops"]]

    def record(self, kind: str, name: str | None, fields: Mapping[str, Any]) -> str:
        """Writes a node under `name`, or under one made from its type and a number.

        Raises:
            PlanError: the name is taken: recording over it would lose a node.
        """
        if name is None:
            name = self._new_name(fields["type"].rpartition(".")[2])
        self.claim(kind, name)
        place = self._scopes[-1] if kind == "ops" else self.document[kind]
        place[name] = dict(fields)
        return name

    def claim(self, kind: str, name: str) -> None:
        """Takes a name.

        Raises:
            PlanError: it is taken.
        """
        if kind == "outputs":
            other = "outputs" if name in self.document["outputs"] else None
        else:
            other = self._kinds.get(name)
            self._kinds.setdefault(name, kind)
            self._num_ops += kind == "ops"
        if other is not None:
            message = f"the name {name!r} is already in {other}; choose another"
            problem = Problem(path=f"plan.{kind}.{name}", message=message, code="duplicate_name")
            raise PlanError([problem])

    def claim_bound(self, wanted: str) -> str:
        """A name for a carried value or an item: the one wanted, with a number if it is taken."""
        name, number = wanted, 1
        while name in self._kinds:
            number += 1
            name = f"{wanted}_{number}"
        self._kinds[name] = "ops"
        return name

    @contextmanager
    def body(self) -> Iterator[dict[str, Any]]:
        """Writes what is recorded meanwhile into a body of its own, which it gives."""
        ops: dict[str, Any] = {}
        self._scopes.append(ops)
        try:
            yield ops
        finally:
            self._scopes.pop()

    def _new_name(self, stem: str) -> str:
        number = self._num_ops + 1
        while f"{stem}_{number}" in self._kinds:
            number += 1
        return f"{stem}_{number}"


def subplan_document(plan: Plan) -> dict[str, Any]:
    """A plan as the document of an operator of type plan, functions included."""
    document = {key: part for key, part in plan.identity.items() if key not in ("name", "limits")}
    return _with_functions(document, plan.functions)


def _with_functions(value: Any, functions: Mapping[str, Function]) -> Any:
    if isinstance(value, list):
        return [_with_functions(item, functions) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") == "lambda" and value.get("function") in functions:
        return {"type": "lambda", "function": functions[value["function"]], "args": value["args"]}
    return {key: _with_functions(item, functions) for key, item in value.items()}
