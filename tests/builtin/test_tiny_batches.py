"""Training batches: packed questions are the very prompts that are asked later."""

from random import Random

import numpy as np
import pytest
from tokenizers import Tokenizer

from helium_jax.builtin.tasks import KINDS, draw_scene, draw_task, lookup
from helium_jax.text import load_text


@pytest.fixture(scope="module")
def batches(request):
    """tools/ is no package: its files import one another by name."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(request.config.rootpath / "tools")
    import tiny_batches

    yield tiny_batches
    patch.undo()


@pytest.fixture
def packer(batches, tiny_path):
    return batches.Packer(Tokenizer.from_file(str(tiny_path / "tokenizer.json")))


@pytest.mark.parametrize("kind", KINDS)
def test_head_and_branch_are_the_chat_prompt(packer, tiny_path, kind):
    text = load_text(tiny_path)
    for seed in range(40):
        task = draw_task(Random(seed), kind, num_facts=5)
        prompt, answer = packer.branch(task)
        assert packer.head(task) + prompt == text.encode_chat(task.messages)
        assert text.decode(answer) == task.answer
        assert answer[-1] in text.eos_token_ids


def test_a_branch_continues_its_head_and_is_predicted_from_it(batches, packer):
    rng = Random(3)
    scene = draw_scene(rng, 6)
    tasks = [lookup(rng, scene) for _ in range(3)]
    sequence = batches.Sequence()
    assert batches.pack_group(sequence, packer, tasks, length=512, reach=0, rng=rng)
    head = len(packer.head(tasks[0]))
    ids, branches = np.array(sequence.ids), np.array(sequence.branches)
    positions = np.array(sequence.positions)
    for number, task in enumerate(tasks, 1):
        prompt, answer = packer.branch(task)
        assert ids[branches == number].tolist() == prompt + answer
        assert positions[branches == number].tolist() == [
            *range(head, head + len(prompt) + len(answer))
        ]
    assert [sequence.ids[row + 1] for row in sequence.rows] == sequence.targets


def test_gaps_keep_positions_rising_and_within_reach(batches, packer):
    rng = Random(5)
    for _ in range(50):
        scene = draw_scene(rng, 6)
        sequence = batches.Sequence()
        tasks = [lookup(rng, scene)]
        batches.pack_group(sequence, packer, tasks, length=512, reach=1000, rng=rng)
        assert (np.diff(sequence.positions) > 0).all()
        assert max(sequence.positions) < 1000


def test_what_does_not_fit_is_left_out_whole(batches, packer):
    rng = Random(7)
    scene = draw_scene(rng, 20)
    sequence = batches.Sequence()
    assert not batches.pack_group(
        sequence, packer, [lookup(rng, scene)], length=50, reach=0, rng=rng
    )
    assert sequence.ids == []
