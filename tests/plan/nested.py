"""Random small plans with bodies inside bodies, and formulas, that are valid."""

from hypothesis import settings
from hypothesis import strategies as st

from helium_jax.plan import (
    Body,
    Branch,
    CallSettings,
    Carried,
    Chat,
    Concat,
    Const,
    Input,
    Loop,
    Map,
    Message,
    Output,
    Param,
    Plan,
    Race,
    Reduce,
    RunLimits,
    Slice,
    Template,
    View,
    parse_formula,
)
from helium_jax.plan.formula import Formula
from helium_jax.plan.formula_tree import (
    COMPARISONS,
    RESERVED,
    Call,
    Compare,
    Constant,
    Logic,
    Name,
    Not,
    Step,
)
from tests.plan.strategies import LITERALS, texts
from tests.plan.strategies import settings as plain_settings

FEW = settings(max_examples=40)  # a nested plan takes milliseconds to draw

TEXTS = st.text(alphabet="ab' \"\\\né😀{}", max_size=4)
NUMBERS = st.integers(-99, 99) | st.floats(-1e6, 1e6, allow_nan=False).map(float)
NAMES = st.sampled_from(["a", "b-1", "sub/judge", "len", *RESERVED])


def trees():
    atoms = st.one_of(
        st.builds(Constant, value=TEXTS | NUMBERS | st.booleans() | st.none()),
        st.builds(Name, name=NAMES),
    )

    def grow(inner):
        keys = st.sampled_from(["a", "b c", "", "é", "__class__"]) | st.integers(-3, 3)
        regex = st.sampled_from(["a+", "(b)|c", "'"]).map(lambda r: Constant(value=r))
        group = st.integers(0, 1).map(lambda g: Constant(value=g))
        one = st.sampled_from(["json", "lines", "words", "len", "number", "lower", "upper", "trim"])
        two = st.sampled_from(["contains", "starts_with", "ends_with", "split", "join"])
        return st.one_of(
            st.builds(Compare, operator=st.sampled_from(COMPARISONS), left=inner, right=inner),
            st.builds(
                Logic,
                operator=st.sampled_from(["and", "or"]),
                operands=st.lists(inner, min_size=2, max_size=3).map(tuple),
            ),
            st.builds(Not, operand=inner),
            st.builds(Step, base=inner, key=keys),
            st.builds(Call, function=one, args=st.tuples(inner)),
            st.builds(Call, function=two, args=st.tuples(inner, inner)),
            st.builds(
                Call,
                function=st.sampled_from(["matches", "extract", "extract_all"]),
                args=st.tuples(inner, regex),
            ),
            st.builds(Call, function=st.just("extract"), args=st.tuples(inner, regex, group)),
        )

    return st.recursive(atoms, grow, max_leaves=8)


# Trees of every kind are in the tests of formulas; what matters here is which names they use.
FORMULAS = (
    "lines({a})",
    "contains({a}, 'it\\'s')",
    'len({a}) > 2 and not {b} == "y"',
    "json({a}).items[0] or matches({b}, '^a+$')",
    "true",
)


def formulas(names) -> st.SearchStrategy[Formula]:
    return st.builds(
        lambda source, a, b: parse_formula(source.format(a=a, b=b)),
        st.sampled_from(FORMULAS),
        st.sampled_from(names),
        st.sampled_from(names),
    )


class Growing:
    """A random plan in the making: names are unique in all of it."""

    def __init__(self, draw):
        self.draw = draw
        self.num_names = 0
        self.calls = []  # every chat so far, with the names visible where it stands

    def name(self, stem):
        self.num_names += 1
        return f"{stem}{self.num_names}"

    def body(self, names, depth):
        ops, inside = self.scope(names, depth)
        return Body(ops=ops, result=self.draw(st.sampled_from(inside)))

    def scope(self, names, depth):
        names, ops = list(names), []
        for _ in range(self.draw(st.integers(0 if depth else 1, 3))):
            op = self.op(names, depth)
            ops.append(op)
            names.append(op.name)
        # The author's order need not be one in which they can run.
        return tuple(self.draw(st.permutations(ops))), names

    def op(self, names, depth):
        kinds = ["const", "template", "chat", "slice", "concat", "view"]
        kinds += ["branch", "loop", "map", "race"] * (depth < 3)
        kind = self.draw(st.sampled_from(kinds))
        name = self.name(kind)
        one = st.sampled_from(names)
        seen = [call for call in self.calls if call in names]
        match kind:
            case "const":
                return Const(name=name, value=self.draw(LITERALS))
            case "template":
                return Template(name=name, text=self.draw(texts(names)))
            case "slice":
                ends = st.none() | st.integers(-3, 3)
                unit = self.draw(st.sampled_from(["chars", "words", "lines"]))
                start, stop = self.draw(ends), self.draw(ends)
                return Slice(name=name, source=self.draw(one), start=start, stop=stop, unit=unit)
            case "concat":
                sources = self.draw(st.lists(one, min_size=1, max_size=3))
                separator = self.draw(st.sampled_from(["", "\n", ", "]))
                return Concat(name=name, sources=tuple(sources), separator=separator)
            case "view" if seen:
                kind = self.draw(st.sampled_from(["text", "history", "echo", "last"]))
                return View(name=name, source=self.draw(st.sampled_from(seen)), kind=kind)
            case "branch":
                otherwise = self.body(names, depth + 1) if self.draw(st.booleans()) else None
                return Branch(
                    name=name,
                    condition=self.draw(formulas(names)),
                    then=self.body(names, depth + 1),
                    otherwise=otherwise,
                )
            case "loop":
                return self.loop(name, names, depth)
            case "map":
                item = self.name("item")
                return Map(
                    name=name,
                    over=self.draw(formulas(names)),
                    item=item,
                    body=self.body([*names, item], depth + 1),
                    max_items=self.draw(st.integers(1, 9)),
                    reduce=self.reduce(names),
                )
            case "race":
                arms = [self.body(names, depth + 1) for _ in range(self.draw(st.integers(1, 3)))]
                k = self.draw(st.integers(1, len(arms)))
                return Race(name=name, arms=tuple(arms), k=k, reduce=self.reduce(names))
        return self.chat(name, names, seen)

    def chat(self, name, names, seen):
        self.calls.append(name)
        message = st.builds(Message, role=st.sampled_from(["system", "user"]), content=texts(names))
        return Chat(
            name=name,
            messages=tuple(self.draw(st.lists(message, min_size=1, max_size=2))),
            settings=self.draw(call_settings()),
            history=self.draw(st.none() | st.sampled_from(seen)) if seen else None,
        )

    def loop(self, name, names, depth):
        carried = [self.name("carried") for _ in range(self.draw(st.integers(0, 2)))]
        ops, inside = self.scope([*names, *carried], depth + 1)
        inner = st.sampled_from(inside)
        initial = st.sampled_from(names)
        is_while = self.draw(st.booleans())
        count = None if is_while else self.draw(st.sampled_from([0, 2, "p"]))
        condition = self.draw(formulas([*names, *carried])) if is_while else None
        most = self.draw(st.integers(2, 5)) if is_while or count == "p" else count
        return Loop(
            name=name,
            carried=tuple(
                Carried(name=one, initial=self.draw(initial), next=self.draw(inner))
                for one in carried
            ),
            body=Body(ops=ops, result=self.draw(inner)),
            count=count,
            condition=condition,
            max_iterations=most,
        )

    def reduce(self, names):
        kind = self.draw(st.sampled_from(["concat", "vote", "best_of"]))
        if kind == "best_of":
            return Reduce(kind=kind, score=self.draw(formulas(["value", *names])))
        separator = self.draw(st.sampled_from(["\n", "", "--"])) if kind == "concat" else "\n"
        return Reduce(kind=kind, separator=separator)


@st.composite
def call_settings(draw):
    base = draw(plain_settings())
    on_error = draw(st.sampled_from(["fail", "empty", "default"]))
    return CallSettings(
        sampling=base.sampling,
        stop=base.stop,
        cache=base.cache,
        retries=draw(st.integers(0, 2)),
        timeout_s=draw(st.none() | st.just(1.5)),
        on_error=on_error,
        default=draw(LITERALS) if on_error == "default" else "",
    )


@st.composite
def nested_plans(draw):
    growing = Growing(draw)
    ops, names = growing.scope(["q", "p"], 0)
    sources = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2))
    return Plan(
        inputs=(Input(name="q"),),
        params=(Param(name="p", type="int", default=1, min=0, max=2),),
        ops=ops,
        outputs=tuple(Output(name=f"out{i}", source=s) for i, s in enumerate(sources)),
        limits=RunLimits(max_concurrency=draw(st.none() | st.just(4))),
    )
