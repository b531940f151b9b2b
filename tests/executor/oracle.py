"""The slowest right executor: every row alone, every operator alone, no cache, no shared code."""

from helium_jax.plan import Chat, Completion, Const, Input, Param, Slot, Template
from helium_jax.testing import FakeText
from helium_jax.types import GenerateRequest


def show(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def expected_outputs(plan, rows, generator):
    """What a run must give, for each row, computed by recursion from the outputs.

    Calls for which `generator` has no answer are None, and so is all that needs them.
    """
    codec = FakeText()

    def fill(text, row):
        pieces = [value(part.name, row) if isinstance(part, Slot) else part for part in text]
        return None if None in pieces else "".join(pieces)

    def call(token_ids, settings):
        request = GenerateRequest(
            request_id="", token_ids=tuple(token_ids), sampling=settings.sampling
        )
        answer = generator.outcome(request)
        if answer is None:
            return None
        text = bytes(i for i in answer if i < 256).decode("utf-8", "replace")
        ends = [text.find(stop) for stop in settings.stop if stop in text]
        return text[: min(ends)] if ends else text

    def value(name, row):
        match plan.nodes[name]:
            case Input():
                return show(rows[row][name])
            case Param(default=default):
                return show(default)
            case Const(value=tuple() as values):
                return show(values[row])
            case Const(value=constant):
                return show(constant)
            case Template(text=text):
                return fill(text, row)
            case Completion(prompt=prompt, settings=settings):
                text = fill(prompt, row)
                return None if text is None else call(codec.encode(text), settings)
            case Chat(messages=messages, settings=settings):
                texts = [fill(message.content, row) for message in messages]
                if None in texts:
                    return None
                turns = [
                    {"role": m.role, "content": text}
                    for m, text in zip(messages, texts, strict=True)
                ]
                return call(codec.encode_chat(turns), settings)

    return [{o.name: value(o.source, row) for o in plan.outputs} for row in range(len(rows))]
