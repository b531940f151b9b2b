"""POST /v1/chat/completions: whole and streamed answers, usage, choices, log-probabilities."""

import asyncio

import pytest

from helium_jax.errors import CapacityError, InternalError
from helium_jax.testing import FakeGenerator


def spell(text, words):
    """A reply function that always says `words`."""
    return lambda request: tuple(text.encode(words, add_special_tokens=False))


async def test_an_answer_has_openais_shape(serve, text):
    async with serve(FakeGenerator(reply=spell(text, "hello"))) as served:
        answer = await served.chat()
        assert answer.status == 200
        body = answer.json()
        assert body["object"] == "chat.completion"
        assert body["id"].startswith("chatcmpl-")
        assert body["model"] == "fake"
        assert body["choices"] == [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ]
        assert "warnings" not in body


async def test_usage_adds_up_and_counts_cached_tokens(serve):
    async with serve() as served:
        long = [{"role": "user", "content": "many words " * 20}]
        first = (await served.chat(messages=long)).json()["usage"]
        second = (await served.chat(messages=long)).json()["usage"]
        assert first["prompt_tokens_details"] == {"cached_tokens": 0}
        assert second["prompt_tokens_details"]["cached_tokens"] > 0
        for usage in (first, second):
            ours = usage["helium"]
            assert set(ours) == {"computed", "kv_cached", "result_cached"}
            assert sum(ours.values()) == usage["prompt_tokens"]
            assert ours["kv_cached"] == usage["prompt_tokens_details"]["cached_tokens"]
            assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_a_stream_says_what_the_whole_answer_says(serve):
    async with serve() as served:
        whole = (await served.chat()).json()
        answer = await served.chat(stream=True, stream_options={"include_usage": True})
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        *chunks, done = answer.events()
        assert done == "[DONE]"
        *chunks, last = chunks
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert all(chunk["usage"] is None for chunk in chunks)
        assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
        assert len({chunk["id"] for chunk in chunks}) == 1
        deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
        assert "".join(deltas) == whole["choices"][0]["message"]["content"]
        reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
        assert reasons == [None] * (len(chunks) - 1) + [whole["choices"][0]["finish_reason"]]
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


async def test_without_include_usage_no_chunk_has_usage(serve):
    async with serve() as served:
        *chunks, done = (await served.chat(stream=True)).events()
        assert done == "[DONE]"
        assert not any("usage" in chunk for chunk in chunks)
        assert all(chunk["choices"] for chunk in chunks)


async def test_usage_so_far_comes_with_every_chunk_if_asked_for(serve):
    async with serve() as served:
        options = {"include_usage": True, "continuous_usage_stats": True}
        *chunks, _ = (await served.chat(stream=True, stream_options=options)).events()
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts == sorted(counts)
        assert counts[0] == 1
        assert all(
            sum(chunk["usage"]["helium"].values()) == chunk["usage"]["prompt_tokens"]
            for chunk in chunks
        )


async def test_n_answers_run_side_by_side_and_the_prompt_counts_once(serve):
    gate = asyncio.Event()

    async def wait_for_all(request, num_sent):
        if len(generator.running) == 3:
            gate.set()
        await gate.wait()

    generator = FakeGenerator(before_event=wait_for_all)
    async with serve(generator) as served:
        body = (await served.chat(n=3, temperature=1, seed=5)).json()
        assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
        assert len({choice["message"]["content"] for choice in body["choices"]}) == 3
        assert [request.sampling.seed for request in generator.requests] == [5, 6, 7]
        one = (await served.chat(n=1, temperature=1, seed=5)).json()
        assert one["choices"][0]["message"] == body["choices"][0]["message"]
        assert one["usage"]["prompt_tokens"] == body["usage"]["prompt_tokens"]


async def test_streamed_answers_keep_their_indices(serve):
    async with serve() as served:
        fields = {"n": 3, "temperature": 1, "seed": 9}
        whole = (await served.chat(**fields)).json()
        *chunks, _ = (await served.chat(stream=True, **fields)).events()
        texts = ["", "", ""]
        finished = []
        for chunk in chunks:
            (choice,) = chunk["choices"]
            texts[choice["index"]] += choice["delta"].get("content", "")
            if choice["finish_reason"]:
                finished.append(choice["index"])
        assert texts == [choice["message"]["content"] for choice in whole["choices"]]
        assert sorted(finished) == [0, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_answer_before_it_and_cancels_the_rest(serve, text, stream):
    generator = FakeGenerator(reply=spell(text, "one two three four"))
    async with serve(generator) as served:
        warm = await served.chat(max_tokens=50)
        assert warm.status == 200
        fields = {"max_tokens": 50, "stop": ["zzz", " three"], "stream": stream}
        if stream:
            fields["stream_options"] = {"include_usage": True}
        answer = await served.chat(**fields)
        if stream:
            *chunks, last, _ = answer.events()
            content = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
            reason, usage = chunks[-1]["choices"][0]["finish_reason"], last["usage"]
        else:
            (choice,) = answer.json()["choices"]
            content, reason = choice["message"]["content"], choice["finish_reason"]
            usage = answer.json()["usage"]
        assert (content, reason) == ("one two", "stop")
        assert usage["completion_tokens"] < len("one two three four")
        assert usage["prompt_tokens_details"]["cached_tokens"] > 0
        assert len(generator.cancelled) == 1
        assert not generator.running


async def test_a_stop_string_can_be_kept(serve, text):
    async with serve(FakeGenerator(reply=spell(text, "one two three four"))) as served:
        answer = await served.chat(max_tokens=50, stop=" two", include_stop_str_in_output=True)
        assert answer.json()["choices"][0]["message"]["content"] == "one two"


async def test_the_template_gets_its_variables(serve, text):
    async with serve() as served:
        answer = await served.chat(chat_template_kwargs={"mood": "gloomy"})
        assert answer.status == 200
        (request,) = served.generator.requests
        assert text.decode(request.token_ids).endswith("assistant: gloomy")


async def test_a_stop_string_over_many_tokens_is_never_half_shown(serve, text):
    async with serve(FakeGenerator(reply=spell(text, "abcENdENDxyz"))) as served:
        *chunks, _ = (await served.chat(max_tokens=50, stop="END", stream=True)).events()
        shown = [c["choices"][0]["delta"].get("content", "") for c in chunks]
        assert "".join(shown) == "abcENd"


async def test_characters_of_several_tokens_arrive_whole(serve, text):
    async with serve(FakeGenerator(reply=spell(text, "naïve 😀 日本"))) as served:
        answer = await served.chat(max_tokens=100, stream=True)
        *chunks, _ = answer.events()
        shown = [c["choices"][0]["delta"].get("content", "") for c in chunks]
        assert "".join(shown) == "naïve 😀 日本"
        assert not any("\ufffd" in one for one in shown)


async def test_logprobs_cover_every_token(serve):
    async with serve() as served:
        fields = {"logprobs": True, "top_logprobs": 3, "max_tokens": 4, "ignore_eos": True}
        body = (await served.chat(**fields)).json()
        content = body["choices"][0]["logprobs"]["content"]
        assert len(content) == body["usage"]["completion_tokens"] == 4
        for entry in content:
            assert entry["token"] == bytes(entry["bytes"]).decode()
            assert len(entry["top_logprobs"]) == 3
            assert entry["top_logprobs"][0]["token"] == entry["token"]
            assert entry["logprob"] <= 0
        *chunks, _ = (await served.chat(stream=True, **fields)).events()
        streamed = [
            entry
            for chunk in chunks
            if chunk["choices"][0]["logprobs"]
            for entry in chunk["choices"][0]["logprobs"]["content"]
        ]
        assert streamed == content


async def test_every_parameter_reaches_the_engine(serve):
    async with serve() as served:
        await served.chat(
            temperature=0.5,
            top_p=0.9,
            top_k=40,
            min_p=0.1,
            seed=-1,
            presence_penalty=1,
            frequency_penalty=-1,
            repetition_penalty=1.2,
            logit_bias={"65": -100, "66": 1.5},
            min_tokens=2,
            ignore_eos=True,
            stop_token_ids=[99, 99, 98],
            priority=-3,
            max_tokens=None,
            max_completion_tokens=7,
        )
        (request,) = served.generator.requests
        sampling = request.sampling
        assert request.priority == -3
        assert sampling.max_tokens == 7
        assert sampling.min_tokens == 2
        assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 40)
        assert sampling.min_p == 0.1
        assert sampling.seed == 2**63 - 1
        assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -1)
        assert sampling.repetition_penalty == 1.2
        assert sampling.logit_bias == ((65, -100), (66, 1.5))
        assert sampling.ignore_eos
        assert sampling.stop_token_ids == (99, 98)


async def test_null_means_the_default(serve):
    async with serve() as served:
        names = ("temperature", "top_p", "n", "stop", "seed", "max_tokens", "stream", "tools")
        answer = await served.chat(**dict.fromkeys(names))
        assert answer.status == 200
        (request,) = served.generator.requests
        assert request.sampling.temperature == 0.7, "as generation_config.json says"
        assert request.sampling.top_p == 0.9
        assert request.sampling.max_tokens is None


async def test_text_parts_are_joined_and_developer_is_system(serve, text):
    async with serve() as served:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        await served.chat(
            messages=[{"role": "developer", "content": "x"}, {"role": "user", "content": parts}]
        )
        (request,) = served.generator.requests
        expected = text.encode_chat(
            [{"role": "system", "content": "x"}, {"role": "user", "content": "a\nb"}]
        )
        assert request.token_ids == tuple(expected)


async def test_an_unknown_field_is_named_in_warnings(serve):
    async with serve() as served:
        message = {"role": "user", "content": "x", "colour": "red"}
        body = (await served.chat(foo=1, messages=[message])).json()
        assert body["warnings"] == [
            "messages[0].colour: unknown field, ignored",
            "foo: unknown field, ignored",
        ]
        *chunks, _ = (await served.chat(foo=1, stream=True)).events()
        assert chunks[0]["warnings"] == ["foo: unknown field, ignored"]
        assert not any("warnings" in chunk for chunk in chunks[1:])


async def test_strict_makes_unknown_fields_an_error(serve):
    async with serve(strict=True) as served:
        error = (await served.chat(foo=1)).error
        assert (error["code"], error["param"]) == ("unknown_parameter", "foo")
        assert (await served.chat()).status == 200


async def test_a_full_queue_is_429_also_for_streams(serve):
    generator = FakeGenerator(fail=lambda request, sent: CapacityError("full", retry_after_s=7))
    async with serve(generator) as served:
        for stream in (False, True):
            answer = await served.chat(stream=stream)
            assert answer.status == 429
            assert answer.headers["Retry-After"] == "7"
            assert answer.error["code"] == "server_overloaded"


async def test_a_failure_in_one_answer_fails_its_request_only(serve):
    def fail(request, sent):
        return InternalError("broken") if request.request_id.endswith(".1") else None

    generator = FakeGenerator(fail=fail)
    async with serve(generator) as served:
        broken, fine = await asyncio.gather(served.chat(n=2), served.chat())
        assert (broken.status, broken.error["code"]) == (500, "internal_error")
        assert fine.status == 200
        assert not generator.running


async def test_an_error_after_the_first_byte_ends_the_stream_without_done(serve):
    generator = FakeGenerator(
        fail=lambda request, sent: InternalError("broken") if sent == 2 else None,
        max_answer_tokens=50,
    )
    async with serve(generator) as served:
        answer = await served.chat(stream=True, min_tokens=5)
        assert answer.status == 200
        *chunks, last = answer.events()
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert last["error"]["code"] == "internal_error"


async def test_an_unforeseen_exception_is_a_500_that_tells_nothing(serve):
    def reply(request):
        raise RuntimeError("/secret/path")

    async with serve(FakeGenerator(reply=reply)) as served:
        answer = await served.chat()
        assert answer.status == 500
        assert "secret" not in answer.body.decode()
        assert answer.error["code"] == "internal_error"


async def test_silent_streams_are_pinged(serve):
    async def slowly(request, num_sent):
        await asyncio.sleep(0.08)

    async with serve(FakeGenerator(before_event=slowly), ping_interval_s=0.02) as served:
        answer = await served.chat(stream=True, max_tokens=2)
        assert b": ping\n\n" in answer.body
        assert answer.events()[-1] == "[DONE]"
