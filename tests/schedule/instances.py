"""Small call graphs: the two with golden numbers, and random ones."""

from hypothesis import strategies as st

from helium_jax.schedule import CallGraph, CallNode, Segment


def static(key, num_tokens):
    return Segment(key=key, num_tokens=num_tokens, is_static=True)


def slot(key, num_tokens, group=""):
    return Segment(key=key, num_tokens=num_tokens, is_static=False, group=group)


def call(name, *segments, needs=(), output_tokens=20, role="", repeats=1.0):
    role = role or (segments[0].key if segments else name)
    return CallNode(
        name=name,
        segments=segments,
        needs=tuple(needs),
        output_tokens=output_tokens,
        role=role,
        repeats=repeats,
    )


def figure_4(num_rows):
    """Agent 1 answers; agent 2 answers the same question and reviews agent 1's answer."""
    q = slot("q", 40)
    nodes = (
        call("1", static("A1", 100), q, slot("t1", 10)),
        call("2", static("A2", 100), q, slot("t2", 10)),
        call("3", static("A2", 100), q, slot("t3", 60), needs=("1", "2")),
    )
    return CallGraph(nodes=nodes, num_rows=num_rows)


def map_reduce(num_rows):
    """Three experts over the same question, and a reducer."""
    experts = [call(f"e{i}", static("S", 100), slot("q", 400), slot(f"t{i}", 20)) for i in range(3)]
    reducer = call("red", static("R", 50), slot("own", 460), needs=("e0", "e1", "e2"))
    return CallGraph(nodes=(*experts, reducer), num_rows=num_rows)


@st.composite
def graphs(draw, max_operators=4, max_rows=4, max_calls=12):
    """Random graphs whose prompts share prefixes of a few roles and columns."""
    num_operators = draw(st.integers(1, max_operators))
    num_rows = draw(st.integers(1, min(max_rows, max_calls // num_operators)))
    has_groups = draw(st.booleans())
    sizes = st.integers(1, 300)
    nodes = []
    for index in range(num_operators):
        role = draw(st.integers(0, 1))
        segments = [static(f"role{role}", 100 + 50 * role)]
        if draw(st.booleans()):
            segments.append(slot("context", 120, "context" if has_groups else ""))
        if draw(st.booleans()):
            segments.append(slot("q", 60))
        needs = draw(st.sets(st.integers(0, index - 1))) if index else set()
        segments.append(static(f"tail{index}", draw(sizes)))
        output = draw(st.integers(1, 60))
        name = f"op{index}"
        names = [f"op{need}" for need in sorted(needs)]
        nodes.append(call(name, *segments, needs=names, output_tokens=output))
    values = draw(st.lists(st.integers(0, 1), min_size=num_rows, max_size=num_rows))
    return CallGraph(nodes=tuple(nodes), num_rows=num_rows, values={"context": tuple(values)})
