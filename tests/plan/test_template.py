"""Slots are the only syntax, and every text can be written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helium_jax.plan.template import (
    Slot,
    TemplateSyntaxError,
    format_template,
    normalize,
    parse_template,
    slot_names,
)

X = Slot(name="x")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", ()),
        ("plain", ("plain",)),
        ("{{x}}", (X,)),
        ("{{ x }}", (X,)),
        ("a{{x}}b{{x}}", ("a", X, "b", X)),
        (r"\{{x}}", ("{{x}}",)),
        (r"\\{{x}}", ("\\", X)),
        (r"\\\{{x}}", ("\\{{x}}",)),
        ('{"a": {{{x}}}}', ('{"a": {', X, "}}")),
        (r"\{% if %}", ("{% if %}",)),
        ('{"a": {"b": 1}}', ('{"a": {"b": 1}}',)),
        (r"\frac{a}{b} \{1\}", (r"\frac{a}{b} \{1\}",)),
        ("{# a }} b", ("{# a }} b",)),
    ],
)
def test_a_template_reads_as_literals_and_slots(source, text):
    assert parse_template(source) == text


@pytest.mark.parametrize(
    ("source", "quoted"),
    [
        ("a {{", "'{{'"),
        ("{{ x.y }}", "x.y"),
        ("{{ x | f }}", "x | f"),
        ("{{{{x}}}}", "{{{{x}}}}"),
        ("{{}}", "{{}}"),
        ("{{x}", "{{x}"),
        ("{{1x}}", "1x"),
        ("{{x\n}}", "x"),
        ("{{" + "x" * 65 + "}}", "xxx"),
        ("one\ntwo {{ }}", "line 2"),
        ("{% if x %}", "only slots"),
    ],
)
def test_what_looks_like_a_slot_and_is_none_is_refused(source, quoted):
    with pytest.raises(TemplateSyntaxError) as caught:
        parse_template(source)
    assert quoted in str(caught.value)


part = st.one_of(
    st.text(alphabet="\\{}%ax\n", max_size=6),
    st.text(max_size=4),
    st.builds(lambda n: Slot(name=n), st.sampled_from(["x", "y-1", "_z"])),
)


@given(st.lists(part, max_size=6))
def test_every_text_can_be_written_and_is_read_back(parts):
    text = normalize(parts)
    assert parse_template(format_template(text)) == text


@given(st.text(alphabet="\\{}%x ", max_size=12))
def test_a_template_that_can_be_read_is_written_back_with_the_same_meaning(source):
    try:
        text = parse_template(source)
    except TemplateSyntaxError:
        return
    assert parse_template(format_template(text)) == text


def test_slot_names_are_each_given_once_in_order():
    assert slot_names(parse_template("{{b}} {{a}} {{b}}")) == ("b", "a")
