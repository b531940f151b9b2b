"""POST /v1/embeddings: the forms of input, vectors as OpenAI's client reads them, refusals."""

import base64
import struct

import pytest

from helium_jax.testing import FakeGenerator

ASK = {"model": "fake", "input": "Hi"}


async def test_every_form_of_input_gives_its_vectors(serve):
    async with serve() as served:
        ids = list(b"Hi")
        for given, count in (("Hi", 1), (["Hi", "you"], 2), (ids, 1), ([ids, [1]], 2)):
            answer = await served.post("/v1/embeddings", {**ASK, "input": given})
            assert answer.status == 200
            reply = answer.json()
            assert reply["object"] == "list"
            assert [one["index"] for one in reply["data"]] == [*range(count)]
            assert reply["data"][0]["embedding"] == list(await served.generator.embed(ids))
        assert reply["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        assert reply["pooling"] == "mean"


async def test_base64_is_the_same_vector(serve):
    async with serve() as served:
        plain = (await served.post("/v1/embeddings", ASK)).json()["data"][0]["embedding"]
        packed = await served.post("/v1/embeddings", {**ASK, "encoding_format": "base64"})
        raw = base64.b64decode(packed.json()["data"][0]["embedding"])
        assert [*struct.unpack(f"<{len(plain)}f", raw)] == pytest.approx(plain)


async def test_the_model_card_says_what_the_vectors_are(serve):
    async with serve() as served:
        card = (await served.get("/v1/models/fake")).json()
        assert card["embeddings"] == "mean-pooled last hidden states, length 1, 8 numbers"


BAD = {
    "empty text": ({"input": ""}, "input", "invalid_request"),
    "empty list": ({"input": []}, "input", "invalid_request"),
    "an empty one": ({"input": ["a", ""]}, "input[1]", "invalid_request"),
    "no token": ({"input": [512]}, "input[0]", "invalid_request"),
    "too long": ({"input": "x" * 5000}, "input", "context_length_exceeded"),
    "too long in ids": ({"input": [7] * 5000}, "input", "context_length_exceeded"),
    "dimensions": ({"dimensions": 4}, "dimensions", "unsupported_parameter"),
    "format": ({"encoding_format": "int8"}, "encoding_format", "invalid_request"),
    "truncation": (
        {"truncate_prompt_tokens": 4},
        "truncate_prompt_tokens",
        "unsupported_parameter",
    ),
    "too many": ({"input": ["x"] * 1025}, "input", "invalid_request"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_cannot_be_done_is_named(serve, case):
    fields, param, code = BAD[case]
    async with serve() as served:
        answer = await served.post("/v1/embeddings", {**ASK, **fields})
        assert answer.status == 400
        assert (answer.error["param"], answer.error["code"]) == (param, code)


async def test_an_engine_without_vectors_says_so(serve):
    class Plain:
        """All of a generator but its vectors."""

        def __init__(self):
            self._inner = FakeGenerator()

        def __getattr__(self, name):
            if name in ("embed", "embedding_size"):
                raise AttributeError(name)
            return getattr(self._inner, name)

    async with serve(Plain()) as served:
        answer = await served.post("/v1/embeddings", ASK)
        assert (answer.status, answer.error["code"]) == (400, "unsupported")
        assert "embeddings" not in (await served.get("/v1/models/fake")).json()
