"""Any document is a plan or a PlanError that names faults, never another exception."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.errors import PlanError
from helium_jax.plan import check_plan, explain_text, parse_plan, plan_from_document
from tests.plan.nested import nested_plans

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**6),
    st.just(1.5),
    st.sampled_from(
        ["", "q", "p", "{{q}}", "{{p}} x", "nope", "true", "a.b", "é", "len(q", "vote"]
    ),
    st.sampled_from([[], {}, ["q"], {"ops": {}}, {"result": "q"}, {"type": "loop"}, {"from": "q"}]),
    st.just({"type": "plan", "plan": {"ops": {}, "outputs": {"o": "q"}}}),
)


def places(value, path=()):
    """The paths of all parts of a document."""
    yield path
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))


@st.composite
def broken_documents(draw):
    document = copy.deepcopy(draw(nested_plans()).document)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(document))[1:]))
        inner = document
        for key in path[:-1]:
            inner = inner[key]
        change = draw(st.sampled_from(["replace", "delete", "rename"]))
        if change == "replace":
            inner[path[-1]] = draw(JUNK)
        elif change == "delete" or isinstance(inner, list):
            del inner[path[-1]]
        else:
            name = draw(st.sampled_from(["q", "x1", "type", "ops", "", "a/b", "else", "while"]))
            inner[name] = inner.pop(path[-1])
        if len(document) == 0:
            break
    return document


@settings(max_examples=100)
@given(broken_documents())
def test_7_a_broken_document_is_a_plan_or_names_its_faults(document):
    try:
        plan, _ = plan_from_document(document)
    except PlanError as error:
        problems = error.problems
    else:
        assert check_plan(plan).problems == []
        assert explain_text(plan)
        return
    assert all(problem.path.split(".")[0] == "plan" and problem.message for problem in problems)
    assert len({str(problem) for problem in problems}) == len(problems)


def faults_of(source):
    with pytest.raises(PlanError) as caught:
        parse_plan(source, is_json=False)
    return [str(problem) for problem in caught.value.problems]


def test_7_a_key_that_is_no_text_hides_no_fault_of_the_others():
    ops = "{3: {type: const, value: 1}, 'a b': {type: const, value: 1}, c: {type: cnst, value: 1}}"
    assert faults_of(f"version: helium/v1\nops: {ops}\noutputs: {{o: c}}\n") == [
        "plan.ops: the key 3 must be text; quote it",
        "plan.ops.a b: 'a b' is no name; a name has letters, digits, _ and -, begins with a letter "
        "or _, and is at most 64 long",
        "plan.ops.c.type: the text 'cnst' is no operator type; did you mean 'const'?",
    ]


def test_7_outputs_that_are_no_mapping_are_one_fault():
    head = "version: helium/v1\nops: {a: {type: const, value: 1}}\n"
    assert faults_of(f"{head}outputs: []\n") == [
        "plan.outputs: must be a mapping of names, not a list of 0"
    ]
    assert faults_of(head) == ["plan.outputs: is empty; name at least one result"]
