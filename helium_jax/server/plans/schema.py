"""The JSON Schema of plan files, for editors and clients; `POST /v1/plans` checks far more.

A schema knows fields, types and bounds. Names, references, templates and formulas are the reader's.
"""

from typing import Any, get_args

from helium_jax.plan.limits import (
    MAX_ARMS,
    MAX_ITEMS,
    MAX_ITERATIONS,
    MAX_MESSAGES,
    MAX_RETRIES,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    OnRowError,
)
from helium_jax.plan.nodes import VALUE_TYPES, Role, SliceUnit, ViewKind
from helium_jax.plan.reading_control import REDUCE_KINDS
from helium_jax.plan.response_format import SOURCE_FIELDS
from helium_jax.plan.settings import (
    INTS,
    MAX_LOGIT_BIAS,
    MAX_MODEL_CHARS,
    MAX_PRIORITY,
    MAX_STOP_TOKEN_IDS,
    NUMBERS,
)
from helium_jax.plan.writing import VERSION
from helium_jax.text.grammar_spec import MAX_CHOICES, GrammarKind

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
OPTIONAL_TEXT: Schema = {"type": ["string", "null"]}
TEMPLATE: Schema = {"type": "string", "description": "text with {{slots}}"}
NAME: Schema = {"type": "string", "description": "a name, or {{name}}"}
FORMULA: Schema = {"type": ["string", "boolean"], "description": "a formula"}
VALUE: Schema = {"type": ["string", "number", "boolean"]}
DURATION: Schema = {"type": ["string", "number", "null"], "description": '"90s", "15m", or seconds'}
BODY: Schema = {"$ref": "#/$defs/body"}
REDUCE: Schema = {"$ref": "#/$defs/reduce"}


def plan_schema() -> Schema:
    """The schema, in the dialect 2020-12."""
    ops = {
        "const": _op("const", {"value": VALUE, "values": {"type": "array", "items": VALUE}}),
        "template": _op("template", {"template": TEMPLATE}, ("template",)),
        "completion": _op("llm.completion", {"prompt": TEMPLATE, **_settings()}, ("prompt",)),
        "chat": _op("llm.chat", {**_chat(), **_settings()}),
        "slice": _op(
            "slice",
            {
                "source": NAME,
                "start": _integer(),
                "stop": _integer(),
                "unit": _one_of(get_args(SliceUnit)),
            },
            ("source",),
        ),
        "concat": _op(
            "concat",
            {"sources": {"type": "array", "items": NAME}, "separator": OPTIONAL_TEXT},
            ("sources",),
        ),
        "view": _op("view", {"source": NAME, "kind": _one_of(get_args(ViewKind))}, ("source",)),
        "branch": _op("branch", {"if": FORMULA, "then": BODY, "else": BODY}, ("if", "then")),
        "loop": _op("loop", _loop(), ("carry", "body")),
        "map": _op("map", _map(), ("over", "as", "body")),
        "race": _op("race", _race(), ("arms",)),
        "plan": _op("plan", _subplan(), ("plan",)),
    }
    parts = _parts()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Plan ({VERSION})",
        **_object(
            {
                "version": {"const": VERSION},
                "name": OPTIONAL_TEXT,
                **parts,
                "limits": _limits(),
            },
            ("version", "outputs"),
        ),
        "$defs": {
            "ops": {"type": "object", "additionalProperties": {"$ref": "#/$defs/op"}},
            "op": {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in ops]},
            "body": {
                "anyOf": [
                    NAME,
                    _object({"ops": {"$ref": "#/$defs/ops"}, "result": NAME}, ("result",)),
                ]
            },
            "reduce": {
                "anyOf": [
                    {"enum": [*REDUCE_KINDS, None]},
                    _object(
                        {
                            "type": {"enum": [*REDUCE_KINDS]},
                            "separator": OPTIONAL_TEXT,
                            "score": FORMULA,
                        },
                        ("type",),
                    ),
                ]
            },
            **ops,
        },
    }


def _parts() -> Schema:
    type_ = {"enum": [*VALUE_TYPES, None]}
    number = {"type": ["number", "null"]}
    param = {"type": type_, "default": {"type": [*VALUE["type"], "null"]}}
    return {
        "inputs": _mapping(_object({"type": type_}, nullable=True)),
        "params": _mapping(_object({**param, "min": number, "max": number}, nullable=True)),
        "ops": {"$ref": "#/$defs/ops"},
        "outputs": {"type": "object", "additionalProperties": NAME, "minProperties": 1},
    }


def _chat() -> Schema:
    message = _object({"role": {"enum": [*get_args(Role)]}, "content": TEMPLATE}, ("role",))
    return {
        "history": OPTIONAL_TEXT,
        "system": {"type": ["string", "null"]},
        "user": TEMPLATE,
        "messages": {"type": "array", "items": message, "minItems": 1, "maxItems": MAX_MESSAGES},
    }


def _settings() -> Schema:
    stop = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS}
    cache = {"enum": ["auto", "off", None]}
    return {
        **{name: _integer(low, high) for name, (low, high) in INTS.items()},
        **{name: _number(low, high) for name, (low, high) in NUMBERS.items()},
        "ignore_eos": {"type": ["boolean", "null"]},
        "model": {"type": ["string", "null"], "minLength": 1, "maxLength": MAX_MODEL_CHARS},
        "stop": {
            "anyOf": [
                {"type": "null"},
                stop,
                {"type": "array", "items": stop, "maxItems": MAX_STOP_STRINGS},
            ]
        },
        "response_format": _response_format(),
        "stop_token_ids": {
            "type": ["array", "null"],
            "items": {"type": "integer", "minimum": 0},
            "maxItems": MAX_STOP_TOKEN_IDS,
        },
        "logit_bias": {
            "type": ["object", "null"],
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": MAX_LOGIT_BIAS,
        },
        "priority": _integer(-MAX_PRIORITY, MAX_PRIORITY),
        "cache": _object({"results": cache, "kv": cache}, nullable=True),
        "retries": _integer(0, MAX_RETRIES),
        "timeout": DURATION,
        "on_error": {
            "anyOf": [
                {"type": ["string", "null"]},
                _object({"default": TEXT}, ("default",)),
            ]
        },
    }


def _response_format() -> Schema:
    choices = {"type": "array", "items": TEXT, "minItems": 1, "maxItems": MAX_CHOICES}
    sources = {"schema": {"type": ["object", "boolean"]}, "choices": choices}
    kinds = [
        _object({"type": {"const": str(kind)}, field: sources.get(field, TEXT)}, ("type", field))
        for kind, field in SOURCE_FIELDS.items()
    ]
    any_object = _object({"type": {"const": str(GrammarKind.JSON_OBJECT)}}, ("type",))
    return {"oneOf": [{"type": "null"}, any_object, *kinds]}


def _loop() -> Schema:
    return {
        "carry": _mapping(_object({"from": NAME, "next": NAME}, ("from", "next"))),
        "count": {"type": ["integer", "string", "null"], "minimum": 0, "maximum": MAX_ITERATIONS},
        "while": FORMULA,
        "max_iterations": _integer(1, MAX_ITERATIONS),
        "body": BODY,
    }


def _map() -> Schema:
    return {
        "over": FORMULA,
        "as": TEXT,
        "max_items": _integer(1, MAX_ITEMS),
        "body": BODY,
        "reduce": REDUCE,
    }


def _race() -> Schema:
    arms = {"type": "array", "items": BODY, "minItems": 1, "maxItems": MAX_ARMS}
    return {"arms": arms, "k": _integer(1, MAX_ARMS), "reduce": REDUCE}


def _subplan() -> Schema:
    parts = _parts()
    bound = {"anyOf": [VALUE, _object({"param": TEXT}, ("param",))]}
    return {
        "plan": _object({"name": OPTIONAL_TEXT, **parts}, ("outputs",)),
        "inputs": _mapping(NAME),
        "params": _mapping(bound),
    }


def _limits() -> Schema:
    counts = ("max_llm_calls", "max_total_tokens", "max_concurrency")
    return _object(
        {
            **{name: _integer(1, 2**53) for name in counts},
            "timeout": DURATION,
            "on_row_error": {"enum": [*get_args(OnRowError), None]},
        },
        nullable=True,
    )


def _op(type_: str, fields: Schema, required: tuple[str, ...] = ()) -> Schema:
    return _object({"type": {"const": type_}, **fields}, ("type", *required))


def _object(fields: Schema, required: tuple[str, ...] = (), *, nullable: bool = False) -> Schema:
    schema: Schema = {
        "type": ["object", "null"] if nullable else "object",
        "properties": fields,
        "additionalProperties": False,
    }
    return schema | {"required": [*required]} if required else schema


def _mapping(values: Schema) -> Schema:
    return {"type": ["object", "null"], "additionalProperties": values}


def _integer(low: int | None = None, high: int | None = None) -> Schema:
    return {"type": ["integer", "null"]} | _bounds(low, high)


def _number(low: float, high: float) -> Schema:
    return {"type": ["number", "null"]} | _bounds(low, high)


def _bounds(low: float | None, high: float | None) -> Schema:
    bounds = {"minimum": low, "maximum": high}
    return {name: value for name, value in bounds.items() if value is not None}


def _one_of(words: tuple[str, ...]) -> Schema:
    return {"enum": [*words, None]}
