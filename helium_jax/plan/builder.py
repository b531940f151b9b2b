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

The bodies of branches, loops, maps and races are Python functions. They are called once, while the
plan is written, with the builder and with expressions for what they are given:

    better = builder.loop(
        count=3,
        carry={"draft": first},
        body=lambda b, draft: {"draft": b.chat(user="Improve this: " + draft)},
    )
    answer = builder.branch(
        builder.formula("contains(verdict, 'yes')", verdict=judge),
        then=lambda b: b.chat(user="Mend this: " + better),
        otherwise=lambda b: better,
    )
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from helium_jax.plan.control import ReduceKind
from helium_jax.plan.expression import Expression, TextLike, parts_of
from helium_jax.plan.formula import Formula, parse_formula, rename_formula
from helium_jax.plan.limits import OnRowError
from helium_jax.plan.nodes import Function, Role, SliceUnit, Value, ValueType, ViewKind
from helium_jax.plan.plan import Plan
from helium_jax.plan.recording import Recording, subplan_document
from helium_jax.plan.settings import Settings
from helium_jax.plan.template import Slot, Text, format_template, normalize, parse_template
from helium_jax.plan.wire import plan_from_document

FormulaLike = str | Formula
MakeBody = Callable[..., TextLike]
MakeNext = Callable[..., TextLike | Mapping[str, TextLike]]


class PlanBuilder:
    """Records nodes under names; `build` checks them all at once.

    Every name that is not given is made from the operator's type and a number.
    """

    def __init__(self, name: str = "") -> None:
        self._recording = Recording(name)

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
        history: Expression | None = None,
        name: str | None = None,
        **settings: Unpack[Settings],
    ) -> Expression:
        """A call with a system and a user message, or with (role, text) pairs.

        Args:
            history: a chat whose conversation and answer come before these messages.
        """
        fields: dict[str, Any] = {"type": "llm.chat"}
        if history is not None:
            fields["history"] = self._name(history)
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

    def formula(self, source: str, **values: TextLike) -> Formula:
        """A condition, list or score over expressions; see `helium_jax.plan.formula`.

        Names that `values` lacks mean the nodes of those names. A joined text becomes a template.

        Raises:
            FormulaError: it is no formula.
            TypeError: a value is not used.
        """
        formula = parse_formula(source)
        unused = values.keys() - set(formula.names)
        if unused:
            raise TypeError(f"the names are {sorted(formula.names)}, not {sorted(unused)}")
        return rename_formula(formula, {key: self._name(value) for key, value in values.items()})

    def slice(
        self,
        source: TextLike,
        start: int | None = None,
        stop: int | None = None,
        *,
        unit: SliceUnit = "chars",
        name: str | None = None,
    ) -> Expression:
        """A part of a text, with Python's rules for `start` and `stop`."""
        fields = {"type": "slice", "source": self._name(source), "unit": unit}
        return self._record("ops", name, fields | {"start": start, "stop": stop})

    def concat(
        self, sources: Sequence[TextLike], *, separator: str = "", name: str | None = None
    ) -> Expression:
        """Texts one after another."""
        names = [self._name(source) for source in sources]
        fields = {"type": "concat", "sources": names, "separator": separator}
        return self._record("ops", name, fields)

    def view(self, call: Expression, kind: ViewKind, *, name: str | None = None) -> Expression:
        """Another look at a call: its history, its last message, or its prompt and answer."""
        return self._record("ops", name, {"type": "view", "source": self._name(call), "kind": kind})

    def apply(
        self,
        call: Callable[..., str],
        *args: TextLike,
        is_pure: bool = False,
        function_name: str | None = None,
        name: str | None = None,
    ) -> Expression:
        """A Python function of texts, called with each row's; such a plan cannot become a file.

        Args:
            is_pure: equal texts give an equal text, so that equal calls may be made once.
            function_name: stands for the function; its own name by default.
        """
        named = function_name or getattr(call, "__name__", type(call).__name__)
        function = Function(name=named, call=call, is_pure=is_pure)
        names = [self._name(arg) for arg in args]
        return self._record("ops", name, {"type": "lambda", "function": function, "args": names})

    def branch(
        self,
        condition: FormulaLike,
        *,
        then: MakeBody,
        otherwise: MakeBody | None = None,
        name: str | None = None,
    ) -> Expression:
        """`then(builder)` for rows of which the condition is true, else `otherwise(builder)`."""
        fields = {"type": "branch", "if": _source(condition), "then": self._body(then)}
        if otherwise is not None:
            fields["else"] = self._body(otherwise)
        return self._record("ops", name, fields)

    def loop(
        self,
        *,
        body: MakeNext,
        carry: Mapping[str, TextLike],
        count: int | Expression | None = None,
        condition: str | Callable[..., FormulaLike] | None = None,
        max_iterations: int | None = None,
        result: str | None = None,
        name: str | None = None,
    ) -> Expression:
        """`body(builder, **carried)` again and again; it gives what the next iteration gets.

        Args:
            body: gets an expression for every carried name and gives a mapping with the next value
                of each, or the one next value if there is only one.
            carry: the values of the first iteration.
            count: iterations, or an int parameter; or else
            condition: goes on while it is true: a formula in which the names of `carry` are the
                carried values, or a function like `body` that gives a formula.
            max_iterations: of a condition, or of a parameter without a maximum.
            result: the carried name whose last value the loop has; the first by default.

        Raises:
            TypeError: nothing is carried, or the body gives other names.
        """
        if not carry:
            raise TypeError("a loop needs something to carry, such as carry={'draft': first}")
        initial = {key: self._name(value) for key, value in carry.items()}
        names = {key: self._recording.claim_bound(key) for key in carry}
        with self._recording.body() as ops:
            given = body(self, **{key: self._slot(one) for key, one in names.items()})
            if not isinstance(given, Mapping):
                given = {next(iter(carry)): given} if len(carry) == 1 else {}
            if given.keys() != carry.keys():
                raise TypeError(f"the body must give {sorted(carry)}, not {sorted(given)}")
            nexts = {key: self._name(given[key]) for key in carry}
        if result is not None and result not in carry:
            raise TypeError(f"the result is a carried name, {sorted(carry)}, not {result!r}")
        fields: dict[str, Any] = {
            "type": "loop",
            "carry": {names[k]: {"from": initial[k], "next": nexts[k]} for k in carry},
            "count": self._name(count) if isinstance(count, Expression) else count,
            "max_iterations": max_iterations,
            "body": {"ops": ops, "result": names[result or next(iter(carry))]},
        }
        if isinstance(condition, str):
            fields["while"] = rename_formula(parse_formula(condition), names).source
        elif condition is not None:
            given = {key: self._slot(one) for key, one in names.items()}
            fields["while"] = _source(condition(self, **given))
        return self._record("ops", name, fields)

    def map(
        self,
        over: FormulaLike,
        body: MakeBody,
        *,
        max_items: int,
        item: str = "item",
        reduce: ReduceKind = "concat",
        separator: str | None = None,
        score: FormulaLike | None = None,
        name: str | None = None,
    ) -> Expression:
        """`body(builder, item)` for every item of a list, such as "lines(plan)".

        Args:
            reduce, separator, score: how the results become one text: joined by a separator, by
                vote, or the one with the best score, a formula over `value`.
        """
        bound = self._recording.claim_bound(item)
        fields: dict[str, Any] = {"type": "map", "over": _source(over), "as": bound}
        fields |= {"max_items": max_items, "body": self._body(body, self._slot(bound))}
        return self._record("ops", name, fields | {"reduce": _reduce(reduce, separator, score)})

    def race(
        self,
        arms: Sequence[MakeBody],
        *,
        k: int = 1,
        reduce: ReduceKind = "concat",
        separator: str | None = None,
        score: FormulaLike | None = None,
        name: str | None = None,
    ) -> Expression:
        """`arm(builder)` of each arm; the first `k` to finish count, the others are cancelled."""
        fields: dict[str, Any] = {"type": "race", "arms": [self._body(arm) for arm in arms], "k": k}
        return self._record("ops", name, fields | {"reduce": _reduce(reduce, separator, score)})

    def subplan(
        self,
        plan: Plan,
        *,
        inputs: Mapping[str, TextLike],
        params: Mapping[str, Value | Expression] | None = None,
        name: str | None = None,
    ) -> dict[str, Expression]:
        """The outputs of another plan over expressions of this one.

        Its nodes become nodes of this plan, named `name/...`; its limits do not count.

        Args:
            params: values, or parameters of this plan.
        """
        bound = {
            key: {"param": self._name(value)} if isinstance(value, Expression) else value
            for key, value in (params or {}).items()
        }
        fields = {
            "type": "plan",
            "plan": subplan_document(plan),
            "inputs": {key: self._name(value) for key, value in inputs.items()},
            "params": bound,
        }
        made = self._recording.record("ops", name, fields)
        return {one.name: self._slot(f"{made}/{one.name}") for one in plan.outputs}

    def output(self, name: str, value: Expression) -> None:
        """Marks a value as a result; a joined text becomes a template first."""
        self.parts(value)
        source = self._name(value)
        self._recording.claim("outputs", name)
        self._recording.document["outputs"][name] = source

    def limit(
        self,
        *,
        max_llm_calls: int | None = None,
        max_total_tokens: int | None = None,
        timeout: float | str | None = None,
        on_row_error: OnRowError | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        """Sets what one run may spend; a timeout is seconds or a text like "15m"."""
        fields = {
            "max_llm_calls": max_llm_calls,
            "max_total_tokens": max_total_tokens,
            "timeout": timeout,
            "on_row_error": on_row_error,
            "max_concurrency": max_concurrency,
        }
        self._recording.document["limits"] |= {k: v for k, v in fields.items() if v is not None}

    def build(self) -> Plan:
        """The plan.

        Raises:
            PlanError: names every fault, as for a plan file.
        """
        plan, _ = plan_from_document(self._recording.document)
        return plan

    def parts(self, text: TextLike) -> Text:
        """The literals and slots of a string or of this builder's expression.

        Raises:
            TypeError: it is neither, or belongs to another builder.
        """
        return parts_of(text, self)

    def _source(self, text: TextLike) -> str:
        return format_template(normalize(self.parts(text)))

    def _name(self, text: TextLike) -> str:
        """The name of an expression; a text that has none yet becomes a template."""
        parts = self.parts(text)
        if len(parts) == 1 and isinstance(parts[0], Slot):
            return parts[0].name
        return self._recording.record(
            "ops", None, {"type": "template", "template": self._source(text)}
        )

    def _slot(self, name: str) -> Expression:
        return Expression((Slot(name=name),), self)

    def _body(self, make: MakeBody, *args: Expression) -> dict[str, Any]:
        with self._recording.body() as ops:
            result = self._name(make(self, *args))
        return {"ops": ops, "result": result}

    def _record(self, kind: str, name: str | None, fields: Mapping[str, Any]) -> Expression:
        return self._slot(self._recording.record(kind, name, fields))


def _source(formula: FormulaLike) -> str:
    return formula if isinstance(formula, str) else formula.source


def _reduce(
    kind: ReduceKind, separator: str | None, score: FormulaLike | None
) -> dict[str, str | None]:
    source = None if score is None else _source(score)
    return {"type": kind, "separator": separator, "score": source}
