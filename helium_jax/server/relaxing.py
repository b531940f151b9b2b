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
