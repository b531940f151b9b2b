"""/openapi.json, written from the types that parse the bodies."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from helium_jax.server.openai.replies import ErrorReply


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """What an operation takes beside its body.

    Attributes:
        name: of the parameter.
        schema: of its value.
        place: "query" or "header".
        required: whether it must be there.
    """

    name: str
    schema: Mapping[str, Any]
    place: str = "query"
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One route as the description has it.

    Attributes:
        method: "get", "post" or "delete".
        path: aiohttp's pattern, whose `{name}` are OpenAPI's too.
        summary: one line.
        body: type of the JSON body, if it takes one.
        reply: type of the 200 answer; None when it is no JSON of ours.
        streams: the answer may also be text/event-stream of this type.
        error: type of every error.
        form: type of the multipart form, if it takes one.
        is_open: needs no key.
        may_lack_body: the body may be left out.
        example: a body that works; its "model" becomes the one that is served.
        parameters: of the query and the header.
    """

    method: str
    path: str
    summary: str
    body: type[msgspec.Struct] | None = None
    reply: type[msgspec.Struct] | None = None
    streams: type[msgspec.Struct] | types.UnionType | None = None
    error: type[msgspec.Struct] = ErrorReply
    form: type[msgspec.Struct] | None = None
    is_open: bool = False
    may_lack_body: bool = False
    example: Mapping[str, Any] | None = None
    parameters: Sequence[Parameter] = ()


def describe(operations: Sequence[Operation], *, version: str, model: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of `operations` for a server of `model`."""
    kinds: dict[type[msgspec.Struct] | types.UnionType, None] = {}
    for operation in operations:
        for kind in (
            operation.body,
            operation.reply,
            operation.streams,
            operation.error,
            operation.form,
        ):
            if kind is not None:
                kinds[kind] = None
    schemas, components = msgspec.json.schema_components(
        list(kinds), ref_template="#/components/schemas/{name}"
    )
    refs = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = operation.path.replace(":.+}", "}")
        paths.setdefault(path, {})[operation.method] = _describe_one(operation, path, refs, model)
    return {
        "openapi": "3.1.0",
        "info": {"title": "helium-jax", "version": version},
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _one_event(data: dict[str, Any]) -> dict[str, Any]:
    """A server-sent event whose data is JSON, in the way of OpenAPI 3.2's items of streams."""
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["data"],
        "properties": {
            "data": {**text, "contentMediaType": "application/json", "contentSchema": data},
            "event": text,
            "id": text,
        },
    }


def _describe_one(
    operation: Operation,
    path: str,
    refs: dict[type[msgspec.Struct] | types.UnionType, dict[str, Any]],
    model: str,
) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.reply is not None:
        content["application/json"] = {"schema": refs[operation.reply]}
    if operation.streams is not None:
        content["text/event-stream"] = {"schema": _one_event(refs[operation.streams])}
    answer: dict[str, Any] = {"description": "done"}
    if content:
        answer["content"] = content
    error = {
        "description": "an error",
        "content": {"application/json": {"schema": refs[operation.error]}},
    }
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method}{path}".translate(str.maketrans("/{}", "___")),
        "responses": {"200": answer, "default": error},
    }
    if operation.is_open:
        described["security"] = []
    parameters = list(operation.parameters)
    if "{" in path:
        name = path[path.index("{") + 1 : path.index("}")]
        parameters.insert(
            0, Parameter(name=name, place="path", required=True, schema={"type": "string"})
        )
    if parameters:
        described["parameters"] = [
            {"name": one.name, "in": one.place, "required": one.required, "schema": one.schema}
            for one in parameters
        ]
    if operation.body is not None:
        body: dict[str, Any] = {"schema": refs[operation.body]}
        if operation.example is not None:
            served = {"model": model} if "model" in operation.example else {}
            body["example"] = {**operation.example, **served}
        described["requestBody"] = {
            "required": not operation.may_lack_body,
            "content": {"application/json": body},
        }
    if operation.form is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"multipart/form-data": {"schema": refs[operation.form]}},
        }
    return described
