"""The lazy Python form of a plan: calling an operator records a node, nothing runs.

    builder = PlanBuilder("debate-qa")
    question = builder.input("question")
    pro = builder.chat(system="You argue FOR.", user=question, max_tokens=128)
    con = builder.chat(system="You argue AGAINST.", user=question, max_tokens=128)
    judge = builder.chat(user="Q: " + question + "\nFOR: " + pro + "\nAGAINST: " + con)
    builder.output("verdict", judge)
    plan = builder.build()

A Python string is always a literal, whatever braces it holds; values are joined to it with `+`, or
named in `fill("FOR: {{pro}}", pro=pro)`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from helium_jax.errors import PlanError, Problem
from helium_jax.plan.limits import OnRowError
from helium_jax.plan.nodes import Role, Value, ValueType
from helium_jax.plan.plan import Plan
from helium_jax.plan.template import Slot, Text, format_template, normalize, parse_template
from helium_jax.plan.wire import plan_from_document
from helium_jax.plan.writing import VERSION


class Settings(TypedDict, total=False):
    """How a model is called: the fields of the plan file, under the same names."""

    temperature: float
    max_tokens: int
    min_tokens: int
    seed: int
    stop: str | list[str]
    stop_token_ids: list[int]
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: dict[str, float]
    ignore_eos: bool
    priority: int
    cache: dict[str, str]


class Expression:
    """A text that will be known when the plan runs; made by a builder, joined with `+`."""

    __slots__ = ("builder", "text")

    def __init__(self, text: Text, builder: "PlanBuilder") -> None:
        self.text = text
        self.builder = builder

    def __add__(self, other: "str | Expression") -> "Expression":
        return Expression(normalize([*self.text, *self.builder.parts(other)]), self.builder)

    def __radd__(self, other: str) -> "Expression":
        return Expression(normalize([other, *self.text]), self.builder)

    def __repr__(self) -> str:
        return f"Expression({format_template(self.text)!r})"

    def __str__(self) -> str:
        raise TypeError(
            "an expression has no text until the plan runs; join it with + instead of an f-string, "
            "or use fill('... {{name}} ...', name=expression)"
        )


TextLike = str | Expression


class PlanBuilder:
    """Records nodes under names; `build` checks them all at once.

    Every name that is not given is made from the operator's type and a number.
    """

    def __init__(self, name: str = "") -> None:
        self._document: dict[str, Any] = {
            "version": VERSION,
            "name": name,
            "inputs": {},
            "params": {},
            "ops": {},
            "outputs": {},
            "limits": {},
        }

    def input(self, name: str, *, type: ValueType = "text") -> Expression:
        """A column: one value per row, given when the plan runs."""
        return self._record("inputs", name, {"type": type})

    def param(
        self,
        name: str,
        *,
        type: ValueType = "text",
        default: Value | None = None,
        min: float | None = None,
        max: float | None = None,
    ) -> Expression:
        """A value per run; without a default every run must give it."""
        fields = {"type": type, "default": default, "min": min, "max": max}
        given = {key: value for key, value in fields.items() if value is not None}
        return self._record("params", name, given)

    def const(self, value: Value | Sequence[Value], *, name: str | None = None) -> Expression:
        """A value for all rows, or a sequence with one value per row."""
        if isinstance(value, str | int | float):
            return self._record("ops", name, {"type": "const", "value": value})
        return self._record("ops", name, {"type": "const", "values": list(value)})

    def template(self, text: TextLike, *, name: str | None = None) -> Expression:
        """A text as an operator of its own, computed once per row."""
        return self._record("ops", name, {"type": "template", "template": self._source(text)})

    def chat(
        self,
        *,
        user: TextLike | None = None,
        system: TextLike | None = None,
        messages: Sequence[tuple[Role, TextLike]] | None = None,
        name: str | None = None,
        **settings: Unpack[Settings],
    ) -> Expression:
        """A call with a system and a user message, or with (role, text) pairs."""
        fields: dict[str, Any] = {"type": "llm.chat"}
        if system is not None:
            fields["system"] = self._source(system)
        if user is not None:
            fields["user"] = self._source(user)
        if messages is not None:
            fields["messages"] = [
                {"role": role, "content": self._source(content)} for role, content in messages
            ]
        return self._record("ops", name, fields | settings)

    def completion(
        self, prompt: TextLike, *, name: str | None = None, **settings: Unpack[Settings]
    ) -> Expression:
        """A call with a bare prompt."""
        fields = {"type": "llm.completion", "prompt": self._source(prompt)}
        return self._record("ops", name, fields | settings)

    def fill(self, template: str, **values: TextLike) -> Expression:
        """`template` with its `{{slots}}` filled by expressions; records nothing.

        Raises:
            TemplateSyntaxError: it is no template.
            TypeError: the slots and `values` are not the same names.
        """
        text = parse_template(template)
        names = {part.name for part in text if isinstance(part, Slot)}
        if names != values.keys():
            raise TypeError(f"the slots are {sorted(names)} but the values {sorted(values)}")
        parts: list[str | Slot] = []
        for part in text:
            parts += self.parts(values[part.name]) if isinstance(part, Slot) else (part,)
        return Expression(normalize(parts), self)

    def output(self, name: str, value: Expression) -> None:
        """Marks a value as a result; a joined text becomes a template first."""
        parts = self.parts(value)
        if len(parts) != 1 or not isinstance(parts[0], Slot):
            parts = self.parts(self.template(value))
        self._claim("outputs", name)
        source = parts[0]
        assert isinstance(source, Slot)
        self._document["outputs"][name] = source.name

    def limit(
        self,
        *,
        max_llm_calls: int | None = None,
        max_total_tokens: int | None = None,
        timeout: float | str | None = None,
        on_row_error: OnRowError | None = None,
    ) -> None:
        """Sets what one run may spend; a timeout is seconds or a text like "15m"."""
        fields = {
            "max_llm_calls": max_llm_calls,
            "max_total_tokens": max_total_tokens,
            "timeout": timeout,
            "on_row_error": on_row_error,
        }
        self._document["limits"] |= {k: v for k, v in fields.items() if v is not None}

    def build(self) -> Plan:
        """The plan.

        Raises:
            PlanError: names every fault, as for a plan file.
        """
        plan, _ = plan_from_document(self._document)
        return plan

    def parts(self, text: TextLike) -> Text:
        """The literals and slots of a string or of this builder's expression.

        Raises:
            TypeError: it is neither, or belongs to another builder.
        """
        if isinstance(text, str):
            return (text,)
        if not isinstance(text, Expression):
            raise TypeError(f"expected a string or an expression, not {type(text).__name__}")
        if text.builder is not self:
            raise TypeError(f"{text!r} belongs to another builder")
        return text.text

    def _source(self, text: TextLike) -> str:
        return format_template(normalize(self.parts(text)))

    def _record(self, kind: str, name: str | None, fields: Mapping[str, Any]) -> Expression:
        if name is None:
            name = self._new_name(fields["type"].rpartition(".")[2])
        self._claim("ops", name)
        self._document[kind][name] = dict(fields)
        return Expression((Slot(name=name),), self)

    def _claim(self, kind: str, name: str) -> None:
        """Refuses a name that is taken: recording over it would lose a node."""
        kinds = ("outputs",) if kind == "outputs" else ("inputs", "params", "ops")
        for other in kinds:
            if name in self._document[other]:
                message = f"the name {name!r} is already in {other}; choose another"
                problem = Problem(
                    path=f"plan.{kind}.{name}", message=message, code="duplicate_name"
                )
                raise PlanError([problem])

    def _new_name(self, stem: str) -> str:
        number = len(self._document["ops"]) + 1
        taken = {name for kind in ("inputs", "params", "ops") for name in self._document[kind]}
        while f"{stem}_{number}" in taken:
            number += 1
        return f"{stem}_{number}"
