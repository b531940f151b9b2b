"""Several plans as one: names, columns, parameters."""

from helium_jax.plan import PlanBuilder, check_plan, encode_yaml, parse_plan
from helium_jax.plan.combining import Part, combine

LOOPED = """
version: helium/v1
name: b
inputs: {p: {type: text}, q: {type: text}}
params: {rounds: {type: int, default: 2, max: 3}, tone: {type: text}}
ops:
  first: {type: llm.completion, prompt: "{{tone}}: {{p}} {{q}}"}
  talk:
    type: loop
    carry: {text: {from: first, next: say}}
    count: rounds
    body: {ops: {say: {type: llm.completion, prompt: "Again {{text}}"}}, result: say}
  pick: {type: branch, if: "contains(talk, 'yes') and len(q) > 2", then: talk, else: first}
outputs: {o: pick}
"""

COMBINED = """
version: helium/v1
name: a + b
inputs: {text-0: {type: text}, text-1: {type: text}}
ops:
  p0-say: {type: llm.completion, prompt: 'Say {{text-0}}'}
  p1-rounds: {type: const, value: 3}
  p1-tone: {type: const, value: calm}
  p1-first: {type: llm.completion, prompt: '{{p1-tone}}: {{text-0}} {{text-1}}'}
  p1-talk:
    type: loop
    carry: {p1-text: {from: p1-first, next: p1-say}}
    count: 3
    max_iterations: 3
    body: {ops: {p1-say: {type: llm.completion, prompt: 'Again {{p1-text}}'}}, result: p1-say}
  p1-pick:
    type: branch
    if: contains(p1-talk, 'yes') and len(text-1) > 2
    then: p1-talk
    else: p1-first
outputs: {p0-o: p0-say, p1-o: p1-pick}
"""


def test_names_columns_and_parameters_of_two_plans_in_one():
    builder = PlanBuilder("a")
    builder.output("o", builder.completion("Say " + builder.input("q"), name="say"))
    second = parse_plan(LOOPED, is_json=False)[0]
    combined = combine(
        [
            Part(plan=builder.build(), columns={"q": 0}, params={}),
            Part(plan=second, columns={"p": 0, "q": 1}, params={"rounds": 3, "tone": "calm"}),
        ]
    )
    assert encode_yaml(combined.plan) == encode_yaml(parse_plan(COMBINED, is_json=False)[0])
    assert check_plan(combined.plan).problems == []
    assert combined.names[1]["say"] == "p1-say"
    assert combined.names[1]["q"] == "text-1"
    assert combined.outputs == ({"o": "p0-o"}, {"o": "p1-o"})
