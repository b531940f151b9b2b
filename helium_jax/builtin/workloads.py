"""The bundled plans and rows for them whose right outputs are known.

Rows come in groups over one long context, as documents in real work do: within a row the experts
share it, and so do the rows of a group.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from random import Random

from helium_jax.builtin import words
from helium_jax.builtin.tasks import SYSTEMS, Scene, draw_value, write_scene

NUM_FACTS = 110  # about 500 tokens, the longest for which the model card states accuracy
ROWS_PER_CONTEXT = 3
NUM_EXPERTS = 6
NUM_WINNING = 4  # experts whose answer is the majority's
_NUM_VALUES = 6  # different ones in a context, so that a majority is easy to find
_ATTRIBUTES = ("colour", "city", "animal", "tool", "team")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A plan with rows to run it over.

    Attributes:
        name: of the plan.
        plan_source: the plan file's text, YAML.
        rows: one mapping of inputs per row.
        answers: per row the one right value of every output of the plan.
    """

    name: str
    plan_source: bytes
    rows: tuple[dict[str, str], ...]
    answers: tuple[dict[str, str], ...]


def make_workload(name: str, *, num_rows: int = 12, seed: int = 0) -> Workload:
    """A bundled plan and `num_rows` rows for it; equal seeds give equal rows.

    Args:
        name: one of `WORKLOADS`.
        num_rows: rows of the batch.
        seed: of contexts and questions.

    Raises:
        ValueError: there is no such plan.
    """
    if name not in WORKLOADS:
        raise ValueError(f"{name!r} is no bundled plan; there are {', '.join(WORKLOADS)}")
    rng = Random(f"{name} {seed}")
    rows, answers = [], []
    scenes = [_draw_context(rng) for _ in range(0, num_rows, ROWS_PER_CONTEXT)]
    for index in range(num_rows):
        scene = scenes[index // ROWS_PER_CONTEXT]
        row, answer = WORKLOADS[name](rng, scene)
        rows.append({"context": scene.text} | row)
        answers.append(answer)
    return Workload(
        name=name,
        plan_source=plan_source(name),
        rows=tuple(rows),
        answers=tuple(answers),
    )


def plan_source(name: str) -> bytes:
    """The text of a bundled plan file."""
    return (files("helium_jax.builtin") / "plans" / f"{name}.yaml").read_bytes()


def _draw_context(rng: Random) -> Scene:
    attribute = rng.choice(_ATTRIBUTES)
    keys = rng.sample([*words.PEOPLE, *words.THINGS], NUM_FACTS)
    values: dict[str, None] = {}
    while len(values) < _NUM_VALUES:
        values[draw_value(rng, attribute)] = None
    facts = {key: rng.choice([*values]) for key in keys}
    return write_scene(facts, attribute=attribute, system=SYSTEMS[2])


def _ask_experts(rng: Random, scene: Scene) -> tuple[dict[str, str], dict[str, str]]:
    """Keys of which more than half have the same value."""
    keys_of = {
        value: [key for key, found in scene.facts.items() if found == value]
        for value in scene.facts.values()
    }
    winner = rng.choice([value for value, keys in keys_of.items() if len(keys) >= NUM_WINNING])
    others = [key for key, found in scene.facts.items() if found != winner]
    keys = rng.sample(keys_of[winner], NUM_WINNING)
    keys += rng.sample(others, NUM_EXPERTS - NUM_WINNING)
    rng.shuffle(keys)
    row = {"attribute": scene.attribute} | {f"key_{i}": key for i, key in enumerate(keys, 1)}
    answer = {f"expert_{i}": scene.facts[key] for i, key in enumerate(keys, 1)}
    return row, answer | {"verdict": winner}


def _ask_agents(rng: Random, scene: Scene) -> tuple[dict[str, str], dict[str, str]]:
    key = rng.choice([*scene.facts])
    row = {"question": f"What is the {scene.attribute} of {key}?"}
    return row, dict.fromkeys(("verdict", "agent_a", "agent_b", "agent_c"), scene.facts[key])


WORKLOADS: dict[str, Callable[[Random, Scene], tuple[dict[str, str], dict[str, str]]]] = {
    "map_reduce": _ask_experts,
    "debate": _ask_agents,
}
