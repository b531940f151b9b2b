"""Which texts become constants."""

from helium_jax.optimizer import Facts, Note
from helium_jax.optimizer.rules import fold_constant_templates
from helium_jax.optimizer.rules.fold_constant_templates import MAX_FOLDED_CHARS
from helium_jax.plan import Concat, Function, Lambda, Template, encode_yaml, parse_template
from tests.optimizer.plans import call, const, loop, plan_of, read


def fold(plan):
    return fold_constant_templates(plan, Facts()).plan


def template(name, source):
    return Template(name=name, text=parse_template(source))


def test_a_chain_of_constant_templates_is_written_out():
    before = read("""
params: {p: {type: text, default: x}}
ops:
  n: {type: const, value: 3}
  sure: {type: const, value: true}
  t: {type: template, template: "{{n}} times {{sure}}"}
  u: {type: template, template: "<{{t}}>"}
  of_param: {type: template, template: "{{p}}{{n}}"}
  of_input: {type: template, template: "{{q}}{{n}}"}
outputs: {u: u, v: of_param, w: of_input}
""")
    after = read("""
params: {p: {type: text, default: x}}
ops:
  n: {type: const, value: 3}
  sure: {type: const, value: true}
  t: {type: const, value: "3 times true"}
  u: {type: const, value: "<3 times true>"}
  of_param: {type: template, template: "{{p}}{{n}}"}
  of_input: {type: template, template: "{{q}}{{n}}"}
outputs: {u: u, v: of_param, w: of_input}
""")
    rewriting = fold_constant_templates(before, Facts())
    assert encode_yaml(rewriting.plan) == encode_yaml(after)
    assert rewriting.notes == tuple(
        Note(operator=name, reason="its parts are constants") for name in "tu"
    )


def test_a_value_that_looks_like_a_slot_stays_text():
    plan = plan_of(const("c", "{{q}}"), template("t", "a {{c}}"), outputs=("t",))
    assert fold(plan).ops[1] == const("t", "a {{q}}")


def test_a_column_is_no_constant():
    plan = plan_of(const("c", ("a", "b")), template("t", "{{c}}"), outputs=("t",))
    assert fold(plan) is plan


def test_a_function_is_not_run():
    def fail(text):
        raise AssertionError

    function = Function(name="f", call=fail, is_pure=True)
    plan = plan_of(
        const("c", "a"),
        Lambda(name="f", function=function, args=("c",)),
        template("t", "{{f}}"),
        outputs=("t",),
    )
    assert fold(plan) is plan


def test_a_text_too_long_to_carry_around_is_put_together_when_it_runs():
    ops = [const("t0", "x" * 16)]
    ops += [template(f"t{i}", f"{{{{t{i - 1}}}}}" * 2) for i in range(1, 40)]
    folded = fold(plan_of(*ops, outputs=("t39",)))
    lengths = [len(op.value) for op in folded.ops if not isinstance(op, Template)]
    assert max(lengths) == MAX_FOLDED_CHARS
    assert sum(isinstance(op, Template) for op in folded.ops) == 40 - len(lengths)


def test_concatenations_and_bodies_are_folded_too():
    plan = plan_of(
        const("c", "a"),
        Concat(name="d", sources=("c", "c", "c"), separator="-"),
        Concat(name="e", sources=("c", "q")),
        loop("l", template("t", "{{d}}!"), call("x", "{{t}}{{s}}"), result="x"),
        outputs=("d", "e", "l"),
    )
    folded = fold(plan)
    assert folded.ops[1] == const("d", "a-a-a")
    assert folded.ops[2] is plan.ops[2]
    assert folded.ops[3].body.ops == (const("t", "a-a-a!"), call("x", "{{t}}{{s}}"))


def test_nothing_to_fold_leaves_the_very_same_plan():
    plan = plan_of(template("t", "{{q}}"), call("a", "fixed"), outputs=("t", "a"))
    assert fold(plan) is plan
