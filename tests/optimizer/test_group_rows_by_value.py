"""Which rows are alike, and what that says of the operators above them."""

import dataclasses

from helium_jax.optimizer import Facts, describe_column, gather_facts, optimize
from helium_jax.optimizer.rules import group_rows_by_value
from helium_jax.optimizer.rules.group_rows_by_value import MIN_CHARS, Grouping
from helium_jax.plan import Function, Lambda
from tests.optimizer.plans import call, const, loop, plan_of

LONG = ("a" * MIN_CHARS, "b" * MIN_CHARS)


def facts(deterministic=False, **columns):
    described = {name: describe_column(values) for name, values in columns.items()}
    (num_rows,) = {len(values) for values in columns.values()}
    return Facts(columns=described, num_rows=num_rows, deterministic=deterministic)


ROWS = facts(q=[LONG[0], LONG[1], LONG[0], LONG[1]], r=["1", "2", "3", "4"])


def test_a_column_is_described_by_the_numbers_of_its_values():
    column = describe_column(["bb", "a", "bb", "ccc"])
    assert (column.values, column.num_distinct, column.mean_chars) == ((0, 1, 0, 2), 3, 2.0)
    assert describe_column([]).num_distinct == 0


def test_rows_with_equal_values_come_together_and_stay_in_order():
    plan = plan_of(call("a", "{{q}}{{r}}"), outputs=("a",))
    grouping = group_rows_by_value(plan, ROWS)
    assert grouping == Grouping(values={"q": (0, 1, 0, 1)}, columns=("q",), row_order=(0, 2, 1, 3))
    assert grouping.count_distinct("q") == 2
    assert grouping.count_distinct("a") is None


def test_what_depends_on_equal_values_alone_has_equal_values():
    plan = plan_of(call("a", "{{q}}"), call("b", "{{a}}!"), call("c", "{{b}}{{r}}"), outputs=("c",))
    grouping = group_rows_by_value(plan, ROWS)
    assert grouping.values == {name: (0, 1, 0, 1) for name in ("q", "a", "b")}


def test_constants_are_the_same_for_all_rows_and_columns_are_compared():
    plan = plan_of(
        const("c", "x"), const("d", ("1", "1", "2", "2")), call("a", "{{c}}"), outputs=("a", "d")
    )
    values = group_rows_by_value(plan, ROWS).values
    assert values["c"] == values["a"] == (0, 0, 0, 0)
    assert values["d"] == (0, 0, 1, 1)


def test_constant_columns_are_columns_and_constants_are_not():
    text = [LONG[0], LONG[1], LONG[0]]
    plan = plan_of(
        const("c", tuple(text)), const("d", LONG[0]), call("a", "{{c}}{{d}}"), outputs=("a",)
    )
    columns = {"c": text, "d": [LONG[0]] * 3, "q": ["1", "2", "3"], "other": text}
    gathered = gather_facts(plan, 3, columns)
    assert set(gathered.columns) == {"c", "q"}
    assert group_rows_by_value(plan, gathered).columns == ("c",)


def test_samples_and_impure_functions_differ_from_row_to_row():
    impure = Function(name="f", call=str, is_pure=False)
    plan = plan_of(
        call("a", "{{q}}", temperature=0.7),
        Lambda(name="f", function=impure, args=("q",)),
        call("b", "{{q}}", temperature=0.7, seed=1),
        loop("l", call("x", "{{s}}", temperature=0.7), result="x"),
        outputs=("a", "b", "f", "l"),
    )
    assert set(group_rows_by_value(plan, ROWS).values) == {"q"}
    exact = facts(True, q=[LONG[0]] * 2, r=["1", "2"])
    assert set(group_rows_by_value(plan, exact).values) == {"q", "b"}


def test_rows_that_are_alike_and_rows_that_are_cached_make_no_call():
    plan = plan_of(call("a", "{{q}}"), call("b", "{{a}}{{r}}"), outputs=("b",))
    known = {("a", 1): "A", ("a", 3): "A", ("b", 3): "B"}
    optimized = optimize(plan, dataclasses.replace(ROWS, known=known))
    assert (optimized.count_calls("a", 4), optimized.count_calls("b", 4)) == (1, 3)
    unknown = optimize(plan)
    assert (unknown.count_calls("a", 4), unknown.count_calls("b", 4)) == (4, 4)


def test_short_values_and_columns_outside_prompts_do_not_change_the_order():
    short = facts(q=["x", "y", "x"], r=["1", "2", "3"])
    plan = plan_of(call("a", "{{q}}{{r}}"), outputs=("a",))
    grouping = group_rows_by_value(plan, short)
    assert (grouping.columns, grouping.row_order) == ((), (0, 1, 2))
    assert grouping.values == {"q": (0, 1, 0)}
    unused = plan_of(call("a", "{{r}}"), outputs=("a", "q"))
    assert group_rows_by_value(unused, ROWS).columns == ()


def test_the_column_that_saves_most_is_grouped_first():
    both = facts(
        q=[LONG[0], LONG[1], LONG[0], LONG[1]], r=[LONG[1] * 3, LONG[0] * 3, LONG[0] * 3, "z" * 99]
    )
    plan = plan_of(call("a", "{{q}}{{r}}"), call("b", "{{r}}"), outputs=("a", "b"))
    grouping = group_rows_by_value(plan, both)
    assert grouping.columns == ("r", "q")
    assert grouping.row_order == (0, 2, 1, 3)


def test_the_rule_can_be_disabled_and_needs_a_batch():
    plan = plan_of(call("a", "{{q}}"), outputs=("a",))
    assert optimize(plan, ROWS).grouping.columns == ("q",)
    assert optimize(plan, ROWS, disable={"group_rows_by_value"}).grouping == Grouping()
    assert optimize(plan).grouping == Grouping()
