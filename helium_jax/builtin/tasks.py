"""Tasks whose answers can be checked: what helium-tiny is trained on, asked in demos, tested with.

A task is a system message, a context, a question and its one right answer. Generators take a
`random.Random` and nothing else, so equal seeds give equal tasks on every machine. Those that
share a `Scene` share the prompt up to the question: the context comes first, always.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from helium_jax.builtin import words

SYSTEMS = (
    "You are a helpful assistant.",
    "Answer with one word.",
    "Answer from the records.",
    "You are a careful expert. Answer briefly.",
    "You are one of several experts. Use the facts only.",
    "You are a fair judge.",
    "Read the context and answer the question.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One question with its one right answer.

    Attributes:
        kind: name of the generator that made it.
        system: the system message; empty for none.
        context: what the question is about; empty for none.
        question: the end of the user message.
        answer: exactly what the model should say.
    """

    kind: str
    system: str
    context: str
    question: str
    answer: str

    @property
    def user(self) -> str:
        return user_message(self.context, self.question)

    @property
    def messages(self) -> tuple[dict[str, str], ...]:
        """The conversation to send, without the answer."""
        user = {"role": "user", "content": self.user}
        return ({"role": "system", "content": self.system}, user) if self.system else (user,)

    def is_right(self, output: str) -> bool:
        """Equality up to white space at the ends: no partial credit."""
        return output.strip() == self.answer


def user_message(context: str, question: str) -> str:
    """How context and question become one user message."""
    return f"{context}\n\n{question}" if context else question


# --- scenes: a list of facts, one attribute of many keys --------------------------------------

_VALUES: dict[str, Sequence[str]] = {
    "colour": words.COLOURS,
    "city": words.CITIES,
    "animal": words.ANIMALS,
    "tool": words.TOOLS,
    "team": words.GROUPS,
}
_ATTRIBUTES = (*_VALUES, "code")
_LINES = (
    "{key}: {value}\n",
    "- {key}: {value}\n",
    "{key}={value}\n",
    "{key},{value}\n",
    "{key}: {value}, ",
)
_TITLES = ("Records:", "Facts:", "Notes:", "Table:", "Context:", "Here are the records.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A context: facts of the form key -> value, written in one style.

    Attributes:
        system: the system message; empty for none.
        attribute: what the values are: "city", "code", ...
        facts: key -> value, in the order of the text.
        text: the facts as the model reads them.
    """

    system: str
    attribute: str
    facts: dict[str, str]
    text: str


def write_scene(
    facts: dict[str, str],
    *,
    attribute: str,
    line: str = _LINES[0],
    title: str = _TITLES[0],
    system: str = SYSTEMS[2],
) -> Scene:
    """Writes facts down; `line` has the slots {key}, {value} and, if it likes, {attribute}."""
    lines = (line.format(key=k, value=v, attribute=attribute) for k, v in facts.items())
    text = "".join(lines).rstrip(", \n")
    return Scene(system=system, attribute=attribute, facts=facts, text=f"{title}\n{text}")


def draw_scene(rng: Random, num_facts: int) -> Scene:
    """A scene of `num_facts` facts in a random style; at most 258 keys exist."""
    attribute = rng.choice(_ATTRIBUTES)
    pool = rng.choice((words.PEOPLE, words.THINGS, [*words.PEOPLE, *words.THINGS]))
    if num_facts > len(pool):
        pool = [*words.PEOPLE, *words.THINGS]
    keys = rng.sample(pool, num_facts)
    return write_scene(
        {key: draw_value(rng, attribute) for key in keys},
        attribute=attribute,
        line=rng.choice(_LINES),
        title=rng.choice(_TITLES),
        system=draw_system(rng),
    )


def draw_value(rng: Random, attribute: str) -> str:
    """A value of an attribute; codes are two digits."""
    return str(rng.randrange(10, 100)) if attribute == "code" else rng.choice(_VALUES[attribute])


def draw_system(rng: Random) -> str:
    return "" if rng.random() < 0.2 else rng.choice(SYSTEMS)


_LOOKUP_QUESTIONS = (
    "What is the {attribute} of {key}?",
    "Question: What is the {attribute} of {key}?",
    "Which {attribute} does {key} have?",
    "Give the {attribute} of {key}.",
    "Look up {key}.",
    "{key}?",
)


def lookup(rng: Random, scene: Scene) -> Task:
    """The value of one key."""
    key = rng.choice([*scene.facts])
    question = rng.choice(_LOOKUP_QUESTIONS).format(key=key, attribute=scene.attribute)
    return _ask(scene, "lookup", question, scene.facts[key])


def reply(rng: Random, scene: Scene) -> Task:
    """The value of one key after hearing what others said, who may be wrong."""
    key = rng.choice([*scene.facts])
    question = rng.choice(_LOOKUP_QUESTIONS[:4]).format(key=key, attribute=scene.attribute)
    heard = [
        scene.facts[key] if rng.random() < 0.4 else draw_value(rng, scene.attribute)
        for _ in range(rng.randint(1, 3))
    ]
    if len(heard) == 1:
        rumour = rng.choice(("Another agent answered {0}.", "The other agent says {0}."))
        rumour = rumour.format(heard[0])
    else:
        rumour = "\n".join(
            f"Agent {name}: {value}" for name, value in zip("ABC", heard, strict=False)
        )
    start = rng.choice(("Check the facts.", "Answer again."))
    return _ask(scene, "reply", f"{rumour}\n{start} {question}", scene.facts[key])


def check(rng: Random, scene: Scene) -> Task:
    """Whether a key has a value: yes or no, equally often."""
    key = rng.choice([*scene.facts])
    truth = rng.random() < 0.5
    value = scene.facts[key]
    while (value == scene.facts[key]) != truth:
        value = draw_value(rng, scene.attribute)
    form = rng.choice(("Is {value} the {attribute} of {key}?", "Yes or no: {value} for {key}?"))
    question = form.format(attribute=scene.attribute, key=key, value=value)
    return _ask(scene, "check", question, "yes" if truth else "no")


def listed(rng: Random, scene: Scene) -> Task:
    """Whether a key is there at all: yes or no, equally often."""
    truth = rng.random() < 0.5
    absent = [k for k in (*words.PEOPLE, *words.THINGS) if k not in scene.facts]
    key = rng.choice([*scene.facts] if truth or not absent else absent)
    form = rng.choice(("Is there a record of {key}?", "Is there a fact about {key}?"))
    return _ask(scene, "listed", form.format(key=key), "yes" if key in scene.facts else "no")


def _ask(scene: Scene, kind: str, question: str, answer: str) -> Task:
    return Task(
        kind=kind, system=scene.system, context=scene.text, question=question, answer=answer
    )


# --- tasks that bring their own short context -------------------------------------------------

_ANSWERS_TITLES = ("Answers:", "Votes:", "The agents answered:", "The experts said:")
_MAJORITY_QUESTIONS = (
    "Which answer is the most common?",
    "What do most of them say?",
    "Choose the majority.",
    "Question: Which answer has the majority?",
)


def majority(rng: Random) -> Task:
    """What more than half of 3 to 7 listed answers say."""
    attribute = rng.choice((*_VALUES, "verdict"))
    values = ("yes", "no") if attribute == "verdict" else _VALUES[attribute]
    num_votes = rng.randint(3, 7)
    num_winning = rng.randint(num_votes // 2 + 1, num_votes)
    winner, *others = rng.sample(values, min(3, len(values)))
    votes = [winner] * num_winning + rng.choices(others, k=num_votes - num_winning)
    rng.shuffle(votes)
    return Task(
        kind="majority",
        system=draw_system(rng),
        context=f"{rng.choice(_ANSWERS_TITLES)}\n{write_list(votes, _draw_list_style(rng))}",
        question=rng.choice(_MAJORITY_QUESTIONS),
        answer=winner,
    )


def assemble(rng: Random) -> Task:
    """2 to 8 listed answers on one line, in their order."""
    attributes = (
        [rng.choice(_ATTRIBUTES)] * 8 if rng.random() < 0.5 else rng.choices(_ATTRIBUTES, k=8)
    )
    answers = [draw_value(rng, attribute) for attribute in attributes[: rng.randint(2, 8)]]
    return Task(
        kind="assemble",
        system=draw_system(rng),
        context=f"{rng.choice(_ANSWERS_TITLES)}\n{write_list(answers, _draw_list_style(rng))}",
        question=rng.choice(("Write them on one line.", "Join the answers with commas.")),
        answer=", ".join(answers),
    )


def write_list(items: Sequence[str], style: str) -> str:
    """Items as "dash", "number", "agent", "plain" or "comma" list."""
    match style:
        case "dash":
            return "\n".join(f"- {item}" for item in items)
        case "number":
            return "\n".join(f"{place}. {item}" for place, item in enumerate(items, 1))
        case "agent":
            return "\n".join(
                f"Agent {name}: {item}" for name, item in zip("ABCDEFGHI", items, strict=False)
            )
        case "plain":
            return "\n".join(items)
        case "comma":
            return ", ".join(items)
    raise ValueError(f"{style=} is unknown; choose dash, number, agent, plain or comma")


def _draw_list_style(rng: Random) -> str:
    return rng.choice(("dash", "number", "agent", "plain", "comma"))


def copy(rng: Random, max_words: int = 24) -> Task:
    """A text of 1 to `max_words` random words, numbers and letters, said again."""
    pool = (*words.PEOPLE, *words.THINGS, *(v for values in _VALUES.values() for v in values))
    pieces = rng.choices(pool, k=rng.randint(1, max_words))
    for place in range(len(pieces)):
        if rng.random() < 0.1:
            pieces[place] = str(rng.randrange(1000))
        elif rng.random() < 0.1:
            letters = rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(1, 5))
            pieces[place] = "".join(letters)
    text = rng.choice((" ", ", ", "; ", "-")).join(pieces)
    return Task(
        kind="copy",
        system=draw_system(rng),
        context="",
        question=rng.choice(("Repeat: ", "Copy: ", "Say this again: ")) + text,
        answer=text,
    )


_EXTRACT_LINES = (
    "{name} from {city} bought a {colour} {tool}.",
    "In {city}, {name} found a {colour} {tool}.",
    "A {colour} {tool} was sent to {name} in {city}.",
    "{name} has a {colour} {tool} and lives in {city}.",
)


def extract(rng: Random) -> Task:
    """Two to four fields of a sentence in a fixed form: "name=Ada; city=Rome"."""
    fields = {
        "name": rng.choice(words.PEOPLE),
        "city": rng.choice(words.CITIES),
        "colour": rng.choice(words.COLOURS),
        "tool": rng.choice(words.TOOLS),
    }
    wanted = rng.sample([*fields], rng.randint(2, 4))
    return Task(
        kind="extract",
        system=draw_system(rng),
        context=f"Text: {rng.choice(_EXTRACT_LINES).format(**fields)}",
        question=f"Extract {', '.join(wanted)}.",
        answer="; ".join(f"{name}={fields[name]}" for name in wanted),
    )


def add(rng: Random) -> Task:
    """The sum of two numbers from 0 to 9."""
    a, b = rng.randrange(10), rng.randrange(10)
    form = rng.choice(("What is {a} + {b}?", "Add {a} and {b}.", "{a} + {b} ="))
    return Task(
        kind="add",
        system=draw_system(rng),
        context="",
        question=form.format(a=a, b=b),
        answer=str(a + b),
    )


SCENE_TASKS: dict[str, Callable[[Random, Scene], Task]] = {
    "lookup": lookup,
    "reply": reply,
    "check": check,
    "listed": listed,
}
SHORT_TASKS: dict[str, Callable[[Random], Task]] = {
    "majority": majority,
    "assemble": assemble,
    "copy": copy,
    "extract": extract,
    "add": add,
}
KINDS = (*SCENE_TASKS, *SHORT_TASKS)


def draw_task(rng: Random, kind: str, *, num_facts: int = 40) -> Task:
    """One task of a kind named in KINDS; `num_facts` counts only where there is a scene."""
    if kind in SCENE_TASKS:
        return SCENE_TASKS[kind](rng, draw_scene(rng, num_facts))
    return SHORT_TASKS[kind](rng)
