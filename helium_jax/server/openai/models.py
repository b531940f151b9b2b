"""GET /v1/models, POST /tokenize and /detokenize: what is served and how it sees text."""

import asyncio

import msgspec
from aiohttp import web
from msgspec import UNSET

from helium_jax.server.errors import NotFoundError
from helium_jax.server.openai.bodies import DetokenizeBody, TokenizeBody
from helium_jax.server.openai.embeddings import describe_embeddings
from helium_jax.server.openai.jobs import check_model, model_names
from helium_jax.server.openai.prompts import check_ids, check_messages
from helium_jax.server.openai.replies import DetokenizeReply, ModelCard, ModelList, TokenizeReply
from helium_jax.server.receive import finish_reading, parse_body, receive_object
from helium_jax.server.state import CONFIG, RUNTIME, STARTED_UNIX
from helium_jax.server.tools import write_tools
from helium_jax.server.tools.request import read_tools
from helium_jax.server.writing import json_response


async def get_models(request: web.Request) -> web.Response:
    """Everything that `model` may be."""
    return json_response(ModelList(data=[_card(request, name) for name in model_names(request)]))


async def get_model(request: web.Request) -> web.Response:
    """One model."""
    name = request.match_info["model"]
    if name not in model_names(request):
        raise NotFoundError(
            f"the model {name[:256]!r} is not served here", code="model_not_found", param="model"
        )
    return json_response(_card(request, name))


async def post_tokenize(request: web.Request) -> web.Response:
    """Token ids of a text, or of a conversation as the chat template renders it."""
    runtime, config = request.app[RUNTIME], request.app[CONFIG]
    raw = await receive_object(request)
    body, found = parse_body(TokenizeBody, raw)
    messages, tools = None, []
    if body is not None:
        tools = read_tools(body.tools or [], config.limits, found)
        if (body.prompt is None) == (body.messages is None):
            found.add("prompt", "send either prompt or messages")
        if body.prompt is not None and len(body.prompt) > config.limits.prompt_chars:
            found.add("prompt", f"is over this server's limit of {config.limits.prompt_chars}")
        if body.messages is not None:
            messages = check_messages(body.messages, raw["messages"], config.limits, found)
    warnings = finish_reading(found, strict=config.strict)
    assert body is not None, "a body that cannot be read has problems"
    if body.model is not None:
        check_model(request, body.model)
    if messages is not None:
        prompt = write_tools(messages, tools, runtime.text.template)
        ids = await asyncio.to_thread(
            runtime.text.encode_chat,
            prompt.messages,
            tools=prompt.tools,
            add_generation_prompt=body.add_generation_prompt is not False,
        )
    else:
        ids = await asyncio.to_thread(
            runtime.text.encode,
            body.prompt or "",
            add_special_tokens=body.add_special_tokens is not False,
        )

    def write() -> bytes:
        token_strs = None
        if body.return_token_strs:
            token_strs = [runtime.text.token_bytes(i).decode("utf-8", "replace") for i in ids]
        reply = TokenizeReply(
            tokens=list(ids),
            count=len(ids),
            max_model_len=runtime.generator.info.max_model_len,
            token_strs=token_strs,
            warnings=warnings or UNSET,
        )
        return msgspec.json.encode(reply)

    return _response(await asyncio.to_thread(write))


async def post_detokenize(request: web.Request) -> web.Response:
    """The text of token ids, special tokens included."""
    runtime, config = request.app[RUNTIME], request.app[CONFIG]
    raw = await receive_object(request)
    body, found = parse_body(DetokenizeBody, raw)
    if body is not None:
        check_ids(body.tokens, "tokens", runtime.generator.info, found)
    warnings = finish_reading(found, strict=config.strict)
    assert body is not None, "a body that cannot be read has problems"
    if body.model is not None:
        check_model(request, body.model)
    text = await asyncio.to_thread(runtime.text.decode, body.tokens, skip_special_tokens=False)
    return json_response(DetokenizeReply(prompt=text, warnings=warnings or UNSET))


def _card(request: web.Request, name: str) -> ModelCard:
    generator = request.app[RUNTIME].generator
    return ModelCard(
        id=name,
        created=request.app[STARTED_UNIX],
        max_model_len=generator.info.max_model_len,
        embeddings=describe_embeddings(generator),
    )


def _response(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
