"""A server on a real socket in front of a fake generator, and a plain HTTP client for it."""

import contextlib
import io
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jax
import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from helium_jax.models.config import ModelConfig
from helium_jax.models.params import init_params
from helium_jax.models.rope import Rope
from helium_jax.models.save import save_hf
from helium_jax.server import RunningServer, ServerConfig, make_app, start_server
from helium_jax.testing import FAKE_EOS_ID, FakeGenerator
from helium_jax.text import TextModel, load_text
from helium_jax.text.byte_level import BYTE_OF_CHAR
from helium_jax.types import Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class StubRuntime:
    """What the server asks of a runtime."""

    generator: Generator
    text: TextModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error envelope, checked for its shape."""
        assert self.headers["Content-Type"].startswith("application/json"), self.body
        assert self.headers["x-request-id"]
        inner = self.json()["error"]
        assert isinstance(inner["message"], str)
        assert isinstance(inner["type"], str)
        assert isinstance(inner["code"], str)
        assert inner["param"] is None or isinstance(inner["param"], str)
        return inner

    def events(self) -> list[Any]:
        """The data of each server-sent event, "[DONE]" as it is."""
        blocks = self.body.decode("utf-8").split("\n\n")
        assert blocks.pop() == "", "the last event ends with an empty line"
        lines = [block for block in blocks if not block.startswith(":")]
        assert all(line.startswith("data: ") for line in lines), lines
        data = [line.removeprefix("data: ") for line in lines]
        return [one if one == "[DONE]" else json.loads(one) for one in data]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running server and how to talk to it."""

    server: RunningServer
    generator: Any
    text: TextModel
    session: aiohttp.ClientSession
    config: ServerConfig

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def ask(self, method: str, path: str, **kwargs: Any) -> Answer:
        async with self.session.request(method, self.url + path, **kwargs) as response:
            return Answer(
                status=response.status, headers=response.headers, body=await response.read()
            )

    async def get(self, path: str, **kwargs: Any) -> Answer:
        return await self.ask("GET", path, **kwargs)

    async def post(self, path: str, body: Any, **kwargs: Any) -> Answer:
        """Posts JSON; bytes are sent as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **kwargs.pop("headers", {})}
        return await self.ask("POST", path, data=io.BytesIO(data), headers=headers, **kwargs)

    async def chat(self, **fields: Any) -> Answer:
        return await self.post("/v1/chat/completions", {**CHAT, **fields})

    async def complete(self, **fields: Any) -> Answer:
        return await self.post("/v1/completions", {**COMPLETION, **fields})


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {{ mood }}{% endif %}"
)
GENERATION = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "eos_token_id": FAKE_EOS_ID}
CHAT = {
    "model": "fake",
    "messages": [{"role": "user", "content": "Who are you?"}],
    "temperature": 0,
    "max_tokens": 8,
}
COMPLETION = {"model": "fake", "prompt": "Once upon", "temperature": 0, "max_tokens": 8}


def load_test_text() -> TextModel:
    """A byte-level tokenizer, as FakeGenerator's answers suppose: ids below 256 are bytes."""
    with tempfile.TemporaryDirectory() as name:
        write_text_files(Path(name))
        return load_text(Path(name))


def write_text_files(folder: Path) -> None:
    """What a model folder holds of that tokenizer."""
    tokenizer = Tokenizer(BPE(dict(BYTE_OF_CHAR), []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens(["<|end|>"])
    assert tokenizer.token_to_id("<|end|>") == FAKE_EOS_ID
    settings = {"eos_token": "<|end|>", "chat_template": CHAT_TEMPLATE}
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))


Serve = Callable[..., contextlib.AbstractAsyncContextManager[Served]]


@pytest.fixture(scope="session")
def text() -> TextModel:
    return load_test_text()


@pytest.fixture
def serve(text) -> Serve:
    """Starts servers: `async with serve(generator, strict=True) as served`."""

    def start(generator: Any = None, **config: Any) -> Any:
        runtime = StubRuntime(generator=generator or FakeGenerator(), text=text)
        return serve_runtime(runtime, **config)

    return start


@contextlib.asynccontextmanager
async def serve_runtime(runtime: Any, **config: Any) -> AsyncIterator[Served]:
    """A server for `runtime` on a free port, and a client session."""
    server_config = ServerConfig(**{"port": 0, **config})
    server = await start_server(make_app(runtime, server_config), server_config)
    try:
        async with aiohttp.ClientSession() as session:
            yield Served(
                server=server,
                generator=runtime.generator,
                text=runtime.text,
                session=session,
                config=server_config,
            )
    finally:
        await server.close()


TINY = ModelConfig(
    family="qwen3",
    vocab_size=FAKE_EOS_ID + 1,
    width=32,
    num_layers=2,
    num_q_heads=4,
    num_kv_heads=2,
    head_size=8,
    ffn_width=64,
    max_position=256,
    rope=Rope(theta=10000.0),
    qk_norm=True,
    eos_token_ids=(FAKE_EOS_ID,),
)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A whole model folder with random weights and the byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "fake"
    save_hf(folder, TINY, init_params(TINY, jax.random.key(1)))
    write_text_files(folder)
    return folder
