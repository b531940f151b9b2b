"""Random small plans with branches, loops, maps and races inside each other."""

import itertools

from hypothesis import strategies as st

from helium_jax.plan import (
    CachePolicy,
    CallSettings,
    Chat,
    Completion,
    Input,
    Message,
    Output,
    Plan,
    Slot,
    Template,
)
from helium_jax.plan.control import Body, Branch, Carried, Loop, Map, Race, Reduce
from helium_jax.plan.formula import parse_formula
from helium_jax.plan.nodes import Concat, Function, Lambda, Slice, View
from helium_jax.plan.template import normalize
from helium_jax.types import SamplingParams

REDUCES = (
    Reduce(kind="concat", separator="|"),
    Reduce(kind="vote"),
    Reduce(kind="best_of", score=parse_formula("len(value)")),
)


def reverse(text):
    return text[::-1]


def first_line(text):
    """Raises for an empty text."""
    return text.splitlines()[0]


FUNCTIONS = (
    Function(name="reverse", call=reverse, is_pure=True),
    Function(name="first_line", call=first_line, is_pure=False),
)


class Scope:
    """The names that a body may use; of chats, what goes on in a history."""

    def __init__(self, names, chats=()):
        self.names = list(names)
        self.chats = list(chats)

    def inside(self, names=(), chats=()):
        return Scope([*self.names, *names], [*self.chats, *chats])


@st.composite
def nested_plans(draw):
    counter = itertools.count()

    def fresh(kind):
        return f"{kind}{next(counter)}"

    def one_of(values):
        return draw(st.sampled_from(list(values)))

    def text(scope):
        slots = [Slot(name=one_of(scope.names)) for _ in range(draw(st.integers(0, 2)))]
        return normalize(["> ", *slots])

    def settings():
        kind = one_of(["fail", "fail", "empty", "default"])
        return CallSettings(
            sampling=SamplingParams(max_tokens=draw(st.integers(1, 5))),
            cache=CachePolicy(results=draw(st.booleans())),
            on_error=kind,
            default="stand-in" if kind == "default" else "",
        )

    def body(scope, depth):
        inside = scope.inside()
        ops = [operator(inside, depth) for _ in range(draw(st.integers(0, 2)))]
        return Body(ops=tuple(ops), result=one_of(inside.names))

    def operator(scope, depth):
        kinds = ["chat", "chat", "completion", "template", "slice", "concat", "lambda"]
        kinds += ["view"] if scope.chats else []
        kinds += ["branch", "loop", "while", "map", "race"] * (1 if depth else 0)
        op, is_chat = make(one_of(kinds), scope, depth)
        scope.names.append(op.name)
        if is_chat:
            scope.chats.append(op.name)
        return op

    def make(kind, scope, depth):
        name = fresh(kind[0])
        match kind:
            case "chat":
                history = one_of([None, *scope.chats])
                turns = (Message(role="user", content=text(scope)),)
                return Chat(name=name, messages=turns, settings=settings(), history=history), True
            case "completion":
                return Completion(name=name, prompt=text(scope), settings=settings()), False
            case "template":
                return Template(name=name, text=text(scope)), False
            case "slice":
                unit = one_of(["chars", "words", "lines"])
                start, stop = draw(st.integers(-2, 2)), one_of([None, 3])
                source = one_of(scope.names)
                return Slice(name=name, source=source, start=start, stop=stop, unit=unit), False
            case "concat":
                sources = (one_of(scope.names), one_of(scope.names))
                return Concat(name=name, sources=sources, separator=", "), False
            case "lambda":
                args = (one_of(scope.names),)
                return Lambda(name=name, function=one_of(FUNCTIONS), args=args), False
            case "view":
                view = one_of(["text", "history", "echo", "last"])
                return View(name=name, source=one_of(scope.chats), kind=view), False
            case "branch":
                condition = parse_formula(f"contains({one_of(scope.names)}, 'a')")
                then = body(scope, depth - 1)
                otherwise = body(scope, depth - 1) if draw(st.booleans()) else None
                return Branch(name=name, condition=condition, then=then, otherwise=otherwise), False
            case "map":
                item = fresh("item")
                over = parse_formula(f"words({one_of(scope.names)})")
                inside = body(scope.inside([item]), depth - 1)
                return Map(
                    name=name,
                    over=over,
                    item=item,
                    body=inside,
                    max_items=3,
                    reduce=one_of(REDUCES),
                ), False
            case "race":
                arms = tuple(body(scope, depth - 1) for _ in range(draw(st.integers(1, 3))))
                reduce = one_of(REDUCES)
                return Race(name=name, arms=arms, k=len(arms), reduce=reduce), False
            case _:
                return loop(name, scope, depth, is_while=kind == "while"), False

    def loop(name, scope, depth, *, is_while):
        carried_text, carried_chat = fresh("carried"), fresh("carried")
        has_chat = bool(scope.chats) and draw(st.booleans())
        inside = scope.inside([carried_text, *([carried_chat] * has_chat)])
        inside.chats += [carried_chat] * has_chat
        ops = [operator(inside, depth - 1) for _ in range(draw(st.integers(0, 3)))]
        carried = [
            Carried(name=carried_text, initial=one_of(scope.names), next=one_of(inside.names))
        ]
        if has_chat:
            # A carried chat must go on with chats.
            initial, following = one_of(scope.chats), one_of(inside.chats)
            carried.append(Carried(name=carried_chat, initial=initial, next=following))
        return Loop(
            name=name,
            carried=tuple(carried),
            body=Body(ops=tuple(ops), result=one_of(inside.names)),
            count=None if is_while else draw(st.integers(0, 3)),
            condition=parse_formula(f"contains({carried_text}, 'a')") if is_while else None,
            max_iterations=3,
        )

    scope = Scope(["q"])
    ops = [operator(scope, 2) for _ in range(draw(st.integers(1, 4)))]
    names = [op.name for op in ops]
    outputs = tuple(Output(name=f"o{i}", source=one_of(names)) for i in range(2))
    return Plan(inputs=(Input(name="q"),), ops=tuple(ops), outputs=outputs)
