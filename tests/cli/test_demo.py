"""helium-jax demo: runs both ways, checks what it says, and its exit code means it."""

import asyncio
import contextlib
import dataclasses
import io
import re

import aiohttp
import pytest
from rich.console import Console

from helium_jax.builtin.workloads import WORKLOADS, make_workload
from helium_jax.cli import demo as demo_module
from helium_jax.cli.demo import Outcome, curl_line, make_table, say_verdict
from helium_jax.cli.main import main
from helium_jax.executor import NAIVE, RunOptions, run_plan
from helium_jax.plan import parse_plan
from helium_jax.runtime import Runtime
from helium_jax.testing import FakeGenerator, FakeText


def know_it_all(request):
    """Reads the prompt as a perfect model would; the bytes of its answer."""
    prompt = bytes(i if i < 256 else 10 for i in request.token_ids).decode()
    items = re.findall(r"^- (.*)$", prompt, re.MULTILINE)
    if "most common" in prompt:
        return max(items, key=items.count).encode()
    key = re.search(r"What is the \w+ of (\w+)\?", prompt)[1]
    return re.search(rf"^{key}: (.*)$", prompt, re.MULTILINE)[1].encode()


def outcomes_of():
    async def both(name):
        workload = make_workload(name, num_rows=4)
        plan, _ = parse_plan(workload.plan_source, is_json=False)
        naive, shared = [
            await run_plan(
                plan,
                workload.rows,
                generator=FakeGenerator(reply=know_it_all),
                codec=FakeText(),
                options=options,
            )
            for options in (NAIVE, RunOptions())
        ]
        return Outcome(workload=workload, naive=naive, shared=shared)

    return [asyncio.run(both(name)) for name in WORKLOADS]


def verdict(outcomes):
    console = Console(width=80, file=io.StringIO())
    console.print(make_table(outcomes))
    code = say_verdict(outcomes, console)
    return code, console.file.getvalue()


def test_right_and_identical_outputs_are_a_success():
    outcomes = outcomes_of()
    assert [outcome.accuracy for outcome in outcomes] == [1.0, 1.0]
    code, text = verdict(outcomes)
    assert code == 0
    assert text.count("outputs identical") == 2
    assert "100.0%" in text


def test_wrong_answers_are_a_failure_even_when_identical():
    outcome = outcomes_of()[0]
    wrong = dataclasses.replace(
        outcome.workload, answers=tuple({"verdict": "x"} for _ in outcome.workload.answers)
    )
    code, text = verdict([dataclasses.replace(outcome, workload=wrong)])
    assert code == 1
    assert "0.0% right, below 95%" in text


def test_outputs_that_differ_in_one_row_are_a_failure():
    outcome = outcomes_of()[0]
    row = outcome.shared.rows[2]
    other = dataclasses.replace(row, outputs={**row.outputs, "expert_3": "else"})
    rows = (*outcome.shared.rows[:2], other, *outcome.shared.rows[3:])
    code, text = verdict(
        [dataclasses.replace(outcome, shared=dataclasses.replace(outcome.shared, rows=rows))]
    )
    assert code == 1
    assert "OUTPUTS DIFFER" in text


def test_the_curl_line_is_one_shell_command():
    line = curl_line(8000, "m")
    assert "\n" not in line
    assert line.count("'") == 4


def put_fake(monkeypatch, *, knows):
    """Lets the demo run a generator that knows everything, or nothing."""

    @contextlib.asynccontextmanager
    async def open_fake(model, config, *, progress):
        assert config.deterministic
        generator = FakeGenerator(reply=know_it_all if knows else None)
        yield Runtime(name="fake", generator=generator, text=FakeText())

    monkeypatch.setattr(demo_module, "open_runtime", open_fake)


@pytest.mark.parametrize(("knows", "code"), [(True, 0), (False, 1)])
def test_the_whole_demo_runs_behind_a_real_server(monkeypatch, capsys, knows, code):
    put_fake(monkeypatch, knows=knows)
    assert main(["demo", "--exit", "--rows=3"]) == code
    out = capsys.readouterr().out
    assert out.count("outputs identical") == 2
    assert "first token after" in out
    assert "/viewer/" not in out
    if knows:
        assert "over HTTP, the majority of yes, no, yes: 'yes'" in out


def test_a_demo_that_stays_up_leaves_runs_for_the_viewer(monkeypatch, capsys):
    seen = {}

    async def look(server, shutdown_timeout_s, say, *, watch):
        watch.close()
        url = f"http://127.0.0.1:{server.port}"
        async with aiohttp.ClientSession(url) as session:
            async with session.get("/viewer/") as page:
                seen["page"] = await page.text()
            seen["runs"] = []
            while not all(run["state"] == "completed" for run in seen["runs"]) or not seen["runs"]:
                async with session.get("/v1/runs") as answer:
                    seen["runs"] = (await answer.json())["data"]
        seen["url"] = f"{url}/viewer/"
        return 0

    put_fake(monkeypatch, knows=True)
    monkeypatch.setattr(demo_module, "serve_until_signal", look)
    assert main(["demo", "--rows=3", "--port=0"]) == 0
    assert seen["url"] in capsys.readouterr().out
    assert "<title>helium-jax viewer</title>" in seen["page"]
    assert len(seen["runs"]) == len(WORKLOADS)
    assert {run["rows"]["finished"] for run in seen["runs"]} == {3}
