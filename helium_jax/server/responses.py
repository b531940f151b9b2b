"""/v1/responses: OpenAI's Responses API, its answers kept and continued by their ids."""

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web
from msgspec import UNSET

from helium_jax.errors import RequestError
from helium_jax.server.admission import working
from helium_jax.server.answering import Job, answer
from helium_jax.server.config import Limits
from helium_jax.server.formats import Heading
from helium_jax.server.hints import Hints, check_hints
from helium_jax.server.jobs import check_model, check_salt, make_heading, make_requests
from helium_jax.server.plan_replies import DeletedReply
from helium_jax.server.plans import json_response
from helium_jax.server.prompts import check_fits, check_variables
from helium_jax.server.reading import Findings
from helium_jax.server.receive import finish_reading, parse_body, receive_object
from helium_jax.server.response_format import AnswerFormat, check_text_format, compile_answer
from helium_jax.server.responses_bodies import (
    CHAT_FIELDS,
    FOREIGN_RESPONSE_FIELDS,
    FOREIGN_TEXT_FIELDS,
    INCLUDABLE,
    LOGPROBS,
    ResponseBody,
)
from helium_jax.server.responses_format import ResponsesFormat, ResponsesWire
from helium_jax.server.responses_prompt import check_input, with_instructions
from helium_jax.server.responses_replies import InputTokens, OutputMessage, ResponseReply
from helium_jax.server.responses_shelf import RESPONSES
from helium_jax.server.responses_tools import check_response_tools
from helium_jax.server.sampling import (
    check_foreign,
    check_logprobs,
    check_sampling,
    stop_strings,
)
from helium_jax.server.state import CONFIG, RUNTIME, TENANT, Asking
from helium_jax.server.tool_calls import read_arguments
from helium_jax.server.tool_specs import parser_maker
from helium_jax.server.tools import ToolChoice, ToolPrompt, ToolSpec, shown_tokens, write_tools
from helium_jax.server.turns import TemplateMessage, Turns
from helium_jax.types import SamplingParams

_MAX_METADATA = 16  # entries; OpenAI's own limits, as are those of a key and a value
_MAX_METADATA_KEY = 64
_MAX_METADATA_VALUE = 512


async def post_response(request: web.Request) -> web.StreamResponse:
    """Goes on from an input, and perhaps from an earlier response."""
    with working(request):
        started = asyncio.get_running_loop().time()
        raw = await receive_object(request)
        job, form = await prepare_response(request, raw, started)
        return await answer(request, job, form, open_wire=ResponsesWire)


async def post_input_tokens(request: web.Request) -> web.Response:
    """Counts the tokens of what a response would go on from."""
    raw = await receive_object(request)
    asked = _read(request, raw)
    _, ids = await _encode(request, asked)
    return json_response(InputTokens(input_tokens=len(ids), warnings=asked.warnings or UNSET))


async def get_response(request: web.Request) -> web.Response:
    """A response that was kept."""
    if request.query.get("stream", "false") != "false":
        raise RequestError(
            "a kept response cannot be streamed; ask for it without stream",
            code="unsupported_parameter",
            param="stream",
        )
    kept = request.app[RESPONSES].get(
        request[TENANT],
        request.match_info["response_id"],
        param="response_id",
        code="response_not_found",
    )
    return web.Response(body=kept.reply, content_type="application/json")


async def delete_response(request: web.Request) -> web.Response:
    """Forgets a response."""
    response_id = request.match_info["response_id"]
    request.app[RESPONSES].remove(request[TENANT], response_id)
    return json_response(DeletedReply(id=response_id, object="response"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
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


async def prepare_response(
    asking: Asking, raw: dict[str, Any], started: float
) -> tuple[Job, ResponsesFormat]:
    """Checks a body; what is to run, and how its answer is written.

    Raises:
        RequestError: names every fault.
        NotFoundError: the model is not served, or the previous response is not kept.
    """
    runtime = asking.app[RUNTIME]
    asked = _read(asking, raw)
    body = asked.body
    prompt, ids = await _encode(asking, asked)
    check_fits(len(ids), body.max_output_tokens, runtime.generator.info.max_model_len, "input")
    grammar = await compile_answer(
        runtime.text, asked.wanted, asked.tools, asked.choice, prompt.syntax
    )
    job = Job(
        requests=make_requests(
            asking,
            [ids],
            asked.sampling,
            hints=asked.hints,
            cache_salt=body.cache_salt,
            grammar=grammar,
        ),
        answers_per_prompt=1,
        stop=stop_strings(body),
        include_stop=bool(body.include_stop_str_in_output),
        streams=bool(body.stream),
        include_usage=True,
        continuous_usage=False,
        started=started,
        shown=shown_tokens(runtime.text, asked.tools, prompt.syntax),
    )
    make_parser = parser_maker(asked.tools, asked.choice, prompt.syntax, id_prefix="call_")
    form = ResponsesFormat(
        _draft(asked, raw, make_heading(asking, "resp_", asked.warnings)),
        None if make_parser is None else make_parser(),
        runtime.text,
        keep=partial(_keep, asking, asked.turns.messages),
        now=time.time,
    )
    return job, form


def _read(asking: Asking, raw: dict[str, Any]) -> _Asked:
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
    return _Asked(
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


async def _encode(asking: Asking, asked: _Asked) -> tuple[ToolPrompt, tuple[int, ...]]:
    text, body = asking.app[RUNTIME].text, asked.body
    messages = with_instructions(body.instructions, asked.turns.messages)
    prompt = write_tools(messages, asked.tools, text.template)
    variables: dict[str, Any] = {**(body.chat_template_kwargs or {})}
    ids = await asyncio.to_thread(
        text.encode_chat, prompt.messages, tools=prompt.tools, **variables
    )
    return prompt, tuple(ids)


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


def _draft(asked: _Asked, raw: dict[str, Any], heading: Heading) -> ResponseReply:
    """The response as it begins; what was not asked for has the value that counts."""
    body = asked.body
    chosen = raw.get("tool_choice")
    return ResponseReply(
        id=heading.id,
        created_at=heading.created,
        model=heading.model,
        status="in_progress",
        temperature=asked.sampling.temperature,
        top_p=asked.sampling.top_p,
        text={"format": (raw.get("text") or {}).get("format") or {"type": "text"}},
        tool_choice="auto" if chosen is None else chosen,
        tools=[
            {"type": "function", "description": None, "parameters": None, "strict": False} | tool
            for tool in raw.get("tools") or []
        ],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        store=body.store is not False,
        instructions=body.instructions,
        previous_response_id=body.previous_response_id,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        top_logprobs=body.top_logprobs or 0,
        metadata=body.metadata or {},
        prompt_cache_key=body.prompt_cache_key,
        safety_identifier=body.safety_identifier,
        user=body.user,
        warnings=heading.warnings or UNSET,
    )


def _keep(asking: Asking, messages: list[TemplateMessage], reply: ResponseReply) -> None:
    """Keeps a response, if it is to be, with the conversation that it ends."""
    if not reply.store:
        return
    turns = Turns(messages=[*messages])
    for item in reply.output:
        if isinstance(item, OutputMessage):
            turns.add_message("assistant", "".join(part.text for part in item.content))
        else:
            arguments = read_arguments(item.arguments)
            turns.add_call(item.call_id, item.name, arguments, num_chars=len(item.arguments))
    asking.app[RESPONSES].put(asking[TENANT], reply, turns.messages)
