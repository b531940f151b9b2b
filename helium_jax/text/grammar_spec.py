"""What an answer must look like, as a value: kind and source of a grammar, checked for size."""

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helium_jax.errors import RequestError

# OpenAI takes schemas of 120,000 characters; compiling this much takes about a second.
MAX_SOURCE_BYTES = 128 * 1024
MAX_DEPTH = 64
MAX_CHOICES = 1_000


class GrammarKind(enum.StrEnum):
    """Which language a grammar's source is written in."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    CHOICE = "choice"
    LARK = "lark"
    PARTS = "parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarSpec:
    """What an answer must look like; made by the functions below it, compiled by `text.grammar`.

    Equal specs allow the same answers; a spec is part of the keys under which answers are kept.

    Attributes:
        kind: the language of the source.
        source: canonical text: the schema as JSON without spaces (the order of its properties
            counts, for answers follow it), nothing for JSON_OBJECT, the expression, the choices as
            a JSON list, the Lark grammar; for PARTS a JSON object with the `lark` and the `schemas`
            it refers to.
    """

    kind: GrammarKind
    source: str = ""

    @classmethod
    def of_json_schema(cls, schema: Mapping[str, Any] | bool) -> "GrammarSpec":
        """JSON that a JSON Schema describes.

        Raises:
            RequestError: it is no JSON, too long or too deep.
        """
        _check_depth(schema)
        return _checked(GrammarKind.JSON_SCHEMA, _to_json(schema))

    @classmethod
    def of_json_object(cls) -> "GrammarSpec":
        """Any JSON object."""
        return cls(kind=GrammarKind.JSON_OBJECT)

    @classmethod
    def of_regex(cls, pattern: str) -> "GrammarSpec":
        """Texts that the whole of a regular expression matches (Rust's syntax, no look-around).

        Raises:
            RequestError: it is empty, too long or no Unicode.
        """
        return _checked(GrammarKind.REGEX, pattern)

    @classmethod
    def of_choice(cls, choices: Sequence[str]) -> "GrammarSpec":
        """One of several texts, literally.

        Raises:
            RequestError: none, too many, an empty or a repeated one, or no Unicode.
        """
        if not 1 <= len(choices) <= MAX_CHOICES:
            raise wrong_grammar(
                f"{len(choices)} choices are given; 1 to {MAX_CHOICES} are possible"
            )
        for place, choice in enumerate(choices):
            if not isinstance(choice, str) or not choice:
                raise wrong_grammar(f"choice {place} is {choice!r}; a choice is a text of its own")
        if len(set(choices)) < len(choices):
            twice = next(c for place, c in enumerate(choices) if c in choices[:place])
            raise wrong_grammar(f"the choice {twice!r} is given twice")
        return _checked(GrammarKind.CHOICE, _to_json(list(choices)))

    @classmethod
    def of_lark(cls, source: str) -> "GrammarSpec":
        """Texts that a grammar in llguidance's dialect of Lark derives from its rule `start`.

        Raises:
            RequestError: it is empty, too long or no Unicode.
        """
        return _checked(GrammarKind.LARK, source)

    @classmethod
    def of_parts(cls, lark: str, schemas: Mapping[str, Mapping[str, Any]]) -> "GrammarSpec":
        """Texts that a Lark grammar derives which refers to JSON Schemas as `@name`.

        Each schema may say under "x-guidance" how its JSON is spaced.

        Raises:
            RequestError: a schema is no JSON or too deep, or all is too long or no Unicode.
        """
        for schema in schemas.values():
            _check_depth(schema)
        return _checked(GrammarKind.PARTS, _to_json({"lark": lark, "schemas": dict(schemas)}))


def _checked(kind: GrammarKind, source: str) -> GrammarSpec:
    if not source:
        raise wrong_grammar(f"the {kind} is empty")
    try:
        size = len(source.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise wrong_grammar(
            f"the {kind} has the lone surrogate U+{ord(source[error.start]):04X}; "
            "send valid Unicode"
        ) from None
    if size > MAX_SOURCE_BYTES:
        raise wrong_grammar(f"the {kind} has {size} bytes; at most {MAX_SOURCE_BYTES} are possible")
    return GrammarSpec(kind=kind, source=source)


def _to_json(value: object) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise wrong_grammar(f"it is no JSON: {error}") from None


def _check_depth(schema: object) -> None:
    """Level by level, because the depth is what recursion could not survive."""
    level, depth = [schema], 0
    while level:
        if depth > MAX_DEPTH:
            raise wrong_grammar(f"the json_schema is nested deeper than {MAX_DEPTH} levels")
        inner: list[object] = []
        for value in level:
            if isinstance(value, Mapping):
                inner += value.values()
            elif isinstance(value, list | tuple):
                inner += value
        level, depth = inner, depth + 1


def wrong_grammar(message: str) -> RequestError:
    """The error for a grammar that cannot be used; `message` says why."""
    return RequestError(message, code="invalid_grammar")
