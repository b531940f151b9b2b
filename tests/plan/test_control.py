"""Bodies as values: references, order, what is needed, signatures, and rewriting across scopes."""

import dataclasses

import pytest
from hypothesis import given

from helium_jax.errors import PlanError
from helium_jax.plan import (
    Body,
    Branch,
    CallSettings,
    Carried,
    Chat,
    Concat,
    Const,
    Function,
    Input,
    Lambda,
    Loop,
    Map,
    Message,
    Output,
    Param,
    Plan,
    Race,
    Reduce,
    Slice,
    Slot,
    Template,
    View,
    bodies,
    body_order,
    bound_names,
    check_plan,
    explain_json,
    explain_text,
    is_deterministic,
    parse_formula,
    references,
    rename_references,
)
from helium_jax.plan.references import own_references, rename_all
from helium_jax.types import SamplingParams
from tests.plan.nested import FEW, nested_plans

SAMPLED = CallSettings(sampling=SamplingParams(temperature=0.7))


def chat(name, *parts, settings=CallSettings(), history=None):
    text = tuple(Slot(name=p[1:]) if p.startswith("$") else p for p in parts)
    turns = (Message(role="user", content=text),)
    return Chat(name=name, messages=turns, settings=settings, history=history)


def body(*ops, result=None):
    return Body(ops=ops, result=result or ops[-1].name)


def refine(name, inner, *, start="q", carried="draft", count=3, settings=CallSettings()):
    """A loop of one call over what it carries."""
    return Loop(
        name=name,
        carried=(Carried(name=carried, initial=start, next=inner),),
        body=body(chat(inner, f"${carried}", settings=settings)),
        count=count,
        max_iterations=count,
    )


def plan_of(*ops, outputs=()):
    outs = tuple(Output(name=f"o{i}", source=s) for i, s in enumerate(outputs))
    return Plan(inputs=(Input(name="q"),), params=(), ops=ops, outputs=outs)


@FEW
@given(nested_plans())
def test_nested_plans_are_valid_in_every_scope(plan):
    assert check_plan(plan).problems == []
    for op in plan.all_ops:
        for one in bodies(op):
            assert len(body_order(one.ops)) == len(one.ops)
    names = [op.name for op in plan.all_ops] + [n for op in plan.all_ops for n in bound_names(op)]
    assert len(set(names)) == len(names)


@FEW
@given(nested_plans())
def test_an_operator_needs_nothing_that_its_bodies_define(plan):
    for op in plan.all_ops:
        inside = {one.name for one in plan.all_ops if any(one in b.ops for b in bodies(op))}
        assert not inside & set(references(op))
        assert set(own_references(op)) <= set(references(op)) | set(bound_names(op))


@FEW
@given(nested_plans())
def test_a_body_runs_in_its_order(plan):
    for op in plan.all_ops:
        for one in bodies(op):
            before = set()
            own = {inner.name for inner in one.ops}
            for inner in body_order(one.ops):
                assert set(references(inner)) & own <= before
                before.add(inner.name)


@FEW
@given(nested_plans())
def test_what_is_needed_and_signed_reaches_into_bodies(plan):
    names = {op.name for op in plan.all_ops}
    assert plan.needed <= names | {"q", "p"}
    for op in plan.all_ops:
        if op.name in plan.needed:
            assert {b.result for b in bodies(op)} & names <= plan.needed
    assert names <= plan.signatures.keys()


@FEW
@given(nested_plans())
def test_nothing_changes_when_a_rewrite_changes_nothing(plan):
    assert plan.replace(lambda op: op) is plan
    seen = []
    plan.replace(lambda op: seen.append(op.name) or op)
    assert sorted(seen) == sorted(op.name for op in plan.all_ops)


@FEW
@given(nested_plans())
def test_renaming_there_and_back_is_the_same_plan(plan):
    there = {name: f"new/{name}" for op in plan.all_ops for name in (op.name, *bound_names(op))}
    back = {new: old for old, new in there.items()}
    ops = tuple(rename_all(op, there) for op in plan.ops)
    outputs = tuple(
        dataclasses.replace(o, source=there.get(o.source, o.source)) for o in plan.outputs
    )
    renamed = dataclasses.replace(plan, ops=ops, outputs=outputs)
    assert check_plan(renamed).problems == []
    again = dataclasses.replace(plan, ops=tuple(rename_all(op, back) for op in ops))
    assert again.signatures == plan.signatures
    # Names are no part of a signature, unless something draws.
    if all(is_deterministic(op) for op in plan.ops):
        for old, new in zip(plan.ops, renamed.ops, strict=True):
            assert plan.signatures[old.name] == renamed.signatures[new.name]


@FEW
@given(nested_plans())
def test_the_tree_shows_every_needed_operator_in_full_once(plan):
    text = explain_text(plan, num_rows=2)
    for op in plan.all_ops:
        lines = [line for line in text.splitlines() if f" {op.name}  (" in line]
        in_full = [line for line in lines if "shown above" not in line and "never" not in line]
        if op.name not in plan.needed:
            assert in_full == []
        elif own_references(op) or bodies(op):
            assert len(in_full) == 1
    assert explain_json(plan, num_rows=2).count(b'"max_calls"') == sum(
        isinstance(op, Chat) for op in plan.all_ops
    )


def test_references_are_free_names_in_order_of_use():
    loop = refine("loop", "better", start="first")
    assert references(loop) == ("first",)
    assert own_references(loop) == ("first",)
    branch = Branch(
        name="b",
        condition=parse_formula("contains(verdict, question)"),
        then=body(chat("fix", "$draft"), Concat(name="c", sources=("fix", "extra"))),
        otherwise=body(result="spare"),
    )
    assert references(branch) == ("verdict", "question", "draft", "extra", "spare")
    each = Map(
        name="m",
        over=parse_formula("lines(list)"),
        item="item",
        body=body(chat("a", "$item", "$q")),
        max_items=3,
        reduce=Reduce(kind="best_of", score=parse_formula("len(value)")),
    )
    assert references(each) == ("list", "q")
    race = Race(name="r", arms=(body(chat("x", "$q")), body(chat("y", "$x2"))), k=1)
    assert references(race) == ("q", "x2")
    assert references(chat("h", "$q", history="first")) == ("first", "q")
    counted = dataclasses.replace(loop, count="rounds", max_iterations=5)
    assert references(counted) == ("first", "rounds")


def test_a_renamed_reference_follows_into_every_body():
    loop = refine("loop", "better", start="a")
    inner = Branch(name="b", condition=parse_formula("a == 'x'"), then=body(result="a"))
    loop = dataclasses.replace(
        loop,
        body=body(*loop.body.ops, inner, result="b"),
        condition=parse_formula("len(a) > 1 and len(draft) > 1"),
        count=None,
    )
    renamed = rename_references(loop, {"a": "z"})
    assert references(renamed) == ("z",)
    assert renamed.condition.source == "len(z) > 1 and len(draft) > 1"
    assert renamed.body.ops[1].then.result == "z"
    assert rename_references(loop, {"nothing": "z"}) is loop


def test_what_draws_makes_what_holds_it_a_draw():
    assert is_deterministic(refine("l", "b"))
    assert not is_deterministic(refine("l", "b", settings=SAMPLED))
    arms = (body(chat("x", "$q")), body(chat("y", "$q")))
    assert not is_deterministic(Race(name="r", arms=arms, k=1))
    assert is_deterministic(Race(name="r", arms=arms, k=2))
    for is_pure in (True, False):
        function = Function(name="f", call=str.upper, is_pure=is_pure)
        assert is_deterministic(Lambda(name="x", function=function, args=("q",))) is is_pure


def test_equal_loops_are_equal_whatever_their_names_are():
    plan = plan_of(
        refine("l1", "b1", carried="c1"),
        refine("l2", "b2", carried="c2"),
        refine("l3", "b3", carried="c3", count=4),
        refine("l4", "b4", carried="c4", settings=SAMPLED),
        refine("l5", "b5", carried="c5", settings=SAMPLED),
    )
    signatures = plan.signatures
    assert signatures["l1"] == signatures["l2"]
    assert len({signatures[name] for name in ("l1", "l3", "l4", "l5")}) == 4
    # What different loops carry is not the same value, so neither is what is made of it.
    assert signatures["b1"] != signatures["b2"]


def test_carried_names_of_loops_inside_each_other_are_told_apart():
    def nested(tag, used):
        inner = refine(f"in{tag}", f"i{tag}", carried=f"ci{tag}", start=f"co{tag}")
        call = chat(f"i{tag}", f"${used}{tag}")
        inner = dataclasses.replace(inner, body=body(call))
        outer = refine(f"out{tag}", f"in{tag}", carried=f"co{tag}")
        return dataclasses.replace(outer, body=body(inner))

    plan = plan_of(nested("A", "ci"), nested("B", "ci"), nested("C", "co"))
    assert plan.signatures["outA"] == plan.signatures["outB"]
    assert plan.signatures["outA"] != plan.signatures["outC"]


@pytest.mark.parametrize(
    "change",
    [
        {"condition": parse_formula("q == 'y'")},
        {"condition": parse_formula("other == 'x'")},
        {"then": body(chat("t", "$q", "!"))},
        {"otherwise": None},
        {"otherwise": body(result="q")},
    ],
)
def test_what_changes_a_branch_changes_its_signature(change):
    branch = Branch(
        name="b",
        condition=parse_formula("q == 'x'"),
        then=body(chat("t", "$q")),
        otherwise=body(result="other"),
    )
    ops = [Const(name="other", value="o"), branch]
    other = [ops[0], dataclasses.replace(branch, **change)]
    assert plan_of(*ops).signatures["b"] != plan_of(*other).signatures["b"]


def test_other_small_operators_have_signatures_of_their_own():
    f, g = (Function(name=name, call=str.upper, is_pure=True) for name in ("f", "g"))
    ops = [
        Slice(name="a1", source="q", stop=3),
        Slice(name="a2", source="q", stop=3, unit="words"),
        Concat(name="a3", sources=("q", "q")),
        Concat(name="a4", sources=("q", "q"), separator="-"),
        Lambda(name="a5", function=f, args=("q",)),
        Lambda(name="a6", function=g, args=("q",)),
        chat("a7", "$q"),
        chat("a8", "$q", history="a7"),
        View(name="a9", source="a7", kind="echo"),
        View(name="a10", source="a7", kind="history"),
        chat("a11", "$q", settings=CallSettings(on_error="empty")),
    ]
    signatures = plan_of(*ops).signatures
    assert len({signatures[op.name] for op in ops}) == len(ops)
    again = plan_of(*(dataclasses.replace(op, name=op.name + "x") for op in ops[:7])).signatures
    assert all(again[op.name + "x"] == signatures[op.name] for op in ops[:7])


def merge(plan):
    first = {}
    signatures = plan.signatures

    def rewrite(op):
        return first.setdefault(signatures[op.name], op) if is_deterministic(op) else op

    return plan.replace(rewrite)


def test_merging_reaches_into_bodies_and_never_out_of_sight():
    branch = Branch(
        name="b",
        condition=parse_formula("q == 'x'"),
        then=body(chat("t1", "$q"), chat("t2", "$t1")),
        otherwise=body(chat("e1", "$q", "?"), chat("e2", "$e1"), chat("e3", "$e1")),
    )
    late = chat("late", "$q", "?", "!")
    plan = plan_of(chat("top", "$q"), branch, late, outputs=["b", "top", "late"])
    merged = merge(plan)
    assert check_plan(merged).problems == []
    new = merged.nodes["b"]
    assert [op.name for op in new.then.ops] == ["t2"]  # t1 is top, which is computed anyway
    assert references(new.then.ops[0]) == ("top",)
    assert [op.name for op in new.otherwise.ops] == ["e1", "e2"]
    assert new.otherwise.result == "e2"  # was e3
    assert merge(merged) is merged


def test_equal_operators_of_two_arms_stay_where_they_are():
    arms = (body(chat("x", "$q")), body(chat("y", "$q")))
    plan = plan_of(Race(name="r", arms=arms, k=2), outputs=["r"])
    assert merge(plan) is plan


def test_what_a_loop_carries_on_follows_a_merge():
    loop = Loop(
        name="l",
        carried=(Carried(name="c", initial="q", next="b2"),),
        body=body(chat("b1", "$c"), chat("b2", "$c"), result="b2"),
        count=2,
        max_iterations=2,
    )
    merged = merge(plan_of(loop, outputs=["l"]))
    assert merged.nodes["l"].carried[0].next == "b1"
    assert merged.nodes["l"].body == body(chat("b1", "$c"))
    assert check_plan(merged).problems == []


def test_a_cycle_in_a_body_is_refused_with_its_path():
    inner = body(chat("a", "$b"), chat("b", "$a"), result="a")
    branch = Branch(name="br", condition=parse_formula("q == 'x'"), then=inner)
    plan = plan_of(branch, outputs=["br"])
    with pytest.raises(PlanError, match=r"plan.ops.br.then.ops.a: needs itself: a -> b -> a"):
        _ = plan.topological_order


def test_a_plan_with_python_functions_has_an_identity_but_no_document():
    def plan(call, *, name="f"):
        function = Function(name=name, call=call, is_pure=True)
        return plan_of(Lambda(name="x", function=function, args=("q",)), outputs=["x"])

    assert plan(str.upper) == plan(str.upper)
    assert plan(str.upper) != plan(str.lower)
    assert plan(str.upper).plan_id != plan(str.upper, name="g").plan_id
    with pytest.raises(PlanError, match="calls the Python function 'f', which no file can hold"):
        _ = plan(str.upper).document


def test_a_template_of_a_plan_with_params_is_still_what_it_was():
    plan = Plan(
        params=(Param(name="p", default="x"),),
        ops=(Template(name="t", text=(Slot(name="p"),)),),
        outputs=(Output(name="o", source="t"),),
    )
    assert plan.topological_order == ("p", "t")
    assert plan.all_ops == plan.ops
