"""What of a request's JSON Schema is enforced: all of it, or what can be, and what was left out.

The latter is for schemas that are not `strict`: in the field they say `uniqueItems` or
`"format": "int32"`, and their users would rather have the rest enforced than nothing served.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from helium_jax.errors import RequestError
from helium_jax.text import GrammarSpec
from helium_jax.text.grammar_spec import MAX_SOURCE_BYTES

# What llguidance refuses; the tests hold this list to it.
UNENFORCED = frozenset(
    {
        "contains",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "if",
        "maxContains",
        "maxProperties",
        "minContains",
        "minProperties",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
        "uniqueItems",
    }
)
FORMATS = frozenset(
    {
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "time",
        "unknown",
        "uri",
        "uuid",
    }
)
# Beside `properties` these say more about the same object.
_COMBINING = frozenset({"$ref", "anyOf", "dependentSchemas", "if", "not", "oneOf"})
_SAYS_WHAT_ELSE = frozenset({"additionalProperties", "patternProperties", "unevaluatedProperties"})
_ONE = ("items", "additionalProperties", "additionalItems")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")


def enforce_schema(
    schema: Mapping[str, Any], path: str, *, is_strict: bool
) -> tuple[dict[str, Any], list[str]]:
    """The schema to hold an answer to, and the paths of what was left out.

    Raises:
        RequestError: the schema is too long or too deep.
    """
    size = len(msgspec.json.encode(schema))  # quick, unlike a walk through a schema of megabytes
    if size > MAX_SOURCE_BYTES:
        raise RequestError(
            f"the json_schema has {size} bytes; at most {MAX_SOURCE_BYTES} are possible",
            code="invalid_grammar",
        )
    GrammarSpec.of_json_schema(schema)
    return (dict(schema), []) if is_strict else relax_schema(schema, path)


def relax_schema(schema: Mapping[str, Any], path: str) -> tuple[dict[str, Any], list[str]]:
    """The schema without what cannot be enforced, and the paths of what was left out.

    An overlapping `oneOf` counts as `anyOf`.
    """
    left_out: list[str] = []
    relaxed = _relax(schema, path, left_out)
    return {**relaxed, "x-guidance": {"coerce_one_of": True}}, left_out


def close_objects(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema in which objects have the properties that are declared and no others.

    For arguments, which are passed by name: left to itself a weak model makes up names until its
    answer is cut off. Objects that say what else they may have keep that; a schema that puts one
    object together of several stays as it is, because its parts are closed against each other.
    """
    return dict(schema) if _is_put_together(schema) else _close(schema)


def _is_put_together(schema: Any) -> bool:
    if isinstance(schema, list):
        return any(map(_is_put_together, schema))
    if not isinstance(schema, Mapping):
        return False
    combined = "properties" in schema and not _COMBINING.isdisjoint(schema)
    return combined or "allOf" in schema or any(map(_is_put_together, schema.values()))


def _close(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    closed = dict(schema)
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, Mapping):
            closed[key] = {name: _close(one) for name, one in value.items()}
        elif key in _LISTS and isinstance(value, list):
            closed[key] = [_close(one) for one in value]
        elif key in _ONE:
            closed[key] = _close(value)
    if isinstance(schema.get("properties"), Mapping) and _SAYS_WHAT_ELSE.isdisjoint(schema):
        closed["additionalProperties"] = False
    return closed


def _relax(schema: Mapping[str, Any], path: str, left_out: list[str]) -> dict[str, Any]:
    relaxed: dict[str, Any] = {}
    for key, value in schema.items():
        where = f"{path}.{key}"
        if key in UNENFORCED or (key == "format" and value not in FORMATS):
            left_out.append(where)
        elif key in _MAPS and isinstance(value, Mapping):
            relaxed[key] = {
                name: _relax_any(one, f"{where}.{name}", left_out) for name, one in value.items()
            }
        elif key in _LISTS and isinstance(value, list):
            relaxed[key] = [
                _relax_any(one, f"{where}[{i}]", left_out) for i, one in enumerate(value)
            ]
        elif key in _ONE:
            relaxed[key] = _relax_any(value, where, left_out)
        else:
            relaxed[key] = value
    return relaxed


def _relax_any(schema: Any, path: str, left_out: list[str]) -> Any:
    """Schemas may be true or false; what is no schema at all is for the compiler to refuse."""
    return _relax(schema, path, left_out) if isinstance(schema, Mapping) else schema
