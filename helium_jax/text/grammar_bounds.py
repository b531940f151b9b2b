"""Bounds on a grammar's source that keep compiling it short, where llguidance has none.

Found by trying: time grows exponentially with the string constraints that one value must meet
together, and long literals make each step slow.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from helium_jax.text.grammar_spec import GrammarKind, GrammarSpec, wrong_grammar

MAX_REGEX_BYTES = 16 * 1024
MAX_LARK_BYTES = 32 * 1024
MAX_LARK_INTERSECTIONS = 32
MAX_LITERAL_CHARS = 8 * 1024
# Patterns and formats for one value; ten take 10 ms to combine, fourteen 300.
MAX_TOGETHER = 8

_INLINE_SCHEMA = re.compile(r"%json\s*")
_DATA = ("const", "enum", "default", "examples")  # what they hold is no schema


def check_bounds(spec: GrammarSpec) -> None:
    """Refuses what would take long to compile or to follow.

    Raises:
        RequestError: names the bound.
    """
    if spec.kind is GrammarKind.REGEX:
        _check_size(spec.source, MAX_REGEX_BYTES)
    elif spec.kind is GrammarKind.LARK:
        _check_lark(spec.source)
    elif spec.kind is GrammarKind.PARTS:
        parts = json.loads(spec.source)
        _check_lark(parts["lark"])
        for schema in parts["schemas"].values():
            _check_document(schema)
    elif spec.kind in (GrammarKind.CHOICE, GrammarKind.JSON_SCHEMA):
        _check_document(json.loads(spec.source))


def _check_lark(source: str) -> None:
    _check_size(source, MAX_LARK_BYTES)
    if (count := source.count("&")) > MAX_LARK_INTERSECTIONS:
        raise wrong_grammar(
            f"it has {count} signs '&'; at most {MAX_LARK_INTERSECTIONS} are possible"
        )

    for place in _INLINE_SCHEMA.finditer(source):
        try:
            schema, _ = json.JSONDecoder(strict=False).raw_decode(source, place.end())
        except (ValueError, RecursionError):
            raise wrong_grammar("what follows '%json' is no JSON Schema") from None
        _check_document(schema)


def _check_document(document: Any) -> None:
    for text in _texts(document):
        if len(text) > MAX_LITERAL_CHARS:
            raise wrong_grammar(
                f"it has a text of {len(text)} characters, {text[:20]!r}...; at most "
                f"{MAX_LITERAL_CHARS} are possible"
            )
    _check_together(document)


def _check_size(source: str, most: int) -> None:
    size = len(source.encode("utf-8"))
    if size > most:
        raise wrong_grammar(f"it has {size} bytes; at most {most} are possible")


def _texts(document: Any) -> Iterator[str]:
    """Every text in a JSON document, names included."""
    todo = [document]
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, dict):
            todo += value.keys()
            todo += value.values()


def _check_together(root: Any) -> None:
    """Refuses schemas whose values must meet too many patterns and formats at once."""
    counts: dict[int, int] = {}
    todo = [root]
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += value
        elif isinstance(value, dict):
            todo += (inner for key, inner in value.items() if key not in _DATA)
            try:
                count = _count_together(value, root, counts)
            except RecursionError:
                raise wrong_grammar("its references refer to each other too deeply") from None
            if count > MAX_TOGETHER:
                raise wrong_grammar(
                    f"one value must meet {count} patterns and formats at once; at most "
                    f"{MAX_TOGETHER} are possible"
                )


def _count_together(schema: Any, root: Any, counts: dict[int, int]) -> int:
    """The patterns and formats that one value must meet at most; `counts` remembers by identity."""
    if not isinstance(schema, dict):
        return 0
    if id(schema) in counts:
        return counts[id(schema)]
    counts[id(schema)] = 0  # a schema that leads to itself adds nothing new
    count = ("pattern" in schema) + ("format" in schema)
    for key in ("allOf", "anyOf", "oneOf"):
        if isinstance(parts := schema.get(key), list):
            combine = sum if key == "allOf" else max
            count += combine([_count_together(part, root, counts) for part in parts] or [0])
    if isinstance(reference := schema.get("$ref"), str):
        count += _count_together(_resolve(root, reference), root, counts)
    counts[id(schema)] = count
    return count


def _resolve(root: Any, reference: str) -> Any:
    """What a JSON pointer within the schema refers to."""
    if not reference.startswith("#") or reference[1:2] not in ("", "/"):
        raise wrong_grammar(f"$ref {reference!r} leads elsewhere; refer to parts by '#/$defs/name'")
    found = root
    for step in reference[2:].split("/") if len(reference) > 1 else ():
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise wrong_grammar(f"$ref {reference!r} refers to nothing")
    return found
