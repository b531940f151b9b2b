"""What an answer must look like: `response_format` and the spellings of other servers."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from helium_jax.errors import RequestError
from helium_jax.server.openai.bodies import FOREIGN_STRUCTURED_FIELDS, SamplingFields
from helium_jax.server.openai.format_bodies import (
    JsonSchemaBody,
    ResponseFormatBody,
    TextFormatBody,
)
from helium_jax.server.openai.relaxing import enforce_schema
from helium_jax.server.openai.sampling import check_foreign
from helium_jax.server.reading import Findings
from helium_jax.server.tools import ToolChoice, ToolSpec, ToolSyntax, compile_tools
from helium_jax.text import GrammarKind, GrammarSpec, TextModel
from helium_jax.text.grammar_spec import MAX_SOURCE_BYTES
from helium_jax.types import TokenGrammar

TYPES = ("text", "json_object", "json_schema")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormat:
    """What an answer must look like.

    Attributes:
        spec: its grammar.
        path: where in the body it stands.
    """

    spec: GrammarSpec
    path: str

    @property
    def json_schema(self) -> dict[str, Any] | None:
        """The schema, if the answer is JSON."""
        match self.spec.kind:
            case GrammarKind.JSON_SCHEMA:
                return json.loads(self.spec.source)
            case GrammarKind.JSON_OBJECT:
                return {"type": "object"}
        return None


_Make = Callable[[], GrammarSpec]


def check_format(
    body: SamplingFields, raw: dict[str, Any], found: Findings, *, has_tools: bool = False
) -> AnswerFormat | None:
    """The format that a body asks for; None for any text.

    `raw`: what the body was read from. `has_tools`: the answer may also be calls; then the format
    is for the answers without calls.
    """
    if body.structured_outputs is not None:
        outputs = raw["structured_outputs"]
        check_foreign(outputs, FOREIGN_STRUCTURED_FIELDS, "structured_outputs", found)
    given = [*_response_format(body, found), *_structured_outputs(body), *_guided(body)]
    if len(given) > 1:
        paths = [path for path, _ in given]
        found.add(paths[1], f"cannot be combined with {paths[0]}; send one of {', '.join(paths)}")
        return None
    return _make_format(given, found, has_tools=has_tools)


def check_text_format(
    wanted: TextFormatBody | None, path: str, found: Findings
) -> AnswerFormat | None:
    """The format that stands at `path` in the flat form of the Responses API."""
    if wanted is None:
        return None
    named = JsonSchemaBody(name=wanted.name or "", schema=wanted.schema, strict=wanted.strict)
    is_plain = wanted.type != "json_schema" and wanted.name is None and wanted.schema is None
    nested = ResponseFormatBody(type=wanted.type, json_schema=None if is_plain else named)
    return _make_format(_openai_format(nested, path, path, found), found, has_tools=False)


def _make_format(
    given: Iterable[tuple[str, _Make]], found: Findings, *, has_tools: bool
) -> AnswerFormat | None:
    for path, make in given:
        try:
            wanted = AnswerFormat(spec=make(), path=path)
        except RequestError as error:
            found.add(path, error.message, error.code)
            continue
        if has_tools and wanted.json_schema is None:
            found.add(path, "cannot be combined with tools; only formats of JSON can")
        return wanted
    return None


async def compile_format(text: TextModel, wanted: AnswerFormat | None) -> TokenGrammar | None:
    """The grammar of an answer that is no call.

    Raises:
        RequestError: it cannot be used; names its path.
        CapacityError: too many grammars wait to be compiled.
    """
    return None if wanted is None else await text.compile_grammar(wanted.spec, param=wanted.path)


async def compile_answer(
    text: TextModel,
    wanted: AnswerFormat | None,
    tools: Sequence[ToolSpec],
    choice: ToolChoice,
    syntax: ToolSyntax,
) -> TokenGrammar | None:
    """The grammar of an answer that may be calls; raises as `compile_format` does."""
    grammar = await compile_format(text, wanted)
    if not tools:
        return grammar
    text_schema = None if wanted is None else wanted.json_schema
    return await compile_tools(text, tools, choice, syntax, text_schema=text_schema)


def _response_format(body: SamplingFields, found: Findings) -> Iterator[tuple[str, _Make]]:
    if body.response_format is not None:
        path = "response_format"
        yield from _openai_format(body.response_format, path, f"{path}.json_schema", found)


def _openai_format(
    wanted: ResponseFormatBody, path: str, schema_path: str, found: Findings
) -> Iterator[tuple[str, _Make]]:
    """`schema_path`: where the name and the schema stand."""
    named = wanted.json_schema
    if wanted.type not in TYPES:
        found.add(f"{path}.type", f"{wanted.type[:32]!r} is not one of {', '.join(TYPES)}")
    elif wanted.type != "json_schema":
        if named is not None:
            found.add(schema_path, 'needs type "json_schema"')
        elif wanted.type == "json_object":
            yield path, GrammarSpec.of_json_object
    elif named is None:
        found.add(schema_path, 'is required with type "json_schema"')
    elif not 1 <= len(named.name) <= 64:
        found.add(f"{schema_path}.name", "must have 1 to 64 characters")
    elif named.schema is None:
        found.add(f"{schema_path}.schema", "is required; send a JSON Schema")
    else:
        where, schema, is_strict = f"{schema_path}.schema", named.schema, bool(named.strict)
        yield where, lambda: _of_schema(schema, where, found, is_strict=is_strict)


def _of_schema(
    schema: dict[str, Any], path: str, found: Findings, *, is_strict: bool
) -> GrammarSpec:
    enforced, left_out = enforce_schema(schema, path, is_strict=is_strict)
    for place in left_out:
        found.warn(place, "is not enforced; with strict: true it would be an error")
    return GrammarSpec.of_json_schema(enforced)


def _structured_outputs(body: SamplingFields) -> Iterator[tuple[str, _Make]]:
    wanted = body.structured_outputs
    if wanted is None:
        return
    path = "structured_outputs."
    yield from _languages(
        (f"{path}json", wanted.json),
        (f"{path}regex", wanted.regex),
        (f"{path}choice", wanted.choice),
        (f"{path}grammar", wanted.grammar),
    )
    if wanted.json_object:
        yield f"{path}json_object", GrammarSpec.of_json_object


def _guided(body: SamplingFields) -> Iterator[tuple[str, _Make]]:
    return _languages(
        ("guided_json", body.guided_json),
        ("guided_regex", body.guided_regex),
        ("guided_choice", body.guided_choice),
        ("guided_grammar", body.guided_grammar),
    )


def _languages(
    schema: tuple[str, str | dict[str, Any] | None],
    regex: tuple[str, str | None],
    choice: tuple[str, list[str] | None],
    grammar: tuple[str, str | None],
) -> Iterator[tuple[str, _Make]]:
    """vLLM's four languages, each with its path and its value."""
    if (document := schema[1]) is not None:
        yield schema[0], lambda: _of_document(document, schema[0])
    if (pattern := regex[1]) is not None:
        yield regex[0], lambda: GrammarSpec.of_regex(pattern)
    if (choices := choice[1]) is not None:
        yield choice[0], lambda: GrammarSpec.of_choice(choices)
    if (source := grammar[1]) is not None:
        yield grammar[0], lambda: GrammarSpec.of_lark(source)


def _of_document(document: str | dict[str, Any], path: str) -> GrammarSpec:
    schema = document
    if isinstance(document, str):
        try:
            schema = json.loads(document) if len(document) <= MAX_SOURCE_BYTES else None
        except (ValueError, RecursionError):
            schema = None
    if not isinstance(schema, dict):
        raise RequestError(
            f"is no JSON object of at most {MAX_SOURCE_BYTES} bytes", code="invalid_grammar"
        )
    enforced, _ = enforce_schema(schema, path, is_strict=True)
    return GrammarSpec.of_json_schema(enforced)
