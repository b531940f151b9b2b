"""check_bounds: schemas inside a grammar are bounded like schemas alone."""

import json

import pytest

from helium_jax.errors import RequestError
from helium_jax.text.grammar_bounds import check_bounds
from helium_jax.text.grammar_spec import GrammarSpec

MANY = {"type": "string", "allOf": [{"pattern": f"a.*{i}"} for i in range(24)]}
FEW = {"type": "string", "pattern": "a+"}


@pytest.mark.parametrize(
    "spec",
    [
        GrammarSpec.of_json_schema(MANY),
        GrammarSpec.of_lark(f"start: %json {json.dumps(MANY)}"),
        GrammarSpec.of_lark(f'start: %json {json.dumps(FEW)} "x" %json\n\t{json.dumps(MANY)}'),
        GrammarSpec.of_parts("start: @a", {"a": FEW, "b": MANY}),
    ],
    ids=["schema", "lark", "second in lark", "parts"],
)
def test_patterns_that_multiply_are_refused_wherever_their_schema_stands(spec):
    with pytest.raises(RequestError, match="24 patterns and formats at once"):
        check_bounds(spec)


def test_schemas_within_bounds_pass_wherever_they_stand():
    check_bounds(GrammarSpec.of_lark(f'start: "x" | %json {json.dumps(FEW)}'))
    check_bounds(GrammarSpec.of_parts("start: @a", {"a": FEW}))


@pytest.mark.parametrize("rest", ["", " start", ' {"a": ', "[" * 20_000])
def test_what_cannot_be_looked_into_is_refused(rest):
    with pytest.raises(RequestError, match="no JSON Schema"):
        check_bounds(GrammarSpec.of_lark(f"start: %json{rest}"))
