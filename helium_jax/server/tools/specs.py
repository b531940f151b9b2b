"""Tools of a request, whatever the endpoint: how many, their schemas, who reads their calls."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from helium_jax.errors import RequestError
from helium_jax.server.config import Limits
from helium_jax.server.openai.relaxing import close_objects, enforce_schema
from helium_jax.server.reading import Findings
from helium_jax.server.tools import (
    ToolChoice,
    ToolParser,
    ToolSpec,
    ToolSyntax,
    allowed_tools,
)
from helium_jax.server.tools.calls import check_name


def check_size(bodies: Sequence[msgspec.Struct], limits: Limits, found: Findings) -> bool:
    """Whether the tools of a request are few and short enough to be looked at."""
    if len(bodies) > limits.tools:
        found.add("tools", f"has {len(bodies)} entries; the limit is {limits.tools}")
        return False
    size = len(msgspec.json.encode(bodies))
    if size > limits.tools_bytes:
        found.add("tools", f"have {size} bytes; the limit is {limits.tools_bytes}")
        return False
    return True


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
        enforced={"type": "object", **close_objects(enforced)},
        path=schema_path,
    )


def parser_maker(
    tools: Sequence[ToolSpec], choice: ToolChoice, syntax: ToolSyntax, *, id_prefix: str
) -> Callable[[], ToolParser] | None:
    """What makes a reader of one answer, in which the ids of calls begin with `id_prefix`; None
    when the answer has no calls."""
    names = [tool.name for tool in allowed_tools(tools, choice)]
    if not names:
        return None
    return partial(ToolParser, syntax, names, lambda: f"{id_prefix}{uuid.uuid4().hex}")
