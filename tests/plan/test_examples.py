"""The example of every control operator is a plan, and says so in both forms."""

from pathlib import Path

import pytest

from helium_jax.plan import encode_json, encode_yaml, explain_text, load_plan, parse_plan

EXAMPLES = sorted((Path(__file__).parent / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_plan_without_warnings(path):
    plan, warnings = load_plan(path)
    assert warnings == ()
    assert parse_plan(encode_yaml(plan), is_json=False) == (plan, ())
    assert parse_plan(encode_json(plan), is_json=True) == (plan, ())
    assert plan.name in explain_text(plan)


def test_every_control_operator_has_an_example():
    stems = {path.stem for path in EXAMPLES}
    assert stems >= {"branch", "loop", "while", "map", "race", "subplan", "conversation"}


def test_explain_shows_bodies_under_what_holds_them():
    plan, warnings = load_plan(Path(__file__).parent / "examples" / "while.yaml")
    lines = explain_text(plan, num_rows=4, warnings=warnings).splitlines()
    assert lines[1:] == [
        "Output text",
        "  ->  Loop done  (rows=4, while not matches(verdict, '(?i)score: *([89]|10)'), "
        "at most 5 times)",
        "    ->  Chat first  (rows=4, greedy, max_tokens=128)",
        "      ->  Input task  (rows=4, column of text)",
        "    ->  Const none  (rows=4, one value)",
        "    next draft:",
        "      ->  Chat better  (rows=4, greedy, max_tokens=128)",
        "        ->  Input task  (rows=4, column of text)",
        "        ->  Carried draft  (of done)",
        "        ->  Carried verdict  (of done)",
        "    next verdict:",
        "      ->  Chat judge  (rows=4, greedy, max_tokens=16)",
        "        ->  Chat better  (shown above)",
    ]
    assert "calls per row<=11, rows=4, calls<=44" in lines[0]
