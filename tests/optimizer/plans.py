"""Plans for the tests of the rules: short spellings, and the shapes of the paper's workflows."""

from helium_jax.plan import (
    Body,
    CachePolicy,
    CallSettings,
    Carried,
    Chat,
    Completion,
    Const,
    Input,
    Loop,
    Message,
    Output,
    Plan,
    PlanBuilder,
    parse_plan,
    parse_template,
)
from helium_jax.types import SamplingParams

HEAD = "version: helium/v1\ninputs: {q: {type: text}, r: {type: text}}\n"


def read(source):
    """A plan from the inner part of a YAML file."""
    return parse_plan(HEAD + source, is_json=False)[0]


def settings(*, cache=None, **fields):
    names = {"temperature", "seed", "max_tokens"}
    sampling = SamplingParams(**{k: v for k, v in fields.items() if k in names})
    others = {k: v for k, v in fields.items() if k not in names}
    return CallSettings(sampling=sampling, cache=cache or CachePolicy(), **others)


def call(name, prompt, **fields):
    return Completion(name=name, prompt=parse_template(prompt), settings=settings(**fields))


def chat(name, user, *, history=None, **fields):
    message = Message(role="user", content=parse_template(user))
    return Chat(name=name, messages=(message,), history=history, settings=settings(**fields))


def const(name, value):
    return Const(name=name, value=value)


def body(*ops, result):
    return Body(ops=ops, result=result)


def loop(name, *ops, result, count=2, carried=(("s", "q", None),), condition=None):
    """A loop; `carried` has (name, initial, next), where None stands for the result."""
    entries = tuple(Carried(name=n, initial=i, next=x or result) for n, i, x in carried)
    return Loop(
        name=name,
        carried=entries,
        body=body(*ops, result=result),
        count=None if condition is not None else count,
        condition=condition,
        max_iterations=4,
    )


def plan_of(*ops, outputs):
    """A plan over the columns q and r; `outputs` are names of nodes."""
    return Plan(
        inputs=(Input(name="q"), Input(name="r")),
        ops=ops,
        outputs=tuple(Output(name=f"out_{name}", source=name) for name in outputs),
    )


def names(plan):
    """All operators, bodies included."""
    return [op.name for op in plan.all_ops]


def count_calls(plan):
    return sum(isinstance(op, Chat | Completion) for op in plan.all_ops)


def map_reduce(num_experts=14, num_roles=7, **fields):
    """MMLU: every role is asked twice, and all answers go to one summariser."""
    builder = PlanBuilder("map-reduce")
    question = builder.input("q")
    experts = [
        builder.chat(system=f"You are expert {i % num_roles}.", user=question, **fields)
        for i in range(num_experts)
    ]
    summary = builder.chat(user=_join(experts), **fields)
    builder.output("summary", summary)
    return builder.build()


def trading(num_branches=8, num_characters=4, **fields):
    """88 operators: four analysts, a debate, eight branches of which two each are equal."""
    builder = PlanBuilder("trading")
    stock = builder.input("q")

    def ask(system, user):
        return builder.chat(system=system, user=user, **fields)

    def analyst(name, num_readers):
        readers = [ask(f"You read {name} {i}.", stock) for i in range(num_readers)]
        return ask(f"You sum up {name}.", _join(readers))

    reports = [
        analyst(name, num_readers)
        for name, num_readers in (("fundamentals", 4), ("market", 2), ("news", 5), ("social", 3))
    ]
    findings = _join(reports)
    debate = findings
    for _ in range(2):
        bull = ask("You are bullish.", debate)
        bear = ask("You are bearish.", debate)
        debate = debate + "\n" + bull + "\n" + bear
    decision = ask("You manage research.", debate)
    verdicts = []
    for branch in range(num_branches):
        trader = ask(f"You are a trader of character {branch % num_characters}.", decision)
        talk = builder.template("The plan: " + trader)
        for _ in range(2):
            talk = _join(
                [talk, *(ask(f"You manage {r} risk.", talk) for r in ("low", "mid", "high"))]
            )
        verdicts.append(ask("You judge risk.", talk))
    builder.output("decision", ask("You manage the fund.", _join(verdicts)))
    return builder.build()


def _join(parts):
    text = parts[0]
    for part in parts[1:]:
        text = text + "\n" + part
    return text
