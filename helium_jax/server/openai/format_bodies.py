"""What an answer must look like, as the bodies of requests have it."""

from typing import Any

from msgspec import Struct


class JsonSchemaBody(Struct, kw_only=True, frozen=True):
    """A named schema; it is kept to whether `strict` is set or not."""

    name: str
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormatBody(Struct, kw_only=True, frozen=True):
    """OpenAI's: `type` is "text", "json_object" or "json_schema"."""

    type: str
    json_schema: JsonSchemaBody | None = None


class TextFormatBody(Struct, kw_only=True, frozen=True):
    """OpenAI's in the Responses API: the same, with the fields of the schema beside the type."""

    type: str
    name: str | None = None
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class StructuredOutputsBody(Struct, kw_only=True, frozen=True):
    """vLLM's: one of a JSON Schema (also as text), a regular expression, texts to choose from, a
    grammar in llguidance's dialect of Lark, or any JSON object."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
