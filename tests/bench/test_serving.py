"""The load generator: its traffic is what was asked for, its figures are what happened."""

import itertools
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.bench_serving import TOOLS, drive_with, generate_all, tool_command
from bench.serving.client import send_all
from bench.serving.figures import Outcome, figures_of, percentile
from bench.serving.traffic import Traffic, draw_arrivals
from helium_jax.testing import FakeGenerator
from tests.server.conftest import StubRuntime, load_test_text, serve_runtime

TRAFFIC = Traffic(num_requests=6, prefix_tokens=32, input_tokens=5, output_tokens=4)


def test_gaps_have_the_mean_and_the_burstiness_that_were_asked_for():
    for burstiness in (0.25, 1.0, 4.0):
        traffic = Traffic(
            num_requests=4000,
            rate_per_s=20,
            burstiness=burstiness,
            num_prefixes=0,
            input_tokens=1,
        )
        times = [arrival.at_s for arrival in draw_arrivals(traffic)]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert statistics.fmean(gaps) == pytest.approx(1 / 20, rel=0.15)
        variation = statistics.stdev(gaps) / statistics.fmean(gaps)
        assert variation == pytest.approx(1 / math.sqrt(burstiness), rel=0.15)


@settings(max_examples=40)
@given(st.builds(
    Traffic,
    num_requests=st.integers(0, 20),
    rate_per_s=st.sampled_from([1.0, 1000.0, math.inf]),
    num_prefixes=st.integers(0, 3),
    prefix_tokens=st.integers(0, 9),
    input_tokens=st.integers(1, 9),
    output_tokens=st.integers(1, 9),
    spread=st.floats(0, 0.9),
    seed=st.integers(0, 9),
))  # fmt: skip
def test_equal_traffic_is_equal_sorted_and_within_its_lengths(traffic):
    arrivals = draw_arrivals(traffic)
    assert arrivals == draw_arrivals(traffic)
    assert len(arrivals) == traffic.num_requests
    assert arrivals == sorted(arrivals, key=lambda one: one.at_s)
    shared = traffic.prefix_tokens if traffic.num_prefixes else 0
    prefixes = {one.token_ids[:shared] for one in arrivals}
    assert len(prefixes) <= max(traffic.num_prefixes, 1)
    for one in arrivals:
        most = math.ceil(traffic.input_tokens * (1 + traffic.spread))
        assert 1 <= len(one.token_ids) - shared <= most
        assert one.max_tokens >= 1
        assert all(3 <= token_id < traffic.vocabulary for token_id in one.token_ids)


@pytest.mark.parametrize("change", [{"rate_per_s": 0}, {"burstiness": -1}, {"input_tokens": 0}])
def test_traffic_that_cannot_be_is_refused(change):
    with pytest.raises(ValueError, match="must be"):
        draw_arrivals(Traffic(**change))


def test_the_figures_of_three_requests():
    outcomes = [
        Outcome(prompt_tokens=10, completion_tokens=3, ttft_s=1, e2el_s=2, itl_s=(0.5, 0.5)),
        Outcome(prompt_tokens=10, cached_tokens=5, completion_tokens=1, ttft_s=0.2, e2el_s=0.2),
        Outcome(error="429: full"),
    ]
    figures = figures_of(outcomes, 4.0, {"ttft": 500, "tpot": 100})
    assert figures == {
        "completed": 2,
        "failed": 1,
        "duration_s": 4.0,
        "total_input_tokens": 20,
        "total_output_tokens": 4,
        "cached_input_share": 0.25,
        "request_throughput_per_s": 0.5,
        "output_throughput_tokens_per_s": 1.0,
        "total_throughput_tokens_per_s": 6.0,
        **{"mean_ttft_ms": 600, "median_ttft_ms": 600, "p99_ttft_ms": 1000},
        **{"mean_tpot_ms": 500, "median_tpot_ms": 500, "p99_tpot_ms": 500},
        **{"mean_itl_ms": 500, "median_itl_ms": 500, "p99_itl_ms": 500},
        **{"mean_e2el_ms": 1100, "median_e2el_ms": 1100, "p99_e2el_ms": 2000},
        "request_goodput_per_s": 0.25,
    }
    assert [percentile(range(1, 101), share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]


@pytest.fixture
def runtime():
    return StubRuntime(generator=FakeGenerator(max_answer_tokens=99), text=load_test_text())


async def test_what_the_client_counts_is_what_the_server_and_the_library_did(runtime):
    arrivals = draw_arrivals(TRAFFIC)
    async with serve_runtime(runtime) as served:
        outcomes, seconds = await send_all(served.url, "fake", arrivals, max_concurrency=2)
    assert not any(one.error for one in outcomes)
    assert runtime.generator.max_running <= 2
    assert [one.prompt_tokens for one in outcomes] == [len(one.token_ids) for one in arrivals]
    assert [one.completion_tokens for one in outcomes] == [4] * 6
    assert all(len(one.itl_s) == 3 and 0 < one.ttft_s <= one.e2el_s for one in outcomes)
    library, _ = await generate_all(FakeGenerator(), arrivals, max_concurrency=2)
    for name in ("prompt_tokens", "completion_tokens"):
        assert [getattr(a, name) for a in library] == [getattr(b, name) for b in outcomes]
    assert figures_of(outcomes, seconds, {})["completed"] == 6


async def test_failures_are_counted_with_their_reason(runtime):
    async with serve_runtime(runtime) as served:
        arrivals = draw_arrivals(TRAFFIC)
        refused, _ = await send_all(served.url, "other", arrivals[:1])
        url = served.url
    closed, _ = await send_all(url, "fake", arrivals[:1])
    assert refused[0].error.startswith("404")
    assert "ClientConnectorError" in closed[0].error


@pytest.mark.parametrize("rate", [4.0, math.inf])
def test_other_clients_get_the_same_lengths_or_are_said_to_be_missing(rate, capsys, monkeypatch):
    for tool in TOOLS:
        command = tool_command(tool, "http://x", "m", Traffic(rate_per_s=rate, input_tokens=77))
        assert command[0] == tool
        assert any("77" in word for word in command)
    monkeypatch.setenv("PATH", "")
    assert drive_with("vllm", "http://x", "m", Traffic()) == 1
    assert "not installed" in capsys.readouterr().out


async def test_the_words_of_vllm_bench_serve_for_chats_get_what_it_reads(runtime):
    """Its openai-chat backend: parts of text, `max_completion_tokens`, usage in the last chunk."""
    body = {
        "model": "fake",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "temperature": 0.0,
        "max_completion_tokens": 5,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with serve_runtime(runtime) as served:
        answer = await served.post("/v1/chat/completions", body)
    *chunks, done = answer.events()
    assert done == "[DONE]"
    texts = [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]]
    assert sum(bool(text) for text in texts) == 5
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")] == [5]
    assert chunks[-1]["choices"] == []
