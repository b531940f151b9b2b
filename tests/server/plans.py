"""A plan for the server's tests, and how to talk to its runs."""

import asyncio
import json

DEBATE = {
    "version": "helium/v1",
    "name": "debate",
    "inputs": {"question": {"type": "text"}},
    "ops": {
        "pro": {
            "type": "llm.chat",
            "system": "You argue FOR.",
            "user": "{{question}}",
            "max_tokens": 8,
        },
        "con": {
            "type": "llm.chat",
            "system": "You argue AGAINST.",
            "user": "{{question}}",
            "max_tokens": 8,
        },
        "judge": {
            "type": "llm.chat",
            "system": "You are a fair judge.",
            "user": "{{question}}\nFOR: {{pro}}\nAGAINST: {{con}}",
            "max_tokens": 8,
        },
    },
    "outputs": {"verdict": "judge", "for": "pro"},
}
QUESTIONS = [{"question": f"Is {number} a good number?"} for number in range(4)]
RUN = {"plan": DEBATE, "inputs": QUESTIONS}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def read_events(body):
    """(id, event) of each server-sent event."""
    events = []
    for block in body.decode().split("\n\n"):
        if not block or block.startswith(":"):
            continue
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        event = json.loads(fields["data"])
        assert fields["event"] == event["type"]
        assert fields["id"] == event["id"]
        events.append((fields["id"], event))
    return events


def read_rows(answer):
    return [json.loads(line) for line in answer.body.decode().splitlines()]


async def until(condition):
    """Waits for a condition that the running loop brings about."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


async def until_state(served, run_id, *states, **kwargs):
    """Waits until a run has one of these states; returns it."""
    async with asyncio.timeout(30):
        while True:
            run = (await served.get(f"/v1/runs/{run_id}", **kwargs)).json()
            if run["state"] in states:
                return run
            await asyncio.sleep(0.005)
