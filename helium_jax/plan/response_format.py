"""What an answer must look like: the field `response_format` of a call, read and written.

response_format: {type: json_schema, schema: {type: array, items: {type: string}}}
response_format: {type: json_object}
response_format: {type: regex, pattern: "[0-9]+"}
response_format: {type: choice, choices: ["yes", "no"]}
response_format: {type: lark, grammar: 'start: "(" start ")" | "x"'}
"""

import json
from collections.abc import Mapping
from typing import Any

from helium_jax.errors import RequestError
from helium_jax.plan.fields import check_fields, describe, read_choice, read_mapping, read_text
from helium_jax.plan.findings import Findings
from helium_jax.text.grammar_spec import GrammarKind, GrammarSpec

# Where each kind has its source; a JSON object needs none.
SOURCE_FIELDS = {
    GrammarKind.JSON_SCHEMA: "schema",
    GrammarKind.REGEX: "pattern",
    GrammarKind.CHOICE: "choices",
    GrammarKind.LARK: "grammar",
}


def read_response_format(value: object, path: str, found: Findings) -> GrammarSpec | None:
    """The grammar that a call asks for; None when it asks for none, or wrongly."""
    if value is None:
        return None
    if not isinstance(value, dict):
        found.add(path, f"must be a mapping with a type, not {describe(value)}")
        return None
    document = read_mapping(value, path, found)
    kinds = tuple(str(kind) for kind in GrammarKind)
    if document.get("type") is None:
        found.add(f"{path}.type", f"is missing; types are {', '.join(kinds)}")
        return None
    word = read_choice(document["type"], f"{path}.type", found, kinds, kinds="types")
    if word not in kinds:
        return None
    kind = GrammarKind(word)
    field = SOURCE_FIELDS.get(kind)
    if field is None:
        check_fields(document, path, ("type",), frozenset(), found)
        return GrammarSpec.of_json_object()
    check_fields(document, path, ("type", field), frozenset(), found)
    if document.get(field) is None:
        found.add(f"{path}.{field}", f"is missing; a {kind} needs it")
        return None
    try:
        return _read_source(kind, document[field], f"{path}.{field}", found)
    except RequestError as error:
        found.add(f"{path}.{field}", error.message, error.code)
        return None


def write_response_format(spec: GrammarSpec) -> dict[str, Any]:
    """The value under `response_format`."""
    document: dict[str, Any] = {"type": str(spec.kind)}
    if spec.kind in (GrammarKind.JSON_SCHEMA, GrammarKind.CHOICE):
        document[SOURCE_FIELDS[spec.kind]] = json.loads(spec.source)
    elif spec.kind in SOURCE_FIELDS:
        document[SOURCE_FIELDS[spec.kind]] = spec.source
    return document


def response_format_of(value: Mapping[str, Any]) -> GrammarSpec:
    """The grammar that the same mapping asks for outside of a plan.

    Raises:
        RequestError: it is wrong; names the field.
    """
    found = Findings()
    spec = read_response_format(dict(value), "response_format", found)
    for problem in found.problems:
        raise RequestError(f"{problem}", code=problem.code, param=problem.path)
    assert spec is not None, "what is no grammar has a problem"
    return spec


def _read_source(
    kind: GrammarKind, value: object, path: str, found: Findings
) -> GrammarSpec | None:
    match kind:
        case GrammarKind.JSON_SCHEMA:
            if isinstance(value, dict | bool):
                return GrammarSpec.of_json_schema(value)
            found.add(path, f"must be a JSON Schema, not {describe(value)}")
            return None
        case GrammarKind.CHOICE:
            if isinstance(value, list) and all(isinstance(choice, str) for choice in value):
                return GrammarSpec.of_choice(value)
            found.add(path, f"must be a list of texts, not {describe(value)}")
            return None
    source = read_text(value, path, found)
    if source is None:
        return None
    return (
        GrammarSpec.of_regex(source) if kind is GrammarKind.REGEX else GrammarSpec.of_lark(source)
    )
