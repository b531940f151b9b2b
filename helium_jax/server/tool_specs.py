"""One tool of a request, whatever the endpoint: its name and its schema checked."""

from collections.abc import Mapping
from typing import Any

from helium_jax.errors import RequestError
from helium_jax.server.reading import Findings
from helium_jax.server.relaxing import enforce_schema
from helium_jax.server.tool_calls import check_name
from helium_jax.server.tools import ToolSpec


def read_spec(
    name: str,
    description: str | None,
    schema: Mapping[str, Any],
    *,
    strict: bool,
    name_path: str,
    schema_path: str,
    found: Findings,
) -> ToolSpec:
    """A tool; only meaningful without problems in `found`.

    Args:
        name: of the function.
        description: for the model.
        schema: of its arguments, as sent.
        strict: all of the schema must be enforced; otherwise what cannot be is named in a warning.
        name_path: where in the body the name stands.
        schema_path: where the schema stands.
        found: gains problems and warnings.
    """
    check_name(name, name_path, found)
    if schema.get("type", "object") != "object":
        found.add(f"{schema_path}.type", 'must be "object": arguments are passed by name')
    enforced, left_out = {}, []
    try:
        enforced, left_out = enforce_schema(schema, schema_path, is_strict=strict)
    except RequestError as error:
        found.add(schema_path, error.message, error.code)
    for path in left_out:
        found.warn(path, "is told to the model, but not enforced")
    return ToolSpec(
        name=name,
        description=description,
        parameters={"type": "object", **schema},
        enforced={"type": "object", **enforced},
        path=schema_path,
    )
