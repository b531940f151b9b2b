"""The slowest right executor: every row alone, every operator alone, no cache, no shared code."""

import json
from collections import Counter
from functools import cache

from helium_jax.plan import Chat, Completion, Const, Input, Param, Slot, Template
from helium_jax.plan.control import Branch, Loop, Map, Race, walk
from helium_jax.plan.formula import (
    evaluate_condition,
    evaluate_items,
    evaluate_number,
)
from helium_jax.plan.formula_functions import FormulaError
from helium_jax.plan.nodes import Concat, Lambda, Slice, View
from helium_jax.testing import FakeText
from helium_jax.text.grammar import compile_grammar
from helium_jax.types import GenerateRequest


@cache
def grammar_of(spec):
    """What a call's answer must look like, compiled."""
    return None if spec is None else compile_grammar(spec, FakeText().vocabulary())


class Failed(Exception):
    """The value cannot be had."""


class Said(str):
    """The text of a call, with all its messages."""

    messages: list[dict[str, str]]
    is_bare: bool


def show(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def expected_outputs(plan, rows, generator):
    """What a run must give, for each row, computed by recursion from the outputs.

    Calls for which `generator` has no answer are None, and so is all that needs them. Races are
    those of all their arms, because time decides the others.
    """
    oracle = Oracle(plan, rows, generator)
    return [
        {o.name: oracle.output(o.source, row) for o in plan.outputs} for row in range(len(rows))
    ]


class Oracle:
    def __init__(self, plan, rows, generator):
        self.nodes = {node.name: node for node in (*plan.inputs, *plan.params, *walk(plan.ops))}
        self.rows = rows
        self.generator = generator
        self.codec = FakeText()

    def output(self, name, row):
        try:
            return str(self.value(name, row, {}))
        except Failed:
            return None

    def value(self, name, row, bound):
        if name in bound:
            return bound[name]
        try:
            return self.compute(self.nodes[name], row, bound)
        except FormulaError as error:
            raise Failed from error

    def compute(self, node, row, bound):
        def get(name):
            return self.value(name, row, bound)

        match node:
            case Input(name=name):
                return show(self.rows[row][name])
            case Param(default=default):
                return show(default)
            case Const(value=tuple() as values):
                return show(values[row])
            case Const(value=constant):
                return show(constant)
            case Template(text=text):
                return self.fill(text, get)
            case Concat(sources=sources, separator=separator):
                return separator.join([get(source) for source in sources])
            case Slice(source=source, start=start, stop=stop, unit=unit):
                text = get(source)
                if unit == "chars":
                    return text[start:stop]
                parts = text.split() if unit == "words" else text.splitlines()
                return {"words": " ", "lines": "\n"}[unit].join(parts[start:stop])
            case View(source=source, kind=kind):
                return self.view(get(source), kind)
            case Lambda(function=function, args=args):
                texts = [str(get(arg)) for arg in args]
                try:
                    return function.call(*texts)
                except Exception as error:
                    raise Failed from error
            case Completion(prompt=prompt, settings=settings):
                text = self.fill(prompt, get)
                messages = [{"role": "user", "content": text}]
                return self.call(self.codec.encode(text), settings, messages, is_bare=True)
            case Chat(messages=messages, settings=settings, history=history):
                turns = [{"role": m.role, "content": self.fill(m.content, get)} for m in messages]
                if history is not None:
                    turns = [*get(history).messages, *turns]
                return self.call(self.codec.encode_chat(turns), settings, turns, is_bare=False)
            case Branch(condition=condition, then=then, otherwise=otherwise):
                body = (
                    then if evaluate_condition(condition, self.read(condition, get)) else otherwise
                )
                return "" if body is None else get(body.result)
            case Loop():
                return self.loop(node, row, bound)
            case Map(over=over, item=item, body=body, max_items=most, reduce=reduce):
                around = self.score_names(reduce, get)
                items = evaluate_items(over, self.read(over, get), most)
                results = [self.value(body.result, row, {**bound, item: one}) for one in items]
                return self.reduce(reduce, results, around)
            case Race(arms=arms, k=k, reduce=reduce):
                assert k == len(arms)
                around = self.score_names(reduce, get)
                results = []
                for arm in arms:
                    try:
                        results.append(get(arm.result))
                    except Failed:
                        continue
                if not results:
                    raise Failed
                return self.reduce(reduce, results, around)

    def fill(self, text, get):
        return "".join([get(part.name) if isinstance(part, Slot) else part for part in text])

    def read(self, formula, get):
        return {name: str(get(name)) for name in formula.names}

    def score_names(self, reduce, get):
        names = [] if reduce.score is None else reduce.score.names
        return {name: str(get(name)) for name in names if name != "value"}

    def call(self, token_ids, settings, messages, *, is_bare):
        request = GenerateRequest(
            request_id="",
            token_ids=tuple(token_ids),
            sampling=settings.sampling,
            grammar=grammar_of(settings.response_format),
        )
        answer = self.generator.outcome(request)
        if answer is None:
            if settings.on_error == "fail":
                raise Failed
            text = settings.default if settings.on_error == "default" else ""
        else:
            text = bytes(i for i in answer if i < 256).decode("utf-8", "replace")
            ends = [text.find(stop) for stop in settings.stop if stop in text]
            text = text[: min(ends)] if ends else text
        said = Said(text)
        said.messages = [*messages, {"role": "assistant", "content": text}]
        said.is_bare = is_bare
        return said

    def view(self, said, kind):
        contents = [message["content"] for message in said.messages]
        return {
            "text": str(said),
            "history": json.dumps(said.messages, ensure_ascii=False),
            "last": json.dumps(said.messages[-1], ensure_ascii=False),
            "echo": "".join(contents) if said.is_bare else "\n\n".join(contents),
        }[kind]

    def loop(self, loop, row, bound):
        carried = {one.name: self.value(one.initial, row, bound) for one in loop.carried}
        count = self.nodes[loop.count].default if isinstance(loop.count, str) else loop.count
        result = None
        for iteration in range(loop.max_iterations + 1):
            inside = {**bound, **carried}
            if count is not None and iteration == count:
                break
            if loop.condition is not None:
                texts = self.read(loop.condition, lambda n, e=inside: self.value(n, row, e))
                if not evaluate_condition(loop.condition, texts):
                    break
                if iteration == loop.max_iterations:
                    raise Failed
            nexts = {one.name: one.next for one in loop.carried}
            final = nexts.get(loop.body.result, loop.body.result)
            is_last = count is not None and iteration + 1 == count
            if is_last or loop.condition is not None:
                result = self.value(final, row, inside)
            if not is_last:
                carried = {name: self.value(new, row, inside) for name, new in nexts.items()}
        if result is not None:
            return result
        for one in loop.carried:
            if loop.body.result in (one.name, one.next):
                return carried[one.name]
        return ""

    def reduce(self, reduce, results, around):
        results = [str(result) for result in results]
        if not results:
            return ""
        if reduce.kind == "concat":
            return reduce.separator.join(results)
        if reduce.kind == "vote":
            return Counter(result.strip() for result in results).most_common(1)[0][0]
        scores = [evaluate_number(reduce.score, {**around, "value": text}) for text in results]
        return results[scores.index(max(scores))]
