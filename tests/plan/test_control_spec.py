"""Every fault of branches, loops, maps, races and sub-plans, at its path, before any work."""

import math

import pytest

from helium_jax.errors import PlanError
from helium_jax.plan import (
    Body,
    Branch,
    CallSettings,
    Carried,
    Chat,
    Const,
    Function,
    Lambda,
    Loop,
    Map,
    Output,
    Plan,
    Race,
    Reduce,
    check_plan,
    check_size,
    parse_formula,
    plan_from_document,
)
from helium_jax.plan.limits import MAX_NESTING, MAX_OPS

CHAT = {"type": "llm.chat", "user": "x"}


def faults(ops, *, outputs=None, **rest):
    """(path, message, code) of every fault of a document."""
    outputs = {"o": next(iter(ops))} if outputs is None else outputs
    document = {"version": "helium/v1", "inputs": {"q": {}}, "ops": ops, "outputs": outputs}
    try:
        plan_from_document(document | rest)
    except PlanError as error:
        return [(p.path, p.message, p.code) for p in error.problems]
    return []


def loop(**fields):
    body = {"ops": {"next": {"type": "llm.chat", "user": "{{draft}}"}}, "result": "next"}
    carry = {"draft": {"from": "q", "next": "next"}}
    document = {"type": "loop", "carry": carry, "count": 2, "body": body} | fields
    return {key: value for key, value in document.items() if value is not ...}


def branch(**fields):
    document = {"type": "branch", "if": "q == 'x'", "then": "q"} | fields
    return {key: value for key, value in document.items() if value is not ...}


def each(**fields):
    body = {"ops": {"one": {"type": "llm.chat", "user": "{{item}}"}}, "result": "one"}
    document = {"type": "map", "over": "lines(q)", "as": "item", "body": body} | fields
    return {key: value for key, value in document.items() if value is not ...}


def race(**fields):
    arms = [{"ops": {"x": CHAT}, "result": "x"}, {"ops": {"y": CHAT}, "result": "y"}]
    document = {"type": "race", "arms": arms} | fields
    return {key: value for key, value in document.items() if value is not ...}


def sub(**fields):
    inner = {
        "inputs": {"text": {}},
        "params": {"style": {"default": "short"}},
        "ops": {"judge": {"type": "llm.chat", "user": "{{style}} {{text}}"}},
        "outputs": {"verdict": "judge"},
    }
    document = {"type": "plan", "plan": inner, "inputs": {"text": "q"}} | fields
    return {key: value for key, value in document.items() if value is not ...}


def test_the_forms_that_the_faults_are_made_of_have_none():
    for op in (loop(), branch(), each(), race(), sub()):
        assert faults({"a": op}) == []


@pytest.mark.parametrize(
    ("op", "path", "message", "code"),
    [
        (loop(count=...), "", "has no bound; write count", "unbounded_loop"),
        (
            loop(count=..., **{"while": "len(draft) > 3"}),
            "max_iterations",
            "a while needs a bound",
            "unbounded_loop",
        ),
        (loop(max_iterations=3, **{"while": "true"}), "", "has both count and while", None),
        (loop(count=-1), "count", "must be in [0, 10000]", None),
        (loop(count=10**6), "count", "must be in [0, 10000]", None),
        (loop(count=2.5), "count", "must be a whole number", None),
        (loop(count=True), "count", "must be a whole number", None),
        (loop(count=3, max_iterations=2), "count", "3 is more than max_iterations=2", None),
        (loop(count="nope"), "count", "'nope' is nothing in this plan", "unknown_reference"),
        (loop(count="q"), "count", "'q' is no parameter", "wrong_kind"),
        (loop(count="text"), "count", "'text' is text, not int", "wrong_kind"),
        (loop(count="free"), "count", "give the parameter 'free' a max", "unbounded_loop"),
        (loop(max_iterations=10**9), "max_iterations", "must be in [1, 10000]", None),
        (
            loop(count=..., max_iterations=3, **{"while": "len(draft"}),
            "while",
            "a ) should stand before the end (at character 10)",
            "formula_syntax",
        ),
        (
            loop(count=..., max_iterations=3, **{"while": "len(draff) > 1"}),
            "while",
            "'draff' is nothing in this plan; did you mean 'draft'?",
            "unknown_reference",
        ),
        (
            loop(count=..., max_iterations=3, **{"while": "len(next) > 1"}),
            "while",
            "'next' is inside of 'a' and cannot be seen here",
            "not_visible",
        ),
        (loop(carry=["draft"]), "carry", "must be a mapping of names", None),
        (loop(carry={"draft": "q"}), "carry.draft", "must be a mapping with from and next", None),
        (loop(carry={"draft": {"from": "q"}}), "carry.draft.next", "is missing", None),
        (
            loop(carry={"draft": {"from": "next", "next": "next"}}),
            "carry.draft.from",
            "'next' is inside of 'a'",
            "not_visible",
        ),
        (
            loop(carry={"draft": {"from": "q", "next": "nxt"}}),
            "carry.draft.next",
            "did you mean 'next'?",
            "unknown_reference",
        ),
        (
            loop(carry={"draft": {"from": "q", "next": "next"}, "q": {"from": "q", "next": "q"}}),
            "carry.q",
            "the name is already in plan.inputs.q",
            "duplicate_name",
        ),
        (loop(body=...), "body", "is missing; write ops and the name of their result", None),
        (loop(carry=..., body={"ops": {}}), "body.result", "is missing; name the operator", None),
        (loop(carry=..., body={"ops": {}, "result": "x"}), "body.result", "'x' is nothing", None),
        (
            loop(carry=..., body={"op": {}, "result": "q"}),
            "body.op",
            "did you mean 'ops'?",
            "unknown_field",
        ),
        (loop(carry={"draft": {"from": "q", "next": "q"}}, bdy={}), "bdy", "is no field", None),
        (branch(**{"if": ...}), "if", "is missing; write a formula", None),
        (branch(**{"if": "q = 'x'"}), "if", "write == to compare", "formula_syntax"),
        (branch(**{"if": "r == 'x'"}), "if", "'r' is nothing in this plan", None),
        (branch(**{"if": 3}), "if", "must be text, not the number 3", None),
        (branch(then=...), "then", "is missing", None),
        (branch(**{"else": "nope"}), "else.result", "'nope' is nothing in this plan", None),
        (branch(**{"else": ["q"]}), "else", "must be a mapping of names, not a list", None),
        (each(over=...), "over", "is missing; write a formula, such as lines(list)", None),
        (each(over="lines(item)"), "over", "'item' is inside of 'a'", "not_visible"),
        (each(**{"as": ...}), "as", "is missing; write what the body calls its item", None),
        (each(**{"as": "1"}), "as", "'1' is no name", "bad_name"),
        (each(max_items=0), "max_items", "must be in [1, 10000]", None),
        (each(max_items=10**6), "max_items", "must be in [1, 10000]", None),
        (each(reduce="median"), "reduce.type", "'median' is unknown", None),
        (each(reduce={}), "reduce.type", "is missing; types are concat", None),
        (each(reduce="best_of"), "reduce.score", "is missing; best_of needs a number", None),
        (
            each(reduce={"type": "vote", "score": "len(value)"}),
            "reduce.score",
            "is only for best_of, not for vote",
            None,
        ),
        (
            each(reduce={"type": "vote", "separator": "-"}),
            "reduce.separator",
            "is only for concat",
            None,
        ),
        (
            each(reduce={"type": "best_of", "score": "len(vlue)"}),
            "reduce.score",
            "'vlue' is nothing",
            None,
        ),
        (race(arms=[]), "arms", "must be a list of 1 to 64 bodies", None),
        (race(arms={}), "arms", "must be a list of 1 to 64 bodies, not a mapping", None),
        (race(k=3), "k", "3 must be in [1, 2]; the race has so many arms", None),
        (race(k=0), "k", "must be in [1, 64]", None),
        (race(arms=["q", "nope"]), "arms[1].result", "'nope' is nothing", None),
        (sub(plan=...), "plan", "is missing; write a plan", None),
        (sub(inputs={}), "inputs.text", "is missing; name the operator or input", None),
        (sub(inputs={"text": "r"}), "plan.ops.judge.user", "{{r}} is nothing in this plan", None),
        (sub(inputs={"text": "q", "txt": "q"}), "inputs.txt", "did you mean 'text'?", None),
        (sub(params={"styl": "x"}), "params.styl", "did you mean 'style'?", None),
        (sub(params={"style": 3}), "params.style", "must be text, not the number 3", None),
        (sub(params={"style": "{{q}}"}), "params.style", "write {param: q}", None),
        (sub(params={"style": {"param": "q"}}), "params.style", "'q' is no parameter", None),
        (sub(params={"style": {"param": "free"}}), "params.style", "must be text, and", None),
        ({"type": "lambda", "function": "os.system"}, "type", "a plan file holds no code", None),
        ({"type": "slice"}, "source", "is missing", None),
        ({"type": "slice", "source": "q", "unit": "pages"}, "unit", "'pages' is unknown", None),
        ({"type": "slice", "source": "q", "start": "1"}, "start", "must be a whole number", None),
        ({"type": "concat", "sources": []}, "sources", "must be a list of 1 to 1000 names", None),
        ({"type": "concat", "sources": ["q", None]}, "sources[1]", "not null", None),
        ({"type": "concat", "sources": ["q", "r"]}, "sources[1]", "'r' is nothing", None),
        ({"type": "view", "source": "q", "kind": "text"}, "source", "'q' is no call", "wrong_kind"),
        ({"type": "view", "source": "q"}, "kind", "is missing; kinds are text", None),
        (CHAT | {"history": "q"}, "history", "'q' is no chat", "wrong_kind"),
    ],
)
def test_7_a_wrong_control_operator_is_one_fault_at_its_path(op, path, message, code):
    params = {"text": {}, "free": {"type": "int", "default": 1}}
    found = [f for f in faults({"a": op}, params=params) if f[2] != "wrong_kind" or code == f[2]]
    where = f"plan.ops.a.{path}" if path else "plan.ops.a"
    assert [f[0] for f in found] == [where]
    assert message in found[0][1]
    if code is not None:
        assert found[0][2] == code


def test_7_all_faults_are_reported_at_once_and_none_causes_another():
    found = faults(
        {
            "a": loop(count=..., carry={"draft": {"from": "qq", "next": "next"}}),
            "b": branch(
                **{"if": "contains(c, 'x'", "then": {"ops": {"t": {"type": "x"}}, "result": "t"}}
            ),
            "c": race(k=5),
            "d": each(over="lines(c)", body={"ops": {"next": CHAT}, "result": "one"}),
            "e": sub(plan={"ops": {"judge": {"type": "llm.chat", "usr": "x"}}, "outputs": {}}),
            "f": {"type": "template", "template": "{{t}} {{e}} {{one}}"},
        },
        outputs={"o": "f", "p": "next"},
    )
    assert [(path, code) for path, _, code in found] == [
        ("plan.ops.a", "unbounded_loop"),
        ("plan.ops.b.if", "formula_syntax"),
        ("plan.ops.b.then.ops.t.type", "unknown_op_type"),
        ("plan.ops.e.plan.ops.judge.usr", "unknown_field"),
        ("plan.ops.e.plan.ops.judge.user", "plan_invalid"),
        ("plan.ops.e.inputs.text", "unknown_reference"),
        ("plan.ops.e.plan.outputs", "plan_invalid"),
        ("plan.ops.d.body.ops.next", "duplicate_name"),
        ("plan.ops.a.carry.draft.from", "unknown_reference"),
        ("plan.ops.d.body.result", "unknown_reference"),
        ("plan.ops.f.template", "unknown_reference"),
        ("plan.outputs.p", "not_visible"),
        ("plan.ops.c.k", "plan_invalid"),
    ]


def test_7_a_name_of_a_sibling_scope_cannot_be_used():
    arms = [
        {"ops": {"x": CHAT}, "result": "x"},
        {"ops": {"y": CHAT | {"user": "{{x}}"}}, "result": "y"},
    ]
    found = faults({"a": race(arms=arms), "b": CHAT | {"user": "{{y}}"}}, outputs={"o": "b"})
    assert [(path, code) for path, _, code in found] == [
        ("plan.ops.a.arms[1].ops.y.user", "not_visible"),
        ("plan.ops.b.user", "not_visible"),
    ]
    assert "{{y}} is inside of 'a' and cannot be seen here; use 'a'" in found[1][1]


def test_7_a_body_sees_all_scopes_around_it():
    inner = branch(
        then={"ops": {"deep": CHAT | {"user": "{{item}} {{top}} {{q}}"}}, "result": "deep"}
    )
    ops = {"a": each(body={"ops": {"b": inner}, "result": "b"}), "top": CHAT}
    assert faults(ops) == []


def test_7_a_cycle_through_a_body_is_spelled_out():
    ops = {
        "a": branch(then={"ops": {"t": CHAT | {"user": "{{b}}"}}, "result": "t"}),
        "b": {"type": "template", "template": "{{a}}"},
    }
    assert faults(ops) == [
        ("plan.ops.a", "needs itself: a -> b -> a; a plan may have no cycle", "cycle")
    ]
    ops = {"a": branch(then={"ops": {"t": CHAT | {"user": "{{a}}"}}, "result": "t"})}
    assert [message for _, message, _ in faults(ops)] == [
        "needs itself: a -> a; a plan may have no cycle"
    ]
    inside = {"x": CHAT | {"user": "{{y}}"}, "y": CHAT | {"user": "{{x}}"}}
    found = faults({"a": loop(body={"ops": inside | {"next": CHAT}, "result": "next"})})
    assert [(path, code) for path, _, code in found] == [("plan.ops.a.body.ops.x", "cycle")]


def test_7_a_conversation_may_be_carried_but_only_of_chats():
    talk = {"ops": {"next": CHAT | {"history": "draft"}}, "result": "next"}
    carry = {"draft": {"from": "first", "next": "next"}}
    assert faults({"a": loop(body=talk, carry=carry), "first": CHAT}) == []
    found = faults({"a": loop(body=talk)})
    assert [(path, code) for path, _, code in found] == [
        ("plan.ops.a.body.ops.next.history", "wrong_kind")
    ]


def test_7_what_is_nested_too_deeply_is_refused_before_it_is_read():
    op = CHAT
    for level in range(200):
        op = branch(then={"ops": {f"n{level}": op}, "result": f"n{level}"})
    found = faults({"a": op})
    assert [code for _, _, code in found] == ["plan_too_large"]
    assert found[0][0].count(".then.") == MAX_NESTING + 1
    for level in range(200):
        op = {"type": "plan", "plan": {"ops": {f"n{level}": op}, "outputs": {"o": f"n{level}"}}}
    assert [code for _, _, code in faults({"a": op})] == ["plan_too_large"]


def test_7_operators_in_bodies_count_too():
    ops = {f"x{i}": {"type": "nonsense"} for i in range(MAX_OPS)}
    found = faults({"a": branch(then={"ops": ops, "result": "x1"})})
    assert [code for _, _, code in found] == ["plan_too_large"]


def test_7_what_one_row_may_become_is_bounded_before_any_work():
    inner = each(max_items=10_000, body={"ops": {"one": CHAT}, "result": "one"})
    found = faults({"a": loop(count=10_000, body={"ops": {"next": inner}, "result": "next"})})
    assert [(path, code) for path, _, code in found] == [("plan.ops", "plan_too_large")]
    assert "100000000 calls are possible and at most 10000000 allowed" in found[0][1]
    assert "lower counts, max_iterations or max_items" in found[0][1]


def test_7_rows_times_what_a_row_may_become_is_bounded_before_any_work():
    def plan(**fields):
        document = {"version": "helium/v1", "inputs": {"q": {}}, "outputs": {"o": "a"}}
        return plan_from_document(document | fields)[0]

    mapped = plan(ops={"a": each(max_items=100)})
    check_size(mapped, 100_000)
    with pytest.raises(PlanError, match="100001 rows times 100 calls are possible"):
        check_size(mapped, 100_001)
    long = plan(ops={"a": CHAT | {"max_tokens": 2_000_000_000}})
    with pytest.raises(PlanError, match="6 rows times 2000000000 output tokens are possible"):
        check_size(long, 6)
    rounds = {"n": {"type": "int", "max": 1_000, "default": 1}}
    counted = plan(ops={"a": loop(count="n")}, params=rounds)
    check_size(counted, 1_000_000, {"n": 10})
    with pytest.raises(PlanError, match="1000000 rows times 1000 calls"):
        check_size(counted, 1_000_000)
    with pytest.raises(PlanError, match=r"params.n: 1001 iterations of 'a' must be in \[0, 1000\]"):
        check_size(counted, 1, {"n": 1_001})
    with pytest.raises(PlanError, match=r"params.n: -1 iterations"):
        check_size(counted, 1, {"n": -1})


def test_only_the_longer_arm_of_a_branch_counts_and_all_arms_of_a_race():
    def calls(op):
        document = {"version": "helium/v1", "inputs": {"q": {}}, "ops": {"a": op}}
        plan, _ = plan_from_document(document | {"outputs": {"o": "a"}})
        check_size(plan, 5_000_000)

    two = {"ops": {"x": CHAT, "y": CHAT | {"user": "{{x}}"}}, "result": "y"}
    one = {"ops": {"z": CHAT}, "result": "z"}
    calls(branch(**{"then": two, "else": one}))
    with pytest.raises(PlanError, match="3 calls"):
        calls(race(arms=[two, one]))


def test_columns_stand_at_the_top():
    column = {"type": "const", "values": ["a", "b"]}
    found = faults({"a": branch(then={"ops": {"c": column}, "result": "c"})})
    assert [path for path, _, _ in found] == ["plan.ops.a.then.ops.c.values"]


def test_7_a_plan_made_in_python_is_checked_for_what_files_cannot_have():
    true = parse_formula("true")
    body = Body(ops=(), result="c")
    ops = (
        Const(name="c", value="x"),
        Chat(name="k1", messages=(), settings=CallSettings(retries=-1, timeout_s=math.nan)),
        Chat(name="k2", messages=(), settings=CallSettings(on_error="empty", default="lost")),
        Loop(name="l1", carried=(), body=body, max_iterations=3),
        Loop(name="l2", carried=(), body=body, count=2, condition=true, max_iterations=3),
        Loop(name="l3", carried=(), body=body, count=2, max_iterations=10**9),
        Loop(
            name="l4",
            carried=tuple(Carried(name=f"c{i}", initial="c", next="c") for i in range(65)),
            body=body,
            count=1,
            max_iterations=1,
        ),
        Race(name="r", arms=()),
        Map(name="m", over=true, item="c", body=body, max_items=10**9, reduce=Reduce(kind="vote")),
        Lambda(name="f1", function=Function(name="f", call=len, is_pure=True), args=("c",)),
        Lambda(name="f2", function=Function(name="f", call=repr, is_pure=True), args=("c",)),
        Lambda(name="f3", function=Function(name="<lambda>", call=len, is_pure=True), args=("c",)),
        Branch(name="b", condition=true, then=Body(ops=(Const(name="c", value=1),), result="c")),
    )
    plan = Plan(ops=ops, outputs=(Output(name="o", source="c"),))
    assert sorted((p.path, p.code) for p in check_plan(plan).problems) == sorted(
        [
            ("plan.ops.k1.retries", "plan_invalid"),
            ("plan.ops.k1.timeout", "plan_invalid"),
            ("plan.ops.k2.on_error", "plan_invalid"),
            ("plan.ops.l1", "unbounded_loop"),
            ("plan.ops.l2", "unbounded_loop"),
            ("plan.ops.l3.max_iterations", "plan_invalid"),
            ("plan.ops.l4.carry", "plan_invalid"),
            ("plan.ops.r.arms", "plan_invalid"),
            ("plan.ops.m.as", "duplicate_name"),
            ("plan.ops.m.max_items", "plan_invalid"),
            ("plan.ops.f2.function", "duplicate_name"),
            ("plan.ops.f3.function", "bad_name"),
            ("plan.ops.b.then.ops.c", "duplicate_name"),
        ]
    )


def test_a_plan_made_in_python_that_is_too_deep_is_refused_without_recursion():
    body = Body(ops=(), result="q")
    for level in range(5_000):
        op = Branch(name=f"b{level}", condition=parse_formula("true"), then=body)
        body = Body(ops=(op,), result=op.name)
    plan = Plan(ops=body.ops, outputs=(Output(name="o", source="b4999"),))
    assert [p.code for p in check_plan(plan).problems] == ["plan_too_large"]


def test_what_is_pruned_in_a_body_is_a_warning_at_its_path():
    ops = {"a": branch(then={"ops": {"t": CHAT, "spare": CHAT}, "result": "t"})}
    document = {"version": "helium/v1", "inputs": {"q": {}}, "ops": ops, "outputs": {"o": "a"}}
    _, warnings = plan_from_document(document)
    assert [(w.path, w.code) for w in warnings] == [("plan.ops.a.then.ops.spare", "pruned")]
