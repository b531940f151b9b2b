"""POST /v1/completions: four forms of prompts, echo, the older log-probabilities."""

import pytest

from helium_jax.testing import FakeGenerator


async def test_an_answer_has_openais_shape(serve):
    async with serve() as served:
        body = (await served.complete()).json()
        assert body["object"] == "text_completion"
        assert body["id"].startswith("cmpl-")
        (choice,) = body["choices"]
        assert choice["index"] == 0
        assert choice["text"]
        assert choice["logprobs"] is None
        assert choice["finish_reason"] in ("stop", "length")


async def test_text_and_its_token_ids_are_the_same_prompt(serve, text):
    async with serve() as served:
        ids = list(text.encode("Once upon", add_special_tokens=True))
        forms = ["Once upon", ["Once upon"], ids, [ids]]
        answers = [(await served.complete(prompt=form)).json() for form in forms]
        assert len({answer["choices"][0]["text"] for answer in answers}) == 1
        assert len({request.token_ids for request in served.generator.requests}) == 1


async def test_choices_of_many_prompts_are_numbered_prompt_by_prompt(serve):
    async with serve() as served:
        prompts = ["aa", "bb", "cc"]
        body = (await served.complete(prompt=prompts, n=2)).json()
        assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3, 4, 5]
        alone = [(await served.complete(prompt=prompt)).json() for prompt in prompts]
        texts = [choice["text"] for choice in body["choices"]]
        assert texts[::2] == texts[1::2] == [one["choices"][0]["text"] for one in alone]
        assert body["usage"]["prompt_tokens"] == sum(one["usage"]["prompt_tokens"] for one in alone)


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_puts_each_prompt_before_its_answer(serve, stream):
    async with serve() as served:
        fields = {"prompt": ["Once upon", "a time"]}
        plain = [c["text"] for c in (await served.complete(**fields)).json()["choices"]]
        answer = await served.complete(echo=True, stream=stream, **fields)
        texts = ["", ""]
        for event in answer.events()[:-1] if stream else [answer.json()]:
            for choice in event["choices"]:
                texts[choice["index"]] += choice["text"]
        assert texts == ["Once upon" + plain[0], "a time" + plain[1]]


async def test_echo_of_token_ids_is_their_text(serve, text):
    async with serve() as served:
        ids = list(text.encode("Once upon", add_special_tokens=False))
        body = (await served.complete(prompt=ids, echo=True)).json()
        assert body["choices"][0]["text"].startswith("Once upon")


async def test_sixteen_tokens_are_the_default(serve):
    async with serve(FakeGenerator(max_answer_tokens=100)) as served:
        body = (await served.complete(max_tokens=None, ignore_eos=True)).json()
        assert body["usage"]["completion_tokens"] == 16


async def test_a_stream_says_what_the_whole_answer_says(serve):
    async with serve() as served:
        whole = (await served.complete()).json()
        answer = await served.complete(stream=True, stream_options={"include_usage": True})
        *chunks, last, done = answer.events()
        assert done == "[DONE]"
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        assert text == whole["choices"][0]["text"]
        reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
        assert reasons == [None] * (len(chunks) - 1) + [whole["choices"][0]["finish_reason"]]
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


async def test_logprobs_come_as_parallel_lists(serve):
    async with serve() as served:
        fields = {"logprobs": 2, "max_tokens": 4, "ignore_eos": True}
        body = (await served.complete(**fields)).json()
        (choice,) = body["choices"]
        logprobs = choice["logprobs"]
        assert "".join(logprobs["tokens"]) == choice["text"]
        assert logprobs["text_offset"] == [0, 1, 2, 3]
        assert all(value <= 0 for value in logprobs["token_logprobs"])
        assert [len(top) for top in logprobs["top_logprobs"]] == [2, 2, 2, 2]
        *chunks, _ = (await served.complete(stream=True, **fields)).events()
        parts = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
        joined = {key: [one for part in parts for one in part[key]] for key in logprobs}
        assert joined == logprobs


async def test_parts_of_a_character_have_names_of_their_own(serve, text):
    generator = FakeGenerator(
        reply=lambda request: tuple(text.encode("é", add_special_tokens=False))
    )
    async with serve(generator) as served:
        body = (await served.complete(logprobs=0, max_tokens=2)).json()
        (choice,) = body["choices"]
        assert choice["text"] == "é"
        assert choice["logprobs"]["tokens"] == ["bytes:\\xc3", "bytes:\\xa9"]


async def test_best_of_equal_to_n_is_just_n(serve):
    async with serve() as served:
        assert len((await served.complete(n=2, best_of=2)).json()["choices"]) == 2
