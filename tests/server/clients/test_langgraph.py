"""LangGraph over langchain-openai: its map-reduce and debate say what the same plan says."""

import asyncio
import operator
from typing import Annotated, TypedDict

import aiohttp
import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

# LangChain keeps one HTTP client for all its models, so all tests share one event loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")

EXPERTS = ("law", "art", "war")
ROWS = ("Is tea better?", "Is it late?")


class MapReduce(TypedDict):
    question: str
    opinions: Annotated[list[tuple[str, str]], operator.add]
    answer: str


class Asked(TypedDict):
    expert: str
    question: str


class Debate(TypedDict):
    question: str
    pro: str
    con: str
    verdict: str


@pytest.fixture
def chat(live):
    """The model as LangChain knows it."""
    return ChatOpenAI(
        model=live.model,
        base_url=live.url + "/v1",
        api_key=live.key,
        temperature=0,
        max_tokens=6,
        max_retries=0,
    )


async def run_plan(live, plan, question):
    """The outputs of one row of a plan, over HTTP."""
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {live.key}"}) as session,
        session.post(
            live.url + "/v1/runs", json={"plan": plan, "inputs": [{"question": question}]}
        ) as response,
    ):
        body = await response.json()
        assert response.status == 200, body
        return body["outputs"][0]["outputs"]


def map_reduce(chat):
    """Every expert is asked at once by Send; the last node reads what they said."""

    async def ask(state: Asked):
        said = await chat.ainvoke(
            [SystemMessage(f"Speak of {state['expert']}."), HumanMessage(state["question"])]
        )
        return {"opinions": [(state["expert"], said.content)]}

    async def reduce(state: MapReduce):
        said = dict(state["opinions"])
        joined = "\n".join(said[expert] for expert in EXPERTS)
        answer = await chat.ainvoke([HumanMessage(joined)])
        return {"answer": answer.content}

    def fan_out(state: MapReduce):
        return [Send("ask", Asked(expert=e, question=state["question"])) for e in EXPERTS]

    graph = StateGraph(MapReduce)
    graph.add_node("ask", ask)
    graph.add_node("reduce", reduce)
    graph.add_conditional_edges(START, fan_out, ["ask"])
    graph.add_edge("ask", "reduce")
    graph.add_edge("reduce", END)
    return graph.compile()


MAP_REDUCE = {
    "version": "helium/v1",
    "inputs": {"question": {"type": "text"}},
    "ops": {
        **{
            expert: {
                "type": "llm.chat",
                "system": f"Speak of {expert}.",
                "user": "{{question}}",
                "max_tokens": 6,
            }
            for expert in EXPERTS
        },
        "answer": {
            "type": "llm.chat",
            "user": "\n".join(f"{{{{{expert}}}}}" for expert in EXPERTS),
            "max_tokens": 6,
        },
    },
    "outputs": {"answer": "answer", **{expert: expert for expert in EXPERTS}},
}


@pytest.mark.shows(client="LangGraph", endpoint="POST /v1/chat/completions", what="map-reduce")
@pytest.mark.shows(client="LangGraph", endpoint="POST /v1/runs", what="equals the plan")
async def test_a_map_reduce_of_langgraph_says_what_the_plan_says(live, chat):
    graph = map_reduce(chat)
    states = await asyncio.gather(
        *(graph.ainvoke({"question": question, "opinions": []}) for question in ROWS)
    )
    for question, state in zip(ROWS, states, strict=True):
        outputs = await run_plan(live, MAP_REDUCE, question)
        assert {**dict(state["opinions"]), "answer": state["answer"]} == outputs


def debate(chat):
    async def side(state: Debate, stance: str):
        said = await chat.ainvoke(
            [SystemMessage(f"Argue {stance}."), HumanMessage(state["question"])]
        )
        return said.content

    async def pro(state: Debate):
        return {"pro": await side(state, "FOR")}

    async def con(state: Debate):
        return {"con": await side(state, "AGAINST")}

    async def judge(state: Debate):
        said = await chat.ainvoke([HumanMessage(f"{state['pro']} or {state['con']}?")])
        return {"verdict": said.content}

    graph = StateGraph(Debate)
    for node in (pro, con, judge):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "pro")
    graph.add_edge(START, "con")
    graph.add_edge(["pro", "con"], "judge")
    graph.add_edge("judge", END)
    return graph.compile()


DEBATE = {
    "version": "helium/v1",
    "inputs": {"question": {"type": "text"}},
    "ops": {
        "pro": {
            "type": "llm.chat",
            "system": "Argue FOR.",
            "user": "{{question}}",
            "max_tokens": 6,
        },
        "con": {
            "type": "llm.chat",
            "system": "Argue AGAINST.",
            "user": "{{question}}",
            "max_tokens": 6,
        },
        "verdict": {"type": "llm.chat", "user": "{{pro}} or {{con}}?", "max_tokens": 6},
    },
    "outputs": {"pro": "pro", "con": "con", "verdict": "verdict"},
}


@pytest.mark.shows(client="LangGraph", endpoint="POST /v1/chat/completions", what="debate")
async def test_a_debate_of_langgraph_says_what_the_plan_says(live, chat):
    graph = debate(chat)
    states = await asyncio.gather(*(graph.ainvoke({"question": question}) for question in ROWS))
    for question, state in zip(ROWS, states, strict=True):
        outputs = await run_plan(live, DEBATE, question)
        assert {name: state[name] for name in outputs} == outputs


@pytest.mark.shows(client="LangChain", endpoint="POST /v1/chat/completions", what="stream")
async def test_a_stream_of_langchain_adds_up_to_the_whole(chat):
    question = [HumanMessage("Who are you?")]
    whole = await chat.ainvoke(question)
    pieces = [piece async for piece in chat.astream(question)]
    assert "".join(piece.content for piece in pieces) == whole.content
    assert whole.usage_metadata["output_tokens"] <= 6


@pytest.mark.shows(client="LangChain", endpoint="POST /v1/responses", what="stream, by id")
async def test_langchain_goes_on_through_the_responses_api(live):
    chat = ChatOpenAI(
        model=live.model,
        base_url=live.url + "/v1",
        api_key=live.key,
        temperature=0,
        max_tokens=6,
        max_retries=0,
        use_responses_api=True,
        use_previous_response_id=True,
    )
    question = HumanMessage("Who are you?")
    whole = await chat.ainvoke([question])
    pieces = [piece async for piece in chat.astream([question])]
    assert "".join(piece.text for piece in pieces) == whole.text
    assert whole.usage_metadata["output_tokens"] <= 6
    after = await chat.ainvoke([question, whole, HumanMessage("And then?")])
    assert after.usage_metadata["input_tokens"] > whole.usage_metadata["input_tokens"]
