"""curl: the README's calls, streams as they come, keys, and what a shell user gets wrong."""

import json
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")

QUESTION = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 6}
PLAN = {
    "version": "helium/v1",
    "inputs": {"q": {"type": "text"}},
    "ops": {"a": {"type": "llm.chat", "user": "{{q}}", "max_tokens": 4}},
    "outputs": {"a": "a"},
}


@pytest.fixture
def curl(live):
    """Runs curl; gives the status and the body."""

    def run(path, *arguments, body=None, key=live.key, chunked=False):
        command = ["curl", "--silent", "--show-error", "--max-time", "60", *arguments]
        command += ["--write-out", "\n%{http_code}", live.url + path]
        if key is not None:
            command += ["--header", f"Authorization: Bearer {key}"]
        if body is not None:
            text = body if isinstance(body, str) else json.dumps(body)
            command += ["--header", "Content-Type: application/json", "--data-binary", "@-"]
            if chunked:
                command += ["--header", "Transfer-Encoding: chunked"]
        else:
            text = ""
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
        answer, _, status = done.stdout.rpartition("\n")
        return int(status), answer

    return run


@pytest.mark.shows(client="curl", endpoint="POST /v1/chat/completions", what="whole and stream")
def test_the_pieces_of_a_stream_are_the_whole_answer(curl, live):
    body = {"model": live.model, **QUESTION}
    status, whole = curl("/v1/chat/completions", body=body)
    assert status == 200
    status, streamed = curl("/v1/chat/completions", "--no-buffer", body={**body, "stream": True})
    assert status == 200
    data = [line.removeprefix("data: ") for line in streamed.splitlines() if line]
    assert data.pop() == "[DONE]"
    choices = [choice for one in data for choice in json.loads(one)["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert text == json.loads(whole)["choices"][0]["message"]["content"]


@pytest.mark.shows(client="curl", endpoint="POST /v1/completions", what="whole")
def test_a_prompt_is_continued(curl, live):
    body = {"model": live.model, "prompt": "Once", "max_tokens": 3}
    status, answer = curl("/v1/completions", body=body)
    assert status == 200
    assert json.loads(answer)["usage"]["completion_tokens"] <= 3


@pytest.mark.shows(client="curl", endpoint="POST /v1/responses", what="whole, by id, deleted")
def test_a_response_is_kept_until_it_is_deleted(curl, live):
    body = {"model": live.model, "input": "Hello", "max_output_tokens": 4}
    status, answer = curl("/v1/responses", body=body)
    assert status == 200
    first = json.loads(answer)
    assert curl(f"/v1/responses/{first['id']}") == (200, answer)
    status, after = curl("/v1/responses", body={**body, "previous_response_id": first["id"]})
    assert status == 200
    cost = json.loads(after)["usage"]
    assert cost["input_tokens"] > first["usage"]["input_tokens"]
    assert sum(cost["helium"].values()) == cost["input_tokens"]
    assert curl(f"/v1/responses/{first['id']}", "--request", "DELETE")[0] == 200
    assert curl(f"/v1/responses/{first['id']}")[0] == 404


@pytest.mark.shows(client="curl", endpoint="POST /v1/runs", what="wait, events, outputs")
def test_a_plan_runs_and_is_explained(curl):
    body = {"plan": PLAN, "inputs": [{"q": "Hello"}, {"q": "Bye"}]}
    status, answer = curl("/v1/runs", body=body)
    assert status == 200
    run = json.loads(answer)
    assert [row["row"] for row in run["outputs"]] == [0, 1]
    status, lines = curl(f"/v1/runs/{run['id']}/outputs")
    assert status == 200
    assert [json.loads(line) for line in lines.splitlines()] == run["outputs"]
    status, events = curl(f"/v1/runs/{run['id']}/events")
    assert status == 200
    assert "event: run.completed" in events
    status, text = curl(f"/v1/runs/{run['id']}/explain?analyze=true&format=text")
    assert status == 200
    assert "Execution:" in text


@pytest.mark.shows(client="curl", endpoint="POST /v1/plans/explain", what="text")
def test_a_plan_is_explained_without_a_run(curl):
    status, answer = curl("/v1/plans/explain?format=text", body={"plan": PLAN})
    assert status == 200
    assert "Prompt tokens: without any reuse" in answer
    assert "Execution:" not in answer


@pytest.mark.parametrize(
    "path", ["/health", "/health/ready", "/v1/models", "/metrics", "/openapi.json", "/v1/cache"]
)
@pytest.mark.shows(client="curl", endpoint="GET /health, /v1/models, /metrics", what="200")
def test_what_can_be_asked_is_answered(curl, path):
    status, answer = curl(path)
    assert (status, bool(answer)) == (200, True)


@pytest.mark.shows(client="curl", endpoint="every path", what="401 without a key")
@pytest.mark.parametrize("path", ["/v1/models", "/v1/runs", "/metrics", "/no/such/path"])
def test_nothing_is_said_without_the_key(curl, path):
    for key in (None, "wrong"):
        status, answer = curl(path, key=key)
        assert status == 401
        assert json.loads(answer)["error"]["code"] == "invalid_api_key"


@pytest.mark.shows(client="curl", endpoint="POST /v1/completions", what="large and chunked bodies")
def test_a_body_may_come_in_chunks_and_after_a_question(curl, live):
    """curl asks `Expect: 100-continue` before a large body."""
    body = {"model": live.model, "prompt": "Once", "max_tokens": 3, "user": "u" * 2_000_000}
    whole = curl("/v1/completions", body=body)
    assert whole[0] == 200
    assert curl("/v1/completions", body=body, chunked=True)[0] == 200


@pytest.mark.shows(client="curl", endpoint="POST /v1/chat/completions", what="errors")
@pytest.mark.parametrize("body", ["{'model': 'single quotes'}", "model=form", '{"model": '])
def test_a_body_that_is_no_json_is_named_so(curl, body):
    status, answer = curl("/v1/chat/completions", body=body)
    assert status == 400
    assert json.loads(answer)["error"]["code"] == "invalid_json"
