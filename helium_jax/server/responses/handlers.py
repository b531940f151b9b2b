"""/v1/responses: OpenAI's Responses API, its answers kept and continued by their ids."""

import asyncio
import time
from functools import partial
from typing import Any

from aiohttp import web
from msgspec import UNSET

from helium_jax.errors import RequestError
from helium_jax.server.admission import working
from helium_jax.server.files.paging import in_order, page_of
from helium_jax.server.openai.answering import Job, answer
from helium_jax.server.openai.formats import Heading
from helium_jax.server.openai.jobs import make_heading, make_requests
from helium_jax.server.openai.prompts import check_fits
from helium_jax.server.openai.response_format import compile_answer
from helium_jax.server.openai.sampling import stop_strings
from helium_jax.server.openai.turns import TemplateMessage, Turns
from helium_jax.server.plans.replies import DeletedReply
from helium_jax.server.receive import receive_object
from helium_jax.server.responses.format import ResponsesFormat, ResponsesWire
from helium_jax.server.responses.listing import list_items
from helium_jax.server.responses.prompt import with_instructions
from helium_jax.server.responses.replies import (
    InputItemList,
    InputTokens,
    OutputMessage,
    ResponseReply,
)
from helium_jax.server.responses.request import AskedResponse, read_response
from helium_jax.server.responses.shelf import RESPONSES, KeptResponse
from helium_jax.server.state import RUNTIME, TENANT, Asking
from helium_jax.server.tools import ToolPrompt, shown_tokens, write_tools
from helium_jax.server.tools.calls import read_arguments
from helium_jax.server.tools.specs import parser_maker
from helium_jax.server.writing import json_response


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
    asked = read_response(request, raw)
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
    return web.Response(body=_find(request).reply, content_type="application/json")


async def get_input_items(request: web.Request) -> web.Response:
    """What a response went on from, the latest first."""
    kept = _find(request)
    messages = kept.read_messages()[: kept.num_inputs]
    items = in_order(request, list_items(messages, request.match_info["response_id"]))
    page, has_more = page_of(request, items, default_limit=20)
    return json_response(
        InputItemList(
            data=page,
            has_more=has_more,
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
        )
    )


def _find(request: web.Request) -> KeptResponse:
    return request.app[RESPONSES].get(
        request[TENANT],
        request.match_info["response_id"],
        param="response_id",
        code="response_not_found",
    )


async def delete_response(request: web.Request) -> web.Response:
    """Forgets a response."""
    response_id = request.match_info["response_id"]
    request.app[RESPONSES].remove(request[TENANT], response_id)
    return json_response(DeletedReply(id=response_id, object="response"))


async def prepare_response(
    asking: Asking, raw: dict[str, Any], started: float
) -> tuple[Job, ResponsesFormat]:
    """Checks a body; what is to run, and how its answer is written.

    Raises:
        RequestError: names every fault.
        NotFoundError: the model is not served, or the previous response is not kept.
    """
    runtime = asking.app[RUNTIME]
    asked = read_response(asking, raw)
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


async def _encode(asking: Asking, asked: AskedResponse) -> tuple[ToolPrompt, tuple[int, ...]]:
    text, body = asking.app[RUNTIME].text, asked.body
    messages = with_instructions(body.instructions, asked.turns.messages)
    prompt = write_tools(messages, asked.tools, text.template)
    variables: dict[str, Any] = {**(body.chat_template_kwargs or {})}
    ids = await asyncio.to_thread(
        text.encode_chat, prompt.messages, tools=prompt.tools, **variables
    )
    return prompt, tuple(ids)


def _draft(asked: AskedResponse, raw: dict[str, Any], heading: Heading) -> ResponseReply:
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
    num_inputs = len(messages)
    for item in reply.output:
        if isinstance(item, OutputMessage):
            turns.add_message("assistant", "".join(part.text for part in item.content))
        else:
            arguments = read_arguments(item.arguments)
            turns.add_call(item.call_id, item.name, arguments, num_chars=len(item.arguments))
    asking.app[RESPONSES].put(asking[TENANT], reply, turns.messages, num_inputs=num_inputs)
