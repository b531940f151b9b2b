"""POST /v1/embeddings: texts as vectors, the mean of a language model's last hidden states."""

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from helium_jax.errors import RequestError
from helium_jax.server.admission import working
from helium_jax.server.hint_bodies import HintFields
from helium_jax.server.hints import check_hints
from helium_jax.server.openai.bodies import Name
from helium_jax.server.openai.jobs import check_model
from helium_jax.server.openai.prompts import check_fits, check_prompts, encode_prompts
from helium_jax.server.openai.sampling import check_foreign
from helium_jax.server.receive import finish_reading, parse_body, receive_object
from helium_jax.server.state import CONFIG, METRICS, RUNTIME, TENANT, WAITING_ROOM, Asking
from helium_jax.server.writing import json_response
from helium_jax.types import Embeds

POOLING = "mean"


class EmbeddingsBody(HintFields, kw_only=True, frozen=True):
    """POST /v1/embeddings; `input` is a text, texts, token ids, or lists of token ids."""

    model: Name
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    add_special_tokens: bool | None = None


FOREIGN_EMBEDDINGS_FIELDS: dict[str, tuple[Any, ...]] = {
    "additional_data": (),
    "input_type": (),
    "messages": (),
    "normalize": (True,),
    "truncate_prompt_tokens": (),
}


class Embedding(Struct, kw_only=True, frozen=True):
    """The vector of one input, of length one; base64 holds little-endian float32."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


class EmbeddingsUsage(Struct, kw_only=True, frozen=True):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(Struct, kw_only=True, frozen=True):
    """Answer of POST /v1/embeddings.

    `pooling` says what the vectors are: means over the last hidden states of a model that was
    trained to continue texts, not to compare them.
    """

    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage
    object: str = "list"
    pooling: str = POOLING
    warnings: list[str] | UnsetType = UNSET


async def post_embeddings(request: web.Request) -> web.Response:
    """Makes a vector of each input."""
    with working(request):
        reply = await make_embeddings(request, await receive_object(request))
        return json_response(reply)


async def make_embeddings(asking: Asking, raw: dict[str, Any]) -> EmbeddingsReply:
    """Checks a body and makes its vectors.

    Raises:
        RequestError: names every fault.
        NotFoundError: the model is not served.
        CapacityError: too much waits.
    """
    runtime, config = asking.app[RUNTIME], asking.app[CONFIG]
    generator, info = runtime.generator, runtime.generator.info
    body, found = parse_body(EmbeddingsBody, raw)
    check_foreign(raw, FOREIGN_EMBEDDINGS_FIELDS, "", found)
    prompts, hinted = [], ()
    if body is not None:
        prompts = check_prompts(body.input, info, config.limits, found, name="input")
        unused = ("prompt_cache_key", "nvext.agent_hints.priority")
        hinted = check_hints(body, None, config.limits, found, unused=unused).warnings
    warnings = [*finish_reading(found, strict=config.strict), *hinted]
    assert body is not None, "a body that cannot be read has problems"
    check_model(asking, body.model)
    if not isinstance(generator, Embeds):
        raise RequestError("this server's engine makes no vectors", code="unsupported")
    _check_dimensions(body.dimensions, generator.embedding_size)
    encoded = await encode_prompts(
        prompts, runtime.text, add_special_tokens=body.add_special_tokens is not False
    )
    for prompt, ids in zip(prompts, encoded, strict=True):
        check_fits(len(ids), None, info.max_model_len, prompt.path)
    lengths = [len(ids) for ids in encoded]
    data = []
    with asking.app[WAITING_ROOM].enter(asking[TENANT], lengths) as on_begun:
        for index, ids in enumerate(encoded):
            vector = await generator.embed(ids)
            on_begun(index)
            data.append(Embedding(index=index, embedding=_written(vector, body.encoding_format)))
    num_tokens = sum(lengths)
    asking.app[METRICS].count("prompt_tokens_total", num_tokens)
    return EmbeddingsReply(
        data=data,
        model=info.name,
        usage=EmbeddingsUsage(prompt_tokens=num_tokens, total_tokens=num_tokens),
        warnings=warnings or UNSET,
    )


def describe_embeddings(generator: object) -> str | UnsetType:
    """What a model card says of the model's vectors."""
    if not isinstance(generator, Embeds):
        return UNSET
    return f"{POOLING}-pooled last hidden states, length 1, {generator.embedding_size} numbers"


def _check_dimensions(wanted: int | None, size: int) -> None:
    if wanted not in (None, size):
        raise RequestError(
            f"dimensions={wanted}: this model's vectors have {size} numbers and were not trained "
            "to be cut; leave dimensions out",
            code="unsupported_parameter",
            param="dimensions",
        )


def _written(vector: Sequence[float], encoding: str | None) -> list[float] | str:
    if encoding != "base64":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
