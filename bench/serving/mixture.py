"""What the clients of a soak do: good requests, bad ones, and clients that leave or do not read."""

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

WORDS = ("the", "model", "answers", "a", "question", "about", "plans", "while", "others", "wait")
ANSWER_S = 120.0  # a request that has no answer for so long counts as unanswered
PLAN = {
    "version": "helium/v1",
    "inputs": {"q": {"type": "text"}},
    "ops": {
        "pro": {"type": "llm.chat", "system": "Argue for.", "user": "{{q}}", "max_tokens": 8},
        "con": {"type": "llm.chat", "system": "Argue against.", "user": "{{q}}", "max_tokens": 8},
        "end": {"type": "llm.chat", "user": "{{q}} {{pro}} {{con}}", "max_tokens": 8},
    },
    "outputs": {"end": "end"},
}
BAD = (
    ("/v1/chat/completions", b"{"),
    ("/v1/chat/completions", b'{"model": 5}'),
    ("/v1/completions", b'{"model": "x", "prompt": "y"}'),
    ("/v1/completions", b'{"prompt": [1.5], "n": -1, "temperature": "hot"}'),
    ("/v1/runs", b'{"plan": {"version": "helium/v9"}}'),
    ("/v1/runs/run_nobody/cancel", b""),
    ("/v1/nothing", b"\xff"),
)


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the requests of one kind.

    Attributes:
        statuses: by status; "left" where the client left, "cut" where the server did.
        unexpected: descriptions of what should not be, a few of them.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)


class Mixture:
    """Clients of one server, each doing one thing after another; all draw from one seed.

    Attributes:
        tallies: by kind of request.
        num_unanswered: requests without an answer after ANSWER_S.
    """

    def __init__(self, session: aiohttp.ClientSession, model: str, *, seed: int) -> None:
        self._session = session
        self._model = model
        self._draws = random.Random(seed)
        self.tallies: dict[str, Tally] = {}
        self.num_unanswered = 0
        self._kinds: tuple[tuple[str, int, Callable[[Tally], Awaitable[None]]], ...] = (
            ("chat", 6, self._chat),
            ("stream", 6, self._stream),
            ("structured", 2, self._structured),
            ("message", 1, self._message),
            ("response", 1, self._respond),
            ("embedding", 1, self._embed),
            ("batch", 1, self._batch),
            ("plan", 3, self._run_plan),
            ("background run", 2, self._run_in_background),
            ("leaves the queue", 3, self._leave_early),
            ("leaves a stream", 3, self._leave_stream),
            ("bad", 4, self._bad),
            ("no http", 1, self._no_http),
            ("warm and unpin", 1, self._warm),
            ("looks", 2, self._look),
        )

    async def run(self, seconds: float, num_clients: int) -> None:
        """Keeps `num_clients` busy for so long; returns when the last request has ended."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        names = [name for name, weight, _ in self._kinds for _ in range(weight)]
        act = {name: function for name, _, function in self._kinds}

        async def client() -> None:
            while loop.time() < until:
                name = self._draws.choice(names)
                await self._once(name, act[name])

        await asyncio.gather(*(client() for _ in range(num_clients)))

    async def _once(self, name: str, act: Callable[[Tally], Awaitable[None]]) -> None:
        tally = self.tallies.setdefault(name, Tally())
        try:
            async with asyncio.timeout(ANSWER_S):
                await act(tally)
        except TimeoutError:
            self.num_unanswered += 1
            tally.statuses["unanswered"] += 1
        except (aiohttp.ClientError, OSError) as error:
            tally.statuses["cut"] += 1
            self._note(tally, f"{type(error).__name__}: {error}")

    # --- kinds -----------------------------------------------------------------------------

    async def _chat(self, tally: Tally) -> None:
        await self._post(tally, "/v1/chat/completions", self._chat_body(), {200, 429})

    async def _stream(self, tally: Tally) -> None:
        body = {**self._chat_body(), "stream": True}
        async with self._session.post("/v1/chat/completions", json=body) as response:
            data = await response.read()
            tally.statuses[str(response.status)] += 1
            if response.status == 200 and not data.endswith(b"data: [DONE]\n\n"):
                self._note(tally, f"a stream without its end: {data[-200:]!r}")
            elif response.status not in (200, 429):
                self._note(tally, f"{response.status}: {data[:200]!r}")

    async def _structured(self, tally: Tally) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        body = {**self._chat_body(), "response_format": form}
        await self._post(tally, "/v1/chat/completions", body, {200, 429})

    async def _message(self, tally: Tally) -> None:
        body = {"model": self._model, "max_tokens": 8, "messages": self._messages()[1:]}
        await self._post(tally, "/v1/messages", body, {200, 429})

    async def _respond(self, tally: Tally) -> None:
        """A response, one that goes on from it, and the first forgotten."""
        body = {"model": self._model, "max_output_tokens": 8, "input": self._text(9)}
        first = await self._post(tally, "/v1/responses", body, {200, 429})
        if first is None or "id" not in first:
            return
        body = {**body, "previous_response_id": first["id"]}
        await self._post(tally, "/v1/responses", body, {200, 429})
        async with self._session.delete(f"/v1/responses/{first['id']}") as answer:
            tally.statuses[str(answer.status)] += 1

    async def _embed(self, tally: Tally) -> None:
        body = {"model": self._model, "input": [self._text(3), self._text(9)]}
        await self._post(tally, "/v1/embeddings", body, {200, 429})

    async def _batch(self, tally: Tally) -> None:
        """A file of three requests; its output when the batch is done, and both files deleted."""
        url = "/v1/chat/completions"
        lines = [
            {"custom_id": str(i), "method": "POST", "url": url, "body": self._chat_body()}
            for i in range(3)
        ]
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", "\n".join(map(json.dumps, lines)), filename="batch.jsonl")
        async with self._session.post("/v1/files", data=form) as response:
            file = await response.json()
            tally.statuses[str(response.status)] += 1
        body = {"input_file_id": file.get("id"), "endpoint": url, "completion_window": "24h"}
        batch = await self._post(tally, "/v1/batches", body, {200, 429})
        while batch is not None and batch.get("status") in (
            "validating",
            "in_progress",
            "finalizing",
        ):
            await asyncio.sleep(0.05)
            async with self._session.get(f"/v1/batches/{batch['id']}") as response:
                batch = await response.json()
        output = (batch or {}).get("output_file_id")
        if batch is not None and "id" in batch and output is None:
            self._note(tally, f"a batch without output: {batch}")
        for one in (file.get("id"), output):
            if one is not None:
                async with self._session.delete(f"/v1/files/{one}") as answer:
                    tally.statuses[str(answer.status)] += 1

    async def _run_plan(self, tally: Tally) -> None:
        await self._post(tally, "/v1/runs", self._run_body(), {200, 429})

    async def _run_in_background(self, tally: Tally) -> None:
        body = {**self._run_body(), "background": True}
        run = await self._post(tally, "/v1/runs", body, {202, 429})
        if run is None or "id" not in run:
            return
        path = f"/v1/runs/{run['id']}"
        if self._draws.random() < 0.4:
            await self._post(tally, f"{path}/cancel", None, {200, 409})
        async with self._session.get(f"{path}/events") as response:
            await response.read()
        async with self._session.delete(path) as response:
            tally.statuses[str(response.status)] += 1

    async def _leave_early(self, tally: Tally) -> None:
        request = self._session.post(
            "/v1/completions", json={**self._completion_body(), "max_tokens": 200}
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._draws.random() * 0.3):
                async with request as response:
                    await response.read()
        tally.statuses["left"] += 1

    async def _leave_stream(self, tally: Tally) -> None:
        body = {**self._completion_body(), "max_tokens": 200, "stream": True, "ignore_eos": True}
        async with self._session.post("/v1/completions", json=body) as response:
            await response.content.readany()
            response.close()
        tally.statuses["left"] += 1

    async def _bad(self, tally: Tally) -> None:
        path, data = self._draws.choice(BAD)
        headers = {"Content-Type": "application/json"}
        async with self._session.post(path, data=data, headers=headers) as response:
            body = await response.read()
            tally.statuses[str(response.status)] += 1
            if not 400 <= response.status < 500 or b'"error"' not in body:
                self._note(tally, f"{path}: {response.status}: {body[:200]!r}")

    async def _no_http(self, tally: Tally) -> None:
        url = self._session._base_url
        assert url is not None
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(self._draws.choice((b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"x" * 20_000)))
        await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        tally.statuses["closed"] += 1

    async def _warm(self, tally: Tally) -> None:
        body = {"text": self._text(40), "pin": True}
        reply = await self._post(tally, "/v1/cache/warm", body, {200, 429})
        for prefix in (reply or {}).get("prefixes", ()):
            if prefix.get("pin"):
                async with self._session.delete(f"/v1/cache/pins/{prefix['pin']['id']}") as answer:
                    tally.statuses[str(answer.status)] += 1

    async def _look(self, tally: Tally) -> None:
        path = self._draws.choice(("/metrics", "/health/ready", "/v1/runs", "/v1/cache"))
        async with self._session.get(path) as response:
            await response.read()
            tally.statuses[str(response.status)] += 1
            if response.status != 200:
                self._note(tally, f"{path}: {response.status}")

    # --- bodies ----------------------------------------------------------------------------

    def _text(self, count: int) -> str:
        return " ".join(self._draws.choice(WORDS) for _ in range(count))

    def _chat_body(self) -> dict[str, Any]:
        return {
            "model": self._model,
            "messages": self._messages(),
            "max_tokens": self._draws.randint(1, 16),
            "temperature": self._draws.choice((0, 0.8)),
            "n": self._draws.choice((1, 1, 1, 3)),
        }

    def _messages(self) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": "You are brief and kind to everybody."},
            {"role": "user", "content": self._text(self._draws.randint(1, 30))},
        ]

    def _completion_body(self) -> dict[str, Any]:
        return {"model": self._model, "prompt": self._text(self._draws.randint(1, 60))}

    def _run_body(self) -> dict[str, Any]:
        rows = [{"q": self._text(5)} for _ in range(self._draws.randint(1, 3))]
        return {"plan": PLAN, "inputs": rows}

    async def _post(
        self, tally: Tally, path: str, body: dict[str, Any] | None, expected: set[int]
    ) -> dict[str, Any] | None:
        data = b"" if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        async with self._session.post(path, data=data, headers=headers) as response:
            text = await response.text()
            tally.statuses[str(response.status)] += 1
            if response.status not in expected:
                self._note(tally, f"{path}: {response.status}: {text[:200]}")
                return None
            return json.loads(text)

    @staticmethod
    def _note(tally: Tally, what: str) -> None:
        if len(tally.unexpected) < 3:
            tally.unexpected.append(what)
