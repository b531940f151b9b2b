"""The templated radix tree, against plain comparison of templates."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from helium_jax.schedule.prefix_tree import build_prefix_tree, tree_of
from tests.schedule.instances import figure_4, slot, static

FIGURE_4 = """\
root
  A1 100 tokens
    {{q}} ~40 tokens
      {{t1}} ~10 tokens
        -> 1
  A2 100 tokens
    {{q}} ~40 tokens
      {{t2}} ~10 tokens
        -> 2
      {{t3}} ~60 tokens
        -> 3 (needs 1, 2)"""


def test_5_5_figure_4_is_a_tree_in_which_2_and_3_share_agent_2_and_the_question():
    assert tree_of(figure_4(2)).text() == FIGURE_4


def test_5_5_equal_templates_share_a_leaf():
    template = [(1, 2), slot("q", 3), (4,)]
    tree = build_prefix_tree({"a": template, "b": template}, {"a": (), "b": ("a",)})
    assert tree.leaves["a"] == tree.leaves["b"]
    assert tree.nodes[tree.leaves["a"]].calls == ("a", "b")
    assert tree.text(lambda ids: "".join(map(str, ids))) == (
        "root\n  '12' 2 tokens\n    {{q}} ~3 tokens\n      '4' 1 tokens\n"
        "        -> a\n        -> b (needs a)"
    )


def test_runs_that_end_inside_another_run_split_it():
    tree = build_prefix_tree(
        {"a": [(1, 2, 3)], "b": [(1, 2)], "c": [(1, 9)]}, dict.fromkeys("abc", ())
    )
    assert [node.ids for node in tree.nodes] == [(), (1,), (2,), (9,), (3,)]
    assert [tree.static_prefix(call) for call in "abc"] == [(1, 2, 3), (1, 2), (1, 9)]


def test_segments_without_a_key_are_like_no_others():
    part = static("", 5)
    tree = build_prefix_tree({"a": [part], "b": [part]}, {"a": (), "b": ()})
    assert tree.leaves["a"] != tree.leaves["b"]


runs = st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple)
slots = st.sampled_from([slot("q", 3), slot("r", 4)])
templates = st.lists(runs | slots, max_size=4)


def spelled(template):
    """Templates as flat symbols, for comparison."""
    return tuple(
        itertools.chain.from_iterable(
            part if isinstance(part, tuple) else [part.key] for part in template
        )
    )


def common(first, second):
    pairs = zip(first, second, strict=False)
    return [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]


@given(st.lists(templates, min_size=1, max_size=6))
def test_5_5_two_paths_are_common_exactly_as_far_as_the_templates_are(drawn):
    named = {f"c{i}": template for i, template in enumerate(drawn)}
    tree = build_prefix_tree(named, dict.fromkeys(named, ()))
    for a, b in itertools.product(named, repeat=2):
        shared = common(tree.path(a), tree.path(b))
        num_symbols = sum(len(tree.nodes[node].ids) or 1 for node in shared)
        assert num_symbols == len(common(spelled(named[a]), spelled(named[b])))
        if a == b:
            path = [tree.nodes[node] for node in tree.path(a)]
            assert spelled(n.ids or n.segment for n in path) == spelled(named[a])
    for index, node in enumerate(tree.nodes):
        assert index == 0 or node.parent < index
        assert index == 0 or index in tree.nodes[node.parent].children


@given(st.lists(templates, min_size=1, max_size=6))
def test_the_tree_is_built_in_time_linear_in_the_templates(drawn):
    named = {f"c{i}": template for i, template in enumerate(drawn)}
    tree = build_prefix_tree(named, dict.fromkeys(named, ()))
    assert len(tree.nodes) <= 1 + 2 * sum(map(len, drawn))
