"""The rules of a response's body: from JSON to a value that is all right, or every fault named."""

from dataclasses import dataclass
from typing import Any

from helium_jax.server.config import Limits
from helium_jax.server.hints import Hints, check_hints
from helium_jax.server.openai.jobs import check_model, check_salt
from helium_jax.server.openai.prompts import check_variables
from helium_jax.server.openai.response_format import AnswerFormat, check_text_format
from helium_jax.server.openai.sampling import check_foreign, check_logprobs, check_sampling
from helium_jax.server.openai.turns import TemplateMessage, Turns
from helium_jax.server.reading import Findings
from helium_jax.server.receive import finish_reading, parse_body
from helium_jax.server.responses.bodies import (
    CHAT_FIELDS,
    FOREIGN_RESPONSE_FIELDS,
    FOREIGN_TEXT_FIELDS,
    INCLUDABLE,
    LOGPROBS,
    ResponseBody,
)
from helium_jax.server.responses.prompt import check_input
from helium_jax.server.responses.shelf import RESPONSES
from helium_jax.server.responses.tools import check_response_tools
from helium_jax.server.state import CONFIG, RUNTIME, TENANT, Asking
from helium_jax.server.tools import ToolChoice, ToolSpec
from helium_jax.types import SamplingParams

_MAX_METADATA = 16  # entries; OpenAI's own limits, as are those of a key and a value
_MAX_METADATA_KEY = 64
_MAX_METADATA_VALUE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedResponse:
    """A body that is all right.

    Attributes:
        body: as it was read.
        turns: the conversation without the instructions.
        sampling: of the answer.
        tools: that the model is told of.
        choice: which of them it may call.
        wanted: what an answer without calls must look like.
        hints: of the body.
        warnings: for the answer.
    """

    body: ResponseBody
    turns: Turns
    sampling: SamplingParams
    tools: list[ToolSpec]
    choice: ToolChoice
    wanted: AnswerFormat | None
    hints: Hints
    warnings: list[str]


def read_response(asking: Asking, raw: dict[str, Any]) -> AskedResponse:
    """Checks a body.

    Raises:
        RequestError: names every fault.
        NotFoundError: the model is not served, or the previous response is not kept.
    """
    runtime, config = asking.app[RUNTIME], asking.app[CONFIG]
    limits = config.limits
    body, found = parse_body(ResponseBody, raw)
    _check_chat_fields(raw, found)
    check_foreign(raw, FOREIGN_RESPONSE_FIELDS, "", found)
    if body is None:
        finish_reading(found, strict=config.strict)
        raise AssertionError("a body that cannot be read has problems")
    check_variables(body.chat_template_kwargs or {}, limits, found)
    check_salt(body.cache_salt, limits, found)
    _check_metadata(body.metadata or {}, found)
    tools, choice = check_response_tools(body, raw, limits, found)
    sampling = check_sampling(
        body,
        runtime.generator.info,
        runtime.text.sampling,
        limits,
        found,
        max_tokens=body.max_output_tokens,
        logprobs=_logprobs(body, limits, found, has_tools=bool(tools)),
    )
    wanted = None
    if body.text is not None:
        check_foreign(raw["text"], FOREIGN_TEXT_FIELDS, "text", found)
        wanted = check_text_format(body.text.format, "text.format", found)
    turns = check_input(body, raw, _earlier(asking, body), limits, found)
    hints = check_hints(body, body.priority, limits, found, used=("metadata", "store"))
    warnings = finish_reading(found, strict=config.strict)
    check_model(asking, body.model)
    return AskedResponse(
        body=body,
        turns=turns,
        sampling=sampling,
        tools=tools,
        choice=choice,
        wanted=wanted,
        hints=hints,
        warnings=[*warnings, *hints.warnings],
    )


def _earlier(asking: Asking, body: ResponseBody) -> list[TemplateMessage]:
    if body.previous_response_id is None:
        return []
    kept = asking.app[RESPONSES].get(
        asking[TENANT],
        body.previous_response_id,
        param="previous_response_id",
        code="previous_response_not_found",
    )
    return kept.read_messages()


def _check_chat_fields(raw: dict[str, Any], found: Findings) -> None:
    for name, here in CHAT_FIELDS.items():
        if name in raw:
            found.unknown.pop(name, None)
            found.add(
                name,
                f"is a field of /v1/chat/completions; here it is {here}",
                "unsupported_parameter",
            )


def _check_metadata(metadata: dict[str, str], found: Findings) -> None:
    if len(metadata) > _MAX_METADATA:
        found.add("metadata", f"has {len(metadata)} entries; the limit is {_MAX_METADATA}")
    elif any(
        len(key) > _MAX_METADATA_KEY or len(value) > _MAX_METADATA_VALUE
        for key, value in metadata.items()
    ):
        found.add(
            "metadata",
            f"has an entry of more than {_MAX_METADATA_KEY} (key) or {_MAX_METADATA_VALUE} "
            "(value) characters",
        )


def _logprobs(
    body: ResponseBody, limits: Limits, found: Findings, *, has_tools: bool
) -> int | None:
    include = body.include or []
    for i, word in enumerate(include[: len(INCLUDABLE)]):
        if word not in INCLUDABLE:
            found.add(f"include[{i}]", f"{word[:64]!r} is not one of {', '.join(INCLUDABLE)}")
    if len(include) > len(INCLUDABLE):
        found.add("include", f"has {len(include)} entries; there are {len(INCLUDABLE)} words")
    check_logprobs(body.top_logprobs, "top_logprobs", limits, found)
    if LOGPROBS not in include:
        if body.top_logprobs:
            found.add("top_logprobs", f'needs include: ["{LOGPROBS}"]')
        return None
    if has_tools:
        found.add("include", f"{LOGPROBS} cannot be combined with tools", "unsupported_parameter")
    return body.top_logprobs or 0
