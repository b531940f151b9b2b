r"""The text of a formula becomes a tree. The grammar, loosest first:

    or:       and ("or" and)*
    and:      not ("and" not)*
    not:      "not" not | compare
    compare:  step (("==" | "!=" | "<" | "<=" | ">" | ">=") step)?
    step:     atom ("." word | "[" text or whole number "]")*
    atom:     function "(" or ("," or)* ")" | name | "{{name}}" | text | number
              | true | false | null | "(" or ")"

Texts stand in single or double quotes, with the escapes of JSON and \'. A name is that of a node,
so it may hold - and /.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from helium_jax.plan.formula_functions import FUNCTIONS, compile_regex
from helium_jax.plan.formula_tree import (
    COMPARISONS,
    RESERVED,
    Call,
    Compare,
    Constant,
    Logic,
    Name,
    Not,
    Step,
    Tree,
)
from helium_jax.plan.formula_values import FormulaError
from helium_jax.plan.template import PATH_PATTERN

MAX_FORMULA_CHARS = 4_000
MAX_FORMULA_DEPTH = 32
MAX_FORMULA_INDEX = 10**6

_TOKEN = re.compile(
    rf"""[ \t\r\n]*(?:
      (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    | (?P<number>-?(?:[0-9]+(?:\.[0-9]+)?)(?:[eE][+-]?[0-9]{{1,3}})?)
    | \{{\{{[ \t]*(?P<slot>{PATH_PATTERN})[ \t]*\}}\}}
    | (?P<word>{PATH_PATTERN})
    | (?P<sign>==|!=|<=|>=|[<>()\[\],.])
    )""",
    re.VERBOSE | re.DOTALL,
)
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "/": "/"} | {
    sign: sign for sign in "\\'\""
}
_SIGN_HINTS = {
    "=": "write == to compare",
    "&": "write and",
    "|": "write or",
    "!": "write not, or !=",
    "+": "there is no arithmetic; use a template or concat operator",
    "*": "there is no arithmetic",
    "'": "the text has no closing quote",
    '"': "the text has no closing quote",
}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # text, number, slot, word, sign or end
    value: str
    position: int


def parse_tree(source: str, *, max_chars: int | None = MAX_FORMULA_CHARS) -> Tree:
    """The tree of a formula.

    Raises:
        FormulaError: it is none, or is too long or too deep.
    """
    if max_chars is not None and len(source) > max_chars:
        message = f"the formula has {len(source)} characters; at most {max_chars} are allowed"
        raise FormulaError(message, 0)
    return _Parser(source).parse()


class _Parser:
    """Reads one formula from left to right."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._end = 0  # of the current token
        self._depth = 0
        self._token = self._next_token()

    def parse(self) -> Tree:
        tree = self._or()
        if self._token.kind != "end":
            self._refuse("the formula should end before", "; join conditions with and, or")
        return tree

    def _or(self) -> Tree:
        self._depth += 1
        if self._depth > MAX_FORMULA_DEPTH:
            message = f"the formula is nested more than {MAX_FORMULA_DEPTH} deep"
            raise FormulaError(message, self._token.position)
        tree = self._chain("or", self._and)
        self._depth -= 1
        return tree

    def _and(self) -> Tree:
        return self._chain("and", self._not)

    def _chain(self, word: str, operand: Callable[[], Tree]) -> Tree:
        position = self._token.position
        operands = [operand()]
        while self._take("word", word):
            operands.append(operand())
        if len(operands) == 1:
            return operands[0]
        connective = "and" if word == "and" else "or"
        return Logic(operator=connective, operands=tuple(operands), position=position)

    def _not(self) -> Tree:
        position = self._token.position
        if not self._take("word", "not"):
            return self._compare()
        self._depth += 1
        if self._depth > MAX_FORMULA_DEPTH:
            message = f"the formula is nested more than {MAX_FORMULA_DEPTH} deep"
            raise FormulaError(message, position)
        operand = self._not()
        self._depth -= 1
        return Not(operand=operand, position=position)

    def _compare(self) -> Tree:
        left = self._step()
        for sign in COMPARISONS:
            position = self._token.position
            if self._take("sign", sign):
                return Compare(operator=sign, left=left, right=self._step(), position=position)
        return left

    def _step(self) -> Tree:
        tree = self._atom()
        steps = 0
        while True:
            position = self._token.position
            if self._take("sign", "."):
                tree = Step(base=tree, key=self._field(), position=position)
            elif self._take("sign", "["):
                tree = Step(base=tree, key=self._key(), position=position)
                self._expect("]")
            else:
                return tree
            steps += 1
            if steps > MAX_FORMULA_DEPTH:
                message = f"the formula takes more than {MAX_FORMULA_DEPTH} steps in a row"
                raise FormulaError(message, position)

    def _field(self) -> str:
        token = self._token
        if token.kind != "word" or _FIELD.fullmatch(token.value) is None:
            self._refuse("a field's name should stand before", """; or write ["the name"]""")
        self._token = self._next_token()
        return token.value

    def _key(self) -> str | int:
        token = self._token
        if token.kind == "text":
            self._token = self._next_token()
            return _unquote(token)
        try:
            index = int(token.value)
        except ValueError:
            self._refuse("a whole number or a quoted name should stand before", "")
        if abs(index) > MAX_FORMULA_INDEX:
            raise FormulaError(f"the index {index} is too large", token.position)
        self._token = self._next_token()
        return index

    def _atom(self) -> Tree:
        token = self._token
        position = token.position
        if self._take("sign", "("):
            tree = self._or()
            self._expect(")")
            return tree
        if token.kind not in ("text", "number", "slot", "word"):
            self._refuse("a value should stand before", "; formulas look like len(name) > 3")
        if token.kind == "word" and token.value in ("and", "or", "not"):
            self._refuse("a value should stand before", f"; a node is {{{{{token.value}}}}}")
        self._token = self._next_token()
        match token.kind:
            case "text":
                return Constant(value=_unquote(token), position=position)
            case "number":
                return Constant(value=_number(token), position=position)
            case "slot":
                return Name(name=token.value, position=position)
        if token.value in RESERVED:
            return Constant(value=_WORDS[token.value], position=position)
        if self._take("sign", "("):
            return self._call(token)
        return Name(name=token.value, position=position)

    def _call(self, token: _Token) -> Tree:
        function = FUNCTIONS.get(token.value)
        if function is None:
            near = difflib.get_close_matches(token.value, FUNCTIONS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FUNCTIONS)}"
            raise FormulaError(f"{token.value[:40]!r} is no function; {hint}", token.position)
        args = []
        if not self._take("sign", ")"):
            args.append(self._or())
            while self._take("sign", ","):
                args.append(self._or())
            self._expect(")")
        if not function.least <= len(args) <= function.most:
            message = f"{token.value} has {len(args)} arguments; write {function.usage}"
            raise FormulaError(message, token.position)
        if function.regex_arg is not None:
            regex = args[function.regex_arg]
            if not isinstance(regex, Constant) or not isinstance(regex.value, str):
                message = f"the regex must be a quoted text; write {function.usage}"
                raise FormulaError(message, regex.position)
            compile_regex(regex.value, regex.position)
        return Call(function=token.value, args=tuple(args), position=token.position)

    def _take(self, kind: str, value: str) -> bool:
        if self._token.kind != kind or self._token.value != value:
            return False
        self._token = self._next_token()
        return True

    def _expect(self, sign: str) -> None:
        if not self._take("sign", sign):
            self._refuse(f"a {sign} should stand before", "")

    def _refuse(self, what: str, hint: str) -> NoReturn:
        token = self._token
        here = "the end" if token.kind == "end" else repr(token.value[:20])
        raise FormulaError(f"{what} {here}{hint}", token.position)

    def _next_token(self) -> _Token:
        found = _TOKEN.match(self._source, self._end)
        if found is not None and found.lastgroup is not None:
            self._end = found.end()
            kind = found.lastgroup
            start = found.start(kind) - (2 if kind == "slot" else 0)
            return _Token(kind, found[kind], start)
        rest = self._source[self._end :]
        position = self._end + len(rest) - len(rest.lstrip(" \t\r\n"))
        if position == len(self._source):
            return _Token("end", "", position)
        sign = self._source[position]
        hint = _SIGN_HINTS.get(sign, "quote texts, and write names as they are")
        raise FormulaError(f"{sign!r} is not part of any formula; {hint}", position)


_WORDS = {"true": True, "false": False, "null": None}


def _number(token: _Token) -> int | float:
    if token.value.lstrip("-").isdigit():
        if len(token.value) > 18:
            raise FormulaError("the number has too many digits", token.position)
        return int(token.value)
    number = float(token.value)
    if abs(number) > 1e300:
        raise FormulaError("the number is too large", token.position)
    return number


def _unquote(token: _Token) -> str:
    def unescape(found: re.Match[str]) -> str:
        escape = found[1]
        if len(escape) == 5:
            return chr(int(escape[1:], 16))
        if escape not in _ESCAPES:
            message = f"\\{escape} is no escape; write \\\\ for a backslash"
            raise FormulaError(message, token.position + 1 + found.start())
        return _ESCAPES[escape]

    text = _ESCAPE.sub(unescape, token.value[1:-1])
    try:
        # Escaped surrogates come in pairs that are one character.
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        message = "the text has a lone surrogate; write valid Unicode"
        raise FormulaError(message, token.position) from None
