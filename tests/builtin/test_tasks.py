"""Tasks: equal seeds give equal ones, and the answers are right, found in another way."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.builtin import tasks, words
from helium_jax.builtin.tasks import KINDS, draw_scene, draw_task
from helium_jax.text import load_text

SEEDS = range(200)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_tasks(kind):
    assert [draw_task(Random(s), kind) for s in SEEDS] == [
        draw_task(Random(s), kind) for s in SEEDS
    ]
    assert len({draw_task(Random(s), kind).user for s in SEEDS}) > 50


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_scene_says_each_fact_once(seed):
    scene = draw_scene(Random(seed), 20)
    assert len(scene.facts) == 20
    spaced = "".join(char if char.isalnum() else " " for char in scene.text).split()
    for key, value in scene.facts.items():
        assert spaced.count(key) == 1
        assert value in spaced[spaced.index(key) :]


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_look_up_asks_for_a_fact_of_its_context(seed):
    rng = Random(seed)
    scene = draw_scene(rng, 10)
    for make in (tasks.lookup, tasks.reply):
        task = make(rng, scene)
        asked = [key for key in scene.facts if key in split(task.question)]
        assert [scene.facts[key] for key in asked] == [task.answer]


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_yes_and_no_follow_from_the_facts(seed):
    rng = Random(seed)
    scene = draw_scene(rng, 10)
    task = tasks.check(rng, scene)
    (key,) = [key for key in scene.facts if key in split(task.question)]
    said = scene.facts[key] in split(task.question)
    assert task.answer == ("yes" if said else "no")
    task = tasks.listed(rng, scene)
    there = any(key in split(task.question) for key in scene.facts)
    assert task.answer == ("yes" if there else "no")


def test_yes_and_no_are_equally_frequent():
    for kind in ("check", "listed"):
        count = Counter(draw_task(Random(s), kind).answer for s in range(1000))
        assert 430 < count["yes"] < 570


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_majority_has_no_rival(seed):
    task = tasks.majority(Random(seed))
    votes = Counter(split(task.context.partition("\n")[2]))
    for name in (*"ABCDEFGHI", "Agent", *map(str, range(10))):
        del votes[name]
    ranked = votes.most_common(2)
    assert ranked[0][0] == task.answer
    assert len(ranked) == 1 or ranked[0][1] > ranked[1][1]


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_sums_add_up(seed):
    task = tasks.add(Random(seed))
    numbers = [int(word) for word in split(task.question) if word.isdigit()]
    assert sum(numbers) == int(task.answer)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_copies_and_extracts_come_from_the_text(seed):
    task = tasks.copy(Random(seed))
    assert task.question.endswith(": " + task.answer)
    task = tasks.extract(Random(seed))
    for name, value in (pair.split("=") for pair in task.answer.split("; ")):
        assert name in split(task.question)
        assert value in split(task.context)


def split(text: str) -> list[str]:
    return "".join(char if char.isalnum() else " " for char in text).split()


def test_only_the_whole_answer_is_right():
    task = tasks.Task(kind="add", system="", context="", question="2 + 2 =", answer="4")
    assert task.is_right(" 4\n")
    assert not task.is_right("4.")


def test_every_word_is_one_token_of_helium_tiny(tiny_path):
    text = load_text(tiny_path)
    every = [w for name in dir(words) if name.isupper() for w in getattr(words, name)]
    assert [word for word in every if len(text.encode(word)) != 1] == []
    assert len(set(every)) == len(every)
