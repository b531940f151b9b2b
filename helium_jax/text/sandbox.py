"""A Jinja sandbox with limits on time and size, which Jinja's own does not have.

Jinja's sandbox keeps a template away from Python; it does not stop 'a' * 10**9 or three nested
loops. Here every loop turn and every call looks at the clock, and everything that can make a text
much longer than its parts is checked before it is done.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sized
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

_TICK, _JOIN = "_helium_tick", "_helium_join"
_WIDTH = re.compile(r"\d{5,}|%[-+ #0]*\*")  # a field of ten thousand or more, or of any width
_MAX_INT_ARGUMENT = 10_000
_MAX_EXPONENT = 64


class LimitError(TemplateError):
    """A template took too long or made too much text."""


class GenerationTag(Extension):
    """`{% generation %}`: marks what a model is trained on; here only its content counts."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja as Hugging Face sets it up, with limits.

    A rendering begins with `start_clock`; each thread has a clock of its own.
    """

    intercepted_binops = frozenset(("*", "**", "%", "+"))

    def __init__(self, *, max_chars: int, max_seconds: float) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
        )
        self._max_chars = max_chars
        self._max_seconds = max_seconds
        self._clock = _Clock()
        self.globals |= {_TICK: self.check_clock, _JOIN: self._join}
        for name, filter_function in list(self.filters.items()):
            self.filters[name] = self._limited(name, filter_function)

    def start_clock(self) -> None:
        self._clock.deadline = time.monotonic() + self._max_seconds

    def check_clock(self) -> None:
        if time.monotonic() > self._clock.deadline:
            raise LimitError(f"it took more than {self._max_seconds} seconds")

    def check_size(self, size: int) -> None:
        if size > self._max_chars:
            raise LimitError(f"it made more than {self._max_chars} characters")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _AddChecks().visit(super()._parse(source, name, filename))

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Jinja passes itself, its context, the function and the template's arguments."""
        self.check_clock()
        called = getattr(args[1], "__wrapped__", args[1])  # Jinja wraps str.format
        name = getattr(called, "__name__", "")
        owner = getattr(called, "__self__", None)
        parts = (owner, *args[2:]) if isinstance(owner, str) else args[2:]
        self._check_arguments(name, parts, kwargs)
        return super().call(*args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.check_clock()
        if operator == "**" and (abs(right) > _MAX_EXPONENT or abs(left) > 2**_MAX_EXPONENT):
            self._refuse(f"{left} ** {right}")
        for one, other in ((left, right), (right, left)):
            if operator == "*" and isinstance(one, str | list | tuple) and isinstance(other, int):
                self.check_size(len(one) * other)
        if operator == "*" and isinstance(left, int) and isinstance(right, int):
            self.check_size(left.bit_length() + right.bit_length())
        if operator == "+" and isinstance(left, str | list) and isinstance(right, str | list):
            self.check_size(len(left) + len(right))
        if operator == "%" and isinstance(left, str):
            self._check_format(left, right if isinstance(right, tuple) else (right,))
        return super().call_binop(context, operator, left, right)

    def _limited(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The filter, looked over before it runs; keeps the marks Jinja put on the function."""

        def checked(*args: Any, **kwargs: Any) -> Any:
            self.check_clock()
            self._check_arguments(name, args, kwargs)
            return function(*args, **kwargs)

        checked.__dict__.update(getattr(function, "__dict__", {}))
        return checked

    def _check_arguments(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = (*args, *kwargs.values())
        if name == "safe_range":
            return  # Jinja limits it
        for value in values:
            if type(value) is int and abs(value) > _MAX_INT_ARGUMENT and name != "tojson":
                self._refuse(f"{name} with {value}")
        texts = [value for value in values if isinstance(value, str)]
        if name == "format" and texts:
            self._check_format(texts[0], values)
        if name == "replace" and len(texts) > 2:
            self.check_size(len(texts[0]) + (len(texts[0]) + 1) * len(texts[2]))
        if name == "join":
            self._check_join(values)
        if name in ("indent", "wordwrap", "expandtabs") and texts:
            widths = [len(v) if isinstance(v, str) else v for v in values[1:]]
            widest = max((w for w in widths if type(w) is int), default=8)
            self.check_size(len(texts[0]) * (widest + 1))

    def _check_join(self, values: tuple[Any, ...]) -> None:
        total = 0
        separator = max((len(v) for v in values if isinstance(v, str)), default=0)
        for value in values:
            if isinstance(value, list | tuple | Mapping):
                for item in value:
                    total += separator + (len(item) if isinstance(item, str | list | dict) else 32)
        self.check_size(total)

    def _check_format(self, form: str, values: tuple[Any, ...]) -> None:
        if _WIDTH.search(form):
            self._refuse("a format string with a wide field")
        sizes = sum(len(value) for value in values if isinstance(value, Sized))
        self.check_size(len(form) + sizes * (form.count("%") + form.count("{") + 1))

    def _join(self, *parts: Any) -> str:
        self.check_clock()
        texts = [str(part) for part in parts]
        self.check_size(sum(map(len, texts)))
        return "".join(texts)

    def _refuse(self, what: str) -> NoReturn:
        raise SecurityError(f"{what[:80]} is not allowed in a chat template")


class _Clock(threading.local):
    """When this thread's rendering must be done."""

    deadline: float = 0.0


class _AddChecks(NodeTransformer):
    """Puts a look at the clock into every loop, and makes `~` a call that checks its size."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        tick = nodes.ExprStmt(_call(_TICK, []), lineno=node.lineno)
        node.body.insert(0, tick)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call(_JOIN, node.nodes).set_lineno(node.lineno)


def _call(name: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.Name(name, "load"), arguments, [], None, None)
