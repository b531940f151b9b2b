"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's Messages API."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web
from msgspec import UNSET

from helium_jax.errors import RequestError
from helium_jax.server.admission import working
from helium_jax.server.hints import Hints, check_hints
from helium_jax.server.messages.bodies import (
    FOREIGN_MESSAGES_FIELDS,
    FOREIGN_OUTPUT_FIELDS,
    CountTokensBody,
    MessagesBody,
    PromptFields,
)
from helium_jax.server.messages.format import MessagesFormat, MessagesWire
from helium_jax.server.messages.held_prefixes import Holding, hold_prefixes
from helium_jax.server.messages.prompt import Conversation, check_conversation
from helium_jax.server.messages.replies import TokenCount
from helium_jax.server.messages.tools import check_messages_tools
from helium_jax.server.openai.answering import Job, answer
from helium_jax.server.openai.jobs import (
    check_model,
    check_salt,
    derive_salt,
    make_heading,
    make_requests,
)
from helium_jax.server.openai.prompts import check_fits, check_variables
from helium_jax.server.openai.response_format import AnswerFormat, compile_answer
from helium_jax.server.openai.sampling import check_foreign, check_stop_strings
from helium_jax.server.reading import Findings
from helium_jax.server.receive import finish_reading, parse_body, receive_object
from helium_jax.server.state import CONFIG, RUNS, RUNTIME, TENANT
from helium_jax.server.tools import (
    HERMES,
    ToolChoice,
    ToolSpec,
    recognise_syntax,
    shown_tokens,
    write_tools,
)
from helium_jax.server.tools.specs import parser_maker
from helium_jax.server.writing import json_response
from helium_jax.text import GrammarSpec, TextModel


async def post_messages(request: web.Request) -> web.StreamResponse:
    """Continues a conversation."""
    with working(request):
        started = asyncio.get_running_loop().time()
        runtime, config = request.app[RUNTIME], request.app[CONFIG]
        info = runtime.generator.info
        raw = await receive_object(request)
        body, found = parse_body(MessagesBody, raw)
        check_foreign(raw, FOREIGN_MESSAGES_FIELDS, "", found)
        conversation, hints, tools, choice, wanted = None, Hints(), [], ToolChoice(), None
        if body is not None:
            conversation = _check_prompt(request, body, raw, found)
            tools, choice = check_messages_tools(body, config.limits, found)
            wanted = _check_format(body, found)
            check_stop_strings(body.stop_sequences or (), "stop_sequences", config.limits, found)
            check_salt(body.cache_salt, config.limits, found)
            hints = check_hints(body, body.priority, config.limits, found)
        warnings = finish_reading(found, strict=config.strict)
        assert body is not None, "a body that cannot be read has problems"
        assert conversation is not None, "it was read with the body"
        check_model(request, body.model)
        ids, prefixes = await asyncio.to_thread(_encode, runtime.text, body, conversation, tools)
        check_fits(len(ids), None, info.max_model_len, "messages")
        room = info.max_model_len - len(ids)
        syntax = recognise_syntax(runtime.text.template) or HERMES
        grammar = await compile_answer(runtime.text, wanted, tools, choice, syntax)
        salt = derive_salt(request[TENANT], body.cache_salt)
        held = await _hold(request, prefixes, salt)
        defaults = runtime.text.sampling
        sampling = replace(
            defaults,
            max_tokens=min(body.max_tokens, room),
            temperature=defaults.temperature if body.temperature is None else body.temperature,
            top_p=defaults.top_p if body.top_p is None else body.top_p,
            top_k=max(defaults.top_k if body.top_k is None else body.top_k, 0),
        )
        job = Job(
            requests=make_requests(
                request,
                [ids],
                sampling,
                hints=hints,
                cache_salt=body.cache_salt,
                grammar=grammar,
                worker=held.worker,
            ),
            answers_per_prompt=1,
            stop=tuple(body.stop_sequences or ()),
            include_stop=False,
            streams=bool(body.stream),
            include_usage=True,
            continuous_usage=True,
            started=started,
            shown=shown_tokens(runtime.text, tools, syntax),
        )
        new_parser = parser_maker(tools, choice, syntax, id_prefix="toolu_")
        form = MessagesFormat(
            make_heading(request, "msg_", [*warnings, *hints.warnings, *held.warnings]),
            None if new_parser is None else new_parser(),
            num_held=held.computed,
            is_cut=body.max_tokens > room,
        )
        return await answer(request, job, form, open_wire=MessagesWire)


async def post_count_tokens(request: web.Request) -> web.Response:
    """Counts the tokens of a prompt, the start of the answer included."""
    runtime, config = request.app[RUNTIME], request.app[CONFIG]
    raw = await receive_object(request)
    body, found = parse_body(CountTokensBody, raw)
    check_foreign(raw, FOREIGN_MESSAGES_FIELDS, "", found)
    conversation, tools = None, []
    if body is not None:
        conversation = _check_prompt(request, body, raw, found)
        tools, _ = check_messages_tools(body, config.limits, found)
        _check_format(body, found)
    warnings = finish_reading(found, strict=config.strict)
    assert body is not None, "a body that cannot be read has problems"
    assert conversation is not None, "it was read with the body"
    check_model(request, body.model)
    unmarked = replace(conversation, marks=())
    ids, _ = await asyncio.to_thread(_encode, runtime.text, body, unmarked, tools)
    count = TokenCount(input_tokens=len(ids), warnings=warnings or UNSET)
    return json_response(count)


def _check_prompt(
    request: web.Request, body: PromptFields, raw: dict[str, Any], found: Findings
) -> Conversation:
    limits = request.app[CONFIG].limits
    if body.output_config is not None:
        check_foreign(raw["output_config"], FOREIGN_OUTPUT_FIELDS, "output_config", found)
    check_variables(body.chat_template_kwargs or {}, limits, found)
    return check_conversation(body, limits, found)


def _check_format(body: PromptFields, found: Findings) -> AnswerFormat | None:
    if body.output_config is None or body.output_config.format is None:
        return None
    path = "output_config.format.schema"
    try:
        spec = GrammarSpec.of_json_schema(body.output_config.format.schema)
    except RequestError as error:
        found.add(path, error.message, error.code)
        return None
    return AnswerFormat(spec=spec, path=path)


def _encode(
    text: TextModel,
    body: PromptFields,
    conversation: Conversation,
    tools: Sequence[ToolSpec],
) -> tuple[tuple[int, ...], list[tuple[tuple[int, ...], float]]]:
    """Ids of the prompt, and what of them each mark covers with its seconds.

    A template may close a message in a way that depends on what follows: only what the prompt up
    to a mark has in common with the whole prompt can be found again.
    """
    variables: dict[str, Any] = {**(body.chat_template_kwargs or {})}
    prompt = write_tools(conversation.messages, tools, text.template)
    ids = text.encode_chat(prompt.messages, tools=prompt.tools, **variables)
    if conversation.prefill:
        ids = ids + text.encode(conversation.prefill, add_special_tokens=False)
    prefixes = []
    for mark in conversation.marks:
        until = write_tools(mark.messages, tools, text.template)
        part = text.encode_chat(
            until.messages, add_generation_prompt=False, tools=until.tools, **variables
        )
        length = next(
            (i for i, (a, b) in enumerate(zip(part, ids, strict=False)) if a != b),
            min(len(part), len(ids)),
        )
        if length:
            prefixes.append((tuple(ids[:length]), mark.ttl_s))
    return tuple(ids), prefixes


async def _hold(
    request: web.Request, prefixes: list[tuple[tuple[int, ...], float]], salt: str
) -> Holding:
    if not prefixes:
        return Holding()
    runs = request.app[RUNS]
    return await hold_prefixes(
        prefixes,
        generator=runs.session.generator,
        pins=runs.pins,
        tenant=request[TENANT],
        salt=salt,
        max_pins=request.app[CONFIG].limits.pins,
        now=runs.now(),
    )
