"""Packs tasks into training batches: many questions over one context, each seeing only itself.

A sequence holds groups; a group is a shared head (system message and context) and branches (a
question with its answer). A token sees the head and its own branch of its own group, and positions
restart at each branch, so every branch is exactly the single-turn prompt that will be asked. Gaps
in the positions make short sequences train long distances.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
from tokenizers import Tokenizer

from helium_jax.builtin.tasks import (
    SCENE_TASKS,
    SHORT_TASKS,
    Task,
    copy,
    draw_scene,
)

OTHER_TASKS = tuple(name for name in SCENE_TASKS if name != "lookup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One part of the curriculum.

    Attributes:
        steps: optimiser steps.
        length: T, tokens of a sequence.
        batch: sequences of a step.
        facts: least and most facts of a scene.
        questions: least and most questions over one scene.
        reach: positions may be spread up to this one.
        short_share: part of the groups that are short tasks.
        copy_share: of those, the part that is copying, on which look-up heads grow first.
        check_share: of questions over a scene, the part that is not a plain look-up.
        system_share: of groups, the part that keeps the system message it drew.
        short_weights: how often each short task is drawn.
        other_weights: how often each question over a scene that is not a plain look-up is.
    """

    steps: int
    length: int
    batch: int
    facts: tuple[int, int]
    questions: tuple[int, int]
    reach: int
    short_share: float
    copy_share: float
    check_share: float
    system_share: float
    short_weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SHORT_TASKS, 1))
    other_weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(OTHER_TASKS, 1))


@dataclass(slots=True)
class Sequence:
    """One packed sequence being filled; `rows` predict `targets`, the ids one further."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


Arrays = dict[str, np.ndarray]


class Packer:
    """Turns tasks into token ids; remembers encodings of parts that recur."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._start = self._ids("<|im_start|>user\n")
        self._reply = self._ids("<|im_end|>\n<|im_start|>assistant\n")
        self._end = self._ids("<|im_end|>")
        self._newline = self._ids("\n")[0]

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def head(self, task: Task) -> list[int]:
        """System message, user header and context: what questions over one scene share."""
        system = f"<|im_start|>system\n{task.system}<|im_end|>\n" if task.system else ""
        context = f"{task.context}\n\n" if task.context else ""
        return self._ids(system) + self._start + self._ids(context)

    def branch(self, task: Task) -> tuple[list[int], list[int]]:
        """Question with the reply header, and the answer with its end of message."""
        return self._ids(task.question) + self._reply, self._ids(task.answer) + self._end

    def spread(self, head: list[int], spare: int, rng: Random) -> list[int]:
        """Positions of the head with gaps after some line ends, at most `spare` in all."""
        offsets = np.zeros(len(head), np.int64)
        breaks = [i + 1 for i, token in enumerate(head[:-1]) if token == self._newline]
        if spare > 0 and breaks and rng.random() < 0.5:
            for place in rng.sample(breaks, min(len(breaks), rng.randint(1, 3))):
                gap = rng.randrange(spare + 1)
                spare -= gap
                offsets[place:] += gap
        return (np.arange(len(head)) + offsets).tolist()


def pack_group(
    sequence: Sequence, packer: Packer, tasks: list[Task], *, length: int, reach: int, rng: Random
) -> bool:
    """Appends tasks that share one head; returns False and appends nothing if it does not fit.

    Questions that no longer fit are left out, as long as one does.
    """
    head = packer.head(tasks[0])
    branches = [packer.branch(task) for task in tasks]
    room = length - len(sequence.ids) - len(head)
    if room < len(branches[0][0]) + len(branches[0][1]):
        return False
    group = sequence.groups[-1] + 1 if sequence.groups else 1
    longest = max(len(prompt) + len(answer) for prompt, answer in branches)
    positions = packer.spread(head, reach - len(head) - longest, rng)
    _extend(sequence, head, positions, group, 0)
    after = positions[-1] + 1
    for index, (prompt, answer) in enumerate(branches, 1):
        ids = prompt + answer
        room -= len(ids)
        if room < 0:
            break
        first = len(sequence.ids) + len(prompt) - 1
        gap = 0
        if rng.random() < 0.3:
            gap = rng.randrange(max(1, reach - after - len(ids)))
        _extend(sequence, ids, range(after + gap, after + gap + len(ids)), group, index)
        sequence.rows += range(first, first + len(answer))
        sequence.targets += answer
        sequence.weights += [len(answer) ** -0.5] * len(answer)
    return True


def _extend(
    sequence: Sequence, ids: list[int], positions: Iterable[int], group: int, branch: int
) -> None:
    sequence.ids += ids
    sequence.positions += positions
    sequence.groups += [group] * len(ids)
    sequence.branches += [branch] * len(ids)


def collate(sequences: list[Sequence], length: int, rows: int) -> Arrays:
    """Pads to [batch, length], and to [batch, rows] what is predicted; cuts off what is more."""
    shapes = dict.fromkeys(("ids", "positions", "groups", "branches"), length)
    shapes |= dict.fromkeys(("rows", "targets", "weights"), rows)
    arrays = {
        name: np.zeros((len(sequences), size), np.float32 if name == "weights" else np.int32)
        for name, size in shapes.items()
    }
    for place, sequence in enumerate(sequences):
        for name, size in shapes.items():
            values = getattr(sequence, name)[:size]
            arrays[name][place, : len(values)] = values
    return arrays


def draw_group(rng: Random, stage: Stage) -> list[Task]:
    """Tasks over one scene, or one short task."""
    tasks = _draw_tasks(rng, stage)
    if rng.random() < stage.system_share:
        return tasks
    return [replace(task, system="") for task in tasks]


def _draw_tasks(rng: Random, stage: Stage) -> list[Task]:
    if rng.random() < stage.short_share:
        if rng.random() < stage.copy_share:
            return [copy(rng)]
        return [SHORT_TASKS[_choose(rng, stage.short_weights)](rng)]
    low, high = stage.facts
    # squared: long scenes are rarer, they hold more tokens
    scene = draw_scene(rng, low + int((high - low + 1) * rng.random() ** 2))
    tasks = []
    for _ in range(rng.randint(*stage.questions)):
        is_other = rng.random() < stage.check_share
        kind = _choose(rng, stage.other_weights) if is_other else "lookup"
        tasks.append(SCENE_TASKS[kind](rng, scene))
    return tasks


def _choose(rng: Random, weights: dict[str, float]) -> str:
    return rng.choices([*weights], [*weights.values()])[0]


def batches(packer: Packer, stage: Stage, seed: str) -> Iterator[Arrays]:
    """The batches of a stage; equal seeds give equal batches."""
    rng = Random(seed)
    for _ in range(stage.steps):
        sequences = []
        while len(sequences) < stage.batch:
            sequence = Sequence()
            misses = 0
            while misses < 4:
                fits = pack_group(
                    sequence,
                    packer,
                    draw_group(rng, stage),
                    length=stage.length,
                    reach=stage.reach,
                    rng=rng,
                )
                misses += not fits
            if sequence.rows:
                sequences.append(sequence)
        yield collate(sequences, stage.length, stage.length // 4)


def single_tasks(packer: Packer, tasks: list[Task], length: int, batch: int) -> Iterator[Arrays]:
    """Tasks one by one as they will be asked, no gaps; `owner` tells whose each row is, from 0."""
    sequences, owners = [Sequence()], [[]]
    for index, task in enumerate(tasks):
        while not pack_single(sequences[-1], packer, task, length):
            if not sequences[-1].ids:
                raise ValueError(f"a task of kind {task.kind!r} is longer than {length=}")
            sequences.append(Sequence())
            owners.append([])
        owners[-1] += [index] * (len(sequences[-1].rows) - len(owners[-1]))
    while len(sequences) % batch:
        sequences.append(Sequence())
        owners.append([])
    for start in range(0, len(sequences), batch):
        arrays = collate(sequences[start : start + batch], length, length // 2)
        owner = np.full(arrays["rows"].shape, -1, np.int32)
        for place, values in enumerate(owners[start : start + batch]):
            owner[place, : len(values)] = values
        yield arrays | {"owner": owner}


def pack_single(sequence: Sequence, packer: Packer, task: Task, length: int) -> bool:
    """Appends one task without gaps."""
    no_gaps = Random(0)
    return pack_group(sequence, packer, [task], length=length, reach=0, rng=no_gaps)
