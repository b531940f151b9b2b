"""Plans over HTTP: registering, listing, the schema, and EXPLAIN without any call."""

import asyncio
import copy
import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
import yaml

from helium_jax.plan import encode_json
from helium_jax.plan.wire import load_plan
from helium_jax.server.plans.schema import plan_schema
from tests.server.plans import DEBATE, QUESTIONS, bearer

EXAMPLES = sorted(Path("tests/plan/examples").glob("*.yaml"))
BUILTIN = sorted(Path("helium_jax/builtin/plans").glob("*.yaml"))


async def test_a_plan_is_registered_once_and_found_again(serve):
    async with serve() as served:
        first = await served.post("/v1/plans", {"plan": DEBATE})
        assert first.status == 200
        assert first.json()["id"].startswith("plan_")
        assert first.json()["plan"]["outputs"] == DEBATE["outputs"]
        shuffled = dict(reversed(DEBATE.items()))
        again = await served.post("/v1/plans", {"plan": shuffled})
        assert again.json()["id"] == first.json()["id"]
        listed = (await served.get("/v1/plans")).json()["data"]
        assert [one["id"] for one in listed] == [first.json()["id"]]
        found = await served.get(f"/v1/plans/{first.json()['id']}")
        assert found.json() == first.json()
        missing = await served.get("/v1/plans/plan_0")
        assert (missing.status, missing.error["code"]) == (404, "plan_not_found")
        assert not served.generator.requests


async def test_all_problems_of_a_plan_are_named_with_their_paths(serve):
    plan = copy.deepcopy(DEBATE)
    plan["version"] = "helium/v9"
    plan["ops"]["judge"]["user"] = "{{pro}} and {{kon}}"
    plan["ops"]["pro"]["temperature"] = "hot"
    plan["outputs"]["verdict"] = "juge"
    async with serve() as served:
        answer = await served.post("/v1/plans", {"plan": plan})
        assert answer.status == 400
        assert answer.error["code"] == "plan_invalid"
        problems = {one["param"]: one for one in answer.error["problems"]}
        assert set(problems) == {
            "plan.version",
            "plan.ops.judge.user",
            "plan.ops.pro.temperature",
            "plan.outputs.verdict",
        }
        assert "con" in problems["plan.ops.judge.user"]["message"]
        assert problems["plan.outputs.verdict"]["code"] == "unknown_reference"


# Rows of bad_requests.md by number: what is wrong with a plan, the code and the path.
BAD_PLANS = [
    ({"version": None}, "unknown_version", "plan.version"),  # 47
    ({"version": "helium/v9"}, "unknown_version", "plan.version"),
    ({"outputs": {"o": "nothing"}}, "unknown_reference", "plan.outputs.o"),  # 48
    ({"ops": {"o": {"type": "shell"}}}, "unknown_op_type", "plan.ops.o.type"),  # 50
    ({"outputs": {}}, "no_outputs", "plan.outputs"),  # 51
    (  # 52
        {"ops": {f"c{i}": {"type": "const", "value": "x"} for i in range(10_001)}},
        "plan_too_large",
        "plan.ops",
    ),
    *(  # 54
        ({"ops": {"o": {"type": "template", "template": text}}}, "template_syntax", None)
        for text in ("{{", "{{ x.y }}", "{{ x | f }}", "{% if %}", "{{{{x}}}}")
    ),
    (  # 55
        {"ops": {"o": {"type": "branch", "if": "__import__('os')", "then": "question"}}},
        None,
        "plan.ops.o.if",
    ),
    ({"limits": {"max_llm_calls": -1}}, "plan_invalid", "plan.limits.max_llm_calls"),  # 57
    ({"webhook": "http://169.254.169.254/"}, None, "plan.webhook"),  # 62
]


@pytest.mark.parametrize(("change", "code", "path"), BAD_PLANS)
async def test_a_bad_plan_gets_its_code_and_path(serve, change, code, path):
    plan = {
        "version": "helium/v1",
        "inputs": {"question": {"type": "text"}},
        "ops": {"o": {"type": "llm.completion", "prompt": "{{question}}", "max_tokens": 4}},
        "outputs": {"o": "o"},
        **change,
    }
    async with serve() as served:
        for where in ("/v1/plans", "/v1/plans/explain", "/v1/runs", "/v1/cache/warm"):
            answer = await served.post(where, {"plan": plan})
            assert answer.status == 400, (where, answer.body)
            problems = answer.error.get("problems") or [answer.error]
            assert any(
                code in (None, one["code"]) and path in (None, one["param"]) for one in problems
            ), problems
        assert not served.generator.requests


async def test_a_key_that_stands_twice_is_refused(serve):
    body = json.dumps({"plan": DEBATE}).replace('"con": {"type"', '"pro": {"type"', 1)
    async with serve() as served:
        answer = await served.post("/v1/plans", body.encode())
        assert (answer.status, answer.error["code"]) == (400, "invalid_json")
        assert "'pro' appears twice" in answer.error["message"]


async def test_the_least_recently_used_plan_of_a_key_leaves(serve):
    from helium_jax.server import Limits

    async with serve(limits=Limits(plans=2)) as served:
        ids = []
        for name in "abc":
            answer = await served.post("/v1/plans", {"plan": {**DEBATE, "name": name}})
            ids.append(answer.json()["id"])
        assert (await served.get(f"/v1/plans/{ids[0]}")).status == 404
        assert (await served.get(f"/v1/plans/{ids[2]}")).status == 200


async def test_explain_runs_nothing_and_has_four_forms(serve):
    async with serve() as served:
        body = {"plan": DEBATE, "inputs": QUESTIONS}
        text = await served.post("/v1/plans/explain", body)
        assert text.status == 200
        assert text.headers["Content-Type"].startswith("text/plain")
        assert "judge" in text.body.decode()
        report = (await served.post("/v1/plans/explain", {**body, "format": "json"})).json()
        assert report["rows"] == len(QUESTIONS)
        assert set(report["operators"]) >= {"judge"}
        mermaid = await served.post("/v1/plans/explain", {**body, "format": "mermaid"})
        assert mermaid.body.startswith(b"flowchart TD")
        for where, fields in (("", {"format": "dot"}), ("?format=dot", {})):
            dot = await served.post(f"/v1/plans/explain{where}", {**body, **fields})
            assert dot.body.startswith(b"digraph plan {")
        other = await served.post("/v1/plans/explain?format=svg", body)
        assert (other.status, other.error["param"]) == (400, "format")
        assert not served.generator.requests
        assert not served.generator.warmed


async def test_a_disabled_rule_does_not_rewrite(serve):
    plan = copy.deepcopy(DEBATE)
    plan["ops"]["twin"] = plan["ops"]["pro"]
    plan["outputs"]["twin"] = "twin"
    async with serve() as served:
        body = {"plan": plan, "inputs": QUESTIONS, "format": "json"}
        merged = (await served.post("/v1/plans/explain", body)).json()["optimized"]["merged"]
        assert merged == {"twin": "pro"}
        body["disable"] = ["merge_equal_subplans"]
        kept = (await served.post("/v1/plans/explain", body)).json()["optimized"]["merged"]
        assert kept == {}


async def test_explain_takes_a_registered_plan_and_no_rows(serve):
    async with serve() as served:
        plan_id = (await served.post("/v1/plans", {"plan": DEBATE})).json()["id"]
        answer = await served.post("/v1/plans/explain", {"plan_id": plan_id, "format": "json"})
        assert (answer.status, answer.json()["rows"]) == (200, 1)


async def test_keys_see_only_their_plans(serve):
    async with serve(api_keys=("a", "b")) as served:
        answer = await served.post("/v1/plans", {"plan": DEBATE}, headers=bearer("a"))
        plan_id = answer.json()["id"]
        assert (await served.get(f"/v1/plans/{plan_id}", headers=bearer("b"))).status == 404
        assert (await served.get("/v1/plans", headers=bearer("b"))).json()["data"] == []
        body = {"plan_id": plan_id, "inputs": QUESTIONS}
        for path in ("/v1/plans/explain", "/v1/runs", "/v1/cache/warm"):
            wanted = {"plan_id": plan_id} if path.endswith("warm") else body
            answer = await served.post(path, wanted, headers=bearer("b"))
            assert (answer.status, answer.error["code"]) == (404, "plan_not_found")


@pytest.fixture(scope="module")
def validator():
    schema = plan_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", [*EXAMPLES, *BUILTIN], ids=lambda path: path.stem)
def test_the_schema_accepts_every_example_as_written_and_as_canonical(validator, path):
    validator.validate(yaml.safe_load(path.read_text()))
    validator.validate(json.loads(encode_json(load_plan(path)[0])))


@pytest.mark.parametrize(
    "change",
    [
        {"version": "helium/v9"},
        {"outputs": None},
        {"webhook": "http://x"},
        {"ops": {"o": {"type": "shell"}}},
        {"ops": {"o": {"type": "llm.chat", "user": "x", "max_tokens": 0}}},
        {"ops": {"o": {"type": "llm.chat", "user": "x", "tools": []}}},
        {"limits": {"max_llm_calls": "many"}},
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(validator, change):
    document = {**DEBATE, **change}
    assert not validator.is_valid(document)


async def test_the_schema_is_published(serve):
    async with serve() as served:
        answer = await served.get("/v1/plans/schema")
        assert answer.json() == msgspec.json.decode(msgspec.json.encode(plan_schema()))


async def test_plans_are_read_side_by_side(serve):
    async with serve() as served:
        bodies = [{"plan": {**DEBATE, "name": str(i)}} for i in range(8)]
        answers = await asyncio.gather(*(served.post("/v1/plans", body) for body in bodies))
        assert {answer.status for answer in answers} == {200}
        assert len((await served.get("/v1/plans")).json()["data"]) == 8
