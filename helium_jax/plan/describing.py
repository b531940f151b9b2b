"""Single nodes in the words of EXPLAIN."""

from helium_jax.plan.control import Branch, Loop, Map, Node, Race, Reduce
from helium_jax.plan.nodes import (
    CallSettings,
    Chat,
    Completion,
    Concat,
    Const,
    Input,
    Lambda,
    Param,
    Slice,
    Template,
    View,
)

MAX_SHOWN = 60  # characters of a formula


def title(node: Node) -> str:
    """What a node is, and its name."""
    return f"{type(node).__name__} {node.name}"


def type_word(node: Node) -> str:
    """The node's type as a plan file has it; "input" and "param" for those."""
    match node:
        case Chat():
            return "llm.chat"
        case Completion():
            return "llm.completion"
        case _:
            return type(node).__name__.lower()


def details(node: Node, num_rows: int | None, prefix_tokens: int | None) -> list[str]:
    """What is known of a node before it runs."""
    facts = _facts(node)
    if num_rows is not None:
        facts.insert(0, f"rows={num_rows}")
    if prefix_tokens is not None:
        facts.append(f"static prefix={prefix_tokens} tokens")
    return facts


def _facts(node: Node) -> list[str]:
    match node:
        case Input(type=type_):
            return [f"column of {type_}"]
        case Param(type=type_, default=default):
            return [f"{type_} per run" + (f", default {default!r}" if default is not None else "")]
        case Const(value=tuple() as values):
            return [f"column of {len(values)} values"]
        case Const():
            return ["one value"]
        case Template():
            return ["text"]
        case Chat(settings=settings, history=history):
            after = [f"after {history}"] if history is not None else []
            return after + _call_facts(settings)
        case Completion(settings=settings):
            return _call_facts(settings)
        case Lambda(function=function):
            kind = "pure" if function.is_pure else "impure"
            return [f"{kind} Python function {function.name}"]
        case Slice(start=start, stop=stop, unit=unit):
            ends = ":".join("" if end is None else str(end) for end in (start, stop))
            return [f"{unit} {ends}"]
        case Concat(sources=sources):
            return [f"{len(sources)} texts"]
        case View(kind=kind):
            return [kind]
        case Branch(condition=condition, otherwise=otherwise):
            return [f"if {_short(condition.source)}"] + (["no else"] if otherwise is None else [])
        case Loop(count=count, condition=condition, max_iterations=most):
            if condition is not None:
                return [f"while {_short(condition.source)}", f"at most {most} times"]
            return [f"{count} times" + (f", at most {most}" if isinstance(count, str) else "")]
        case Map(over=over, item=item, max_items=most, reduce=reduce):
            return [f"{item} in {_short(over.source)}", f"at most {most} items", _reduce(reduce)]
        case Race(arms=arms, k=k, reduce=reduce):
            return [f"first {k} of {len(arms)}", _reduce(reduce)]


def _reduce(reduce: Reduce) -> str:
    score = f" by {_short(reduce.score.source)}" if reduce.score is not None else ""
    return reduce.kind + score


def _short(source: str) -> str:
    line = " ".join(source.split())
    return line if len(line) <= MAX_SHOWN else line[: MAX_SHOWN - 3] + "..."


def _call_facts(settings: CallSettings) -> list[str]:
    sampling = settings.sampling
    if sampling.is_greedy:
        facts = ["greedy"]
    elif sampling.seed is not None:
        facts = [f"temperature={sampling.temperature:g}", f"seed={sampling.seed}"]
    else:
        facts = [f"temperature={sampling.temperature:g}", "every call a new draw"]
    if sampling.max_tokens is not None:
        facts.append(f"max_tokens={sampling.max_tokens}")
    if settings.response_format is not None:
        facts.append(f"as {settings.response_format.kind}")
    if settings.retries:
        facts.append(f"retries={settings.retries}")
    if settings.timeout_s is not None:
        facts.append(f"timeout={settings.timeout_s:g}s")
    if settings.on_error != "fail":
        facts.append(f"on_error={settings.on_error}")
    return facts
