"""Formulas are read with a place for every fault, and evaluated within bounds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helium_jax.plan import (
    FormulaError,
    evaluate,
    evaluate_condition,
    evaluate_items,
    evaluate_number,
    parse_formula,
)
from helium_jax.plan.formula import rename_formula
from helium_jax.plan.formula_evaluation import MAX_WORK
from helium_jax.plan.formula_functions import FUNCTIONS
from helium_jax.plan.formula_tree import format_tree
from helium_jax.plan.formula_values import MAX_LIST_ITEMS, MAX_RESULT_CHARS
from tests.plan.nested import trees

JSON = '{"a": [1, 2.5, {"b c": null}, "x"], "t": true, "deep": {"er": "yes"}}'


def value_of(source, **values):
    return evaluate(parse_formula(source), values)


def outcome(work):
    """What `work` gives, or its formula error."""
    try:
        return work(), None
    except FormulaError as error:
        return None, error


@given(trees())
def test_what_is_printed_is_read_as_the_same_tree(tree):
    assert parse_formula(format_tree(tree)).tree == tree


@given(trees(), st.lists(st.sampled_from(["1", "true", "a b\na", JSON, "[]", ""]), min_size=9))
def test_evaluation_gives_a_value_or_a_formula_error(tree, texts):
    formula = parse_formula(format_tree(tree))
    values = dict(zip(formula.names, texts, strict=False))
    value, error = outcome(lambda: evaluate(formula, values))
    if error is not None:
        assert 0 <= error.position <= len(formula.source)
        return
    assert isinstance(value, str | float | bool | list)
    if isinstance(value, list):
        assert all(isinstance(item, str) for item in value)


@given(st.text(alphabet="ab'\"\\()[].,=<>!{}1-/ andortuefls", max_size=30))
def test_any_text_is_a_formula_or_a_formula_error(source):
    formula, error = outcome(lambda: parse_formula(source))
    if formula is None:
        assert 0 <= error.position <= len(source)
        return
    assert parse_formula(format_tree(formula.tree)).tree == formula.tree


@given(trees())
def test_renamed_names_are_the_only_change(tree):
    formula = parse_formula(format_tree(tree))
    names = {name: f"new/{index}x".replace("/", "_") for index, name in enumerate(formula.names)}
    renamed = rename_formula(formula, names)
    assert renamed.names == tuple(names.values())
    back = rename_formula(renamed, {new: old for old, new in names.items()})
    assert back.tree == formula.tree
    assert rename_formula(formula, {"nothing": "else"}) is formula


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("contains(t, 'yes')", True),
        ("contains(lower(t), 'maybe')", False),
        ("contains(lines(t), 'b')", True),
        ("starts_with(t, 'Yes') or ends_with(t, 'b')", True),
        ("not contains(t, 'yes') and true", False),
        (r"matches(t, '(?i)^YES,')", True),
        ("extract(t, '([a-z]+) it')", "yes"),
        ("extract(t, '([a-z]+) it', 0)", "yes it"),
        ("extract(t, 'is')", "is"),
        ("extract_all(t, '[a-z]{3,}')", ["yes"]),
        ("lines(t)", ["Yes, yes it is", "b"]),
        ("split('a, b,', ',')", ["a", "b", ""]),
        ("words(t)[-1]", "b"),
        ("join(lines(t), '+')", "Yes, yes it is+b"),
        ("len(t)", 18.0),
        ("len(lines(t)) == 2", True),
        ("number(' -1.5e1 ')", -15.0),
        ("trim('  a ')", "a"),
        ("upper('a')", "A"),
        ("json(j).a", ["1", "2.5", '{"b c":null}', "x"]),
        ('json(j).a[2]["b c"] == null', True),
        ("json(j).deep.er", "yes"),
        ("json(j).t", True),
        ("json(j).deep", '{"er":"yes"}'),
        ("json(j).a[0] < json(j).a[1]", True),
        ("n > 2", True),  # the text of a number column
        ("n == 3.0", True),
        ("3 >= n", True),
        ("flag == true", True),
        ("flag and n != 4", True),
        ("'10' < '9'", True),  # two texts are compared as texts
        ("t == null", False),
        ("null != null", False),
        ("{{and}} == 'word'", True),
        ("1", 1.0),
        ("null", ""),
    ],
)
def test_functions_and_operators_do_what_they_are_called(source, value):
    values = {"t": "Yes, yes it is\n\n b", "j": JSON, "n": "3", "flag": "true", "and": "word"}
    got = evaluate(parse_formula(source), values)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("source", "reason", "position"),
    [
        ("", "a value should stand before the end", 0),
        ("a =", "write == to compare", 2),
        ("a && b", "write and", 2),
        ("a + b", "there is no arithmetic", 2),
        ("a b", "the formula should end before 'b'", 2),
        ("(a", "a ) should stand before the end", 2),
        ("a[", "a whole number or a quoted name", 2),
        ("a[1.5]", "a whole number or a quoted name", 2),
        ("a[9999999]", "the index 9999999 is too large", 2),
        ("a.", "a field's name should stand before the end", 2),
        ("a == b == c", "should end before '=='", 7),
        ("and", "a node is {{and}}", 0),
        ("'abc", "the text has no closing quote", 0),
        (r"'\x'", r"\x is no escape", 1),
        (r"'\ud800'", "lone surrogate", 0),
        ("1e999", "the number is too large", 0),
        ("1" * 30, "too many digits", 0),
        ("leng(a)", "did you mean len?", 0),
        ("eval(a)", "'eval' is no function; there are contains", 0),
        ("a.b(c)", "should end before '('", 3),
        ("len(a, b)", "len has 2 arguments; write len(text or list)", 0),
        ("len()", "len has 0 arguments", 0),
        ("matches(a, b)", "the regex must be a quoted text", 11),
        ("matches(a, '(')", "is no regex that RE2 takes", 11),
        (r"matches(a, '(a)\\1')", "is no regex that RE2 takes", 11),
        ("matches(a, '" + "a" * 501 + "')", "the regex has 501 characters", 11),
        ("matches(a, '((a{1,100}){1,100}){1,100}')", "is no regex that RE2 takes", 11),
        ("a" * 4_001, "the formula has 4001 characters", 0),
        ("(" * 1_000 + "a" + ")" * 1_000, "nested more than 32 deep", 32),
        ("not " * 900 + "a", "nested more than 32 deep", 124),
        ("a" + ".b" * 900, "more than 32 steps", 65),
    ],
)
def test_a_formula_that_is_none_is_refused_with_its_place(source, reason, position):
    with pytest.raises(FormulaError) as caught:
        parse_formula(source)
    assert reason in str(caught.value)
    assert caught.value.position == position


@pytest.mark.parametrize(
    ("source", "reason", "position"),
    [
        ("n > 2", "must be a number, not the text 'many'", 0),
        ("true and n", "must be true or false, not the text 'many'", 9),
        ("number(n)", "must be a number", 0),
        ("number('nan')", "must be a number", 0),
        ("number('1e9999')", "too large", 0),
        ("number('1_000')", "must be a number", 0),
        ("json(n)", "is not JSON", 0),
        ("json(j).b", "the object has no 'b'; it has 'a', 't', 'deep'", 7),
        ("json(j).a.b", "needs an object, not a list of 4", 9),
        ("n.b", "read it with json(...) first", 1),
        ("n[0]", "[0] needs a list, not the text 'many'", 1),
        ("lines(n)[1]", "[1] is outside of a list of 1", 8),
        ("lower(json(j).a)", "the text must be text, not a list of 4", 0),
        ("len(1)", "needs a text, list or object", 0),
        ("contains(n, 1)", "what is looked for must be text", 0),
        ("split(n, '')", "the separator is empty", 0),
        ("extract(n, 'x')", "test it with matches", 0),
        ("extract(n, 'm', 1)", "the groups 0 to 0, not the number 1", 0),
        ("lines(n) < lines(n)", "a list of 1 has no order", 9),
        ("lines(n) == 1", "cannot compare a list of 1 with the number 1", 9),
        ("null < 1", "null has no order", 5),
        ("true < false", "has no order", 5),
        ("missing", "'missing' has no value here", 0),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_place(source, reason, position):
    with pytest.raises(FormulaError) as caught:
        value_of(source, n="many", j=JSON)
    assert reason in str(caught.value)
    assert caught.value.position == position


def test_what_is_asked_for_is_what_one_gets():
    true, lines, number = map(parse_formula, ("a == a", "lines(a)", "len(a)"))
    assert evaluate_condition(true, {"a": "x"}) is True
    assert evaluate_condition(parse_formula("a"), {"a": "false"}) is False
    assert evaluate_items(lines, {"a": "x\ny"}, 2) == ["x", "y"]
    assert evaluate_number(number, {"a": "xyz"}) == 3.0
    for evaluated, fault in (
        (lambda: evaluate_condition(number, {"a": "x"}), "must be true or false"),
        (lambda: evaluate_items(number, {"a": "x"}, 9), "must be a list"),
        (lambda: evaluate_items(lines, {"a": "x\ny"}, 1), "2 items but max_items is 1; raise it"),
        (lambda: evaluate_number(lines, {"a": "x"}), "must be a number"),
    ):
        with pytest.raises(FormulaError, match=fault):
            evaluated()


def test_the_second_operand_is_only_read_when_it_decides():
    assert value_of("false and number(a) > 1", a="x") is False
    assert value_of("matches(a, '[0-9]') and number(a) > 1", a="x") is False
    assert value_of("true or number(a) > 1", a="x") is True


def test_a_regex_that_makes_others_hang_is_linear_here():
    assert value_of("matches(t, '(a+)+$')", t="a" * 200_000 + "b") is False
    assert value_of("matches(t, '^(([a-z])+.)+[A-Z]([a-z])+$')", t="a" * 200_000) is False
    assert value_of("matches(t, 'x$')", t="é" * MAX_RESULT_CHARS) is False


def test_results_and_lists_are_bounded():
    long = "a" * MAX_RESULT_CHARS
    many = "x\n" * (MAX_LIST_ITEMS + 1)
    for source, text, fault in (
        ("join(words(t), '" + "-" * 100 + "')", "a " * 90_000, "at most"),
        ("lines(t)", many, "over 100000 items"),
        ("words(t)", many, "over 100000 items"),
        ("split(t, 'x')", many, "over 100000 items"),
        ("extract_all(t, 'x')", many, "over 100000 items"),
        (" and ".join(["lower(t) != 'b'"] * 9), long, f"reads over {MAX_WORK}"),
        ("matches(t, '[ab]*a[ab]{300}c')", "ab" * 100_000, "states of its regex"),
        ("json(t)", "[" * 50_000, "is not JSON"),
        ("json(t)", "1" + "0" * 5_000, "Integer value out of range"),
    ):
        with pytest.raises(FormulaError, match=fault):
            value_of(source, t=text)


def test_names_that_python_has_mean_nothing_here():
    for source in ("a.__class__", "json(a).__class__", "a['__len__']"):
        with pytest.raises(FormulaError):
            value_of(source, a="{}")
    assert value_of("json(a).__class__", a='{"__class__": "text"}') == "text"
    assert value_of("__import__", __import__="only a node") == "only a node"


@given(st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3), st.lists))
def test_json_values_come_back_as_json(value):
    wrapped = json.dumps({"v": value})
    got = evaluate(parse_formula("json(t).v"), {"t": wrapped})
    if isinstance(value, list):
        assert len(got) == len(value)
    elif isinstance(value, str | bool | int):
        assert got == value


def test_every_function_says_how_it_is_called():
    for name, function in FUNCTIONS.items():
        assert function.usage.startswith(f"{name}(")
        assert 1 <= function.least <= function.most
