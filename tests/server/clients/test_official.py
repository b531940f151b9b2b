"""The openai and anthropic clients before the real engine: text, streams, what it cost."""

import anthropic
import openai
import pytest

ASKED = [{"role": "user", "content": "Rome?"}]


@pytest.mark.shows(client="anthropic", endpoint="POST /v1/messages", what="sync, real engine")
def test_anthropics_client(live):
    with anthropic.Anthropic(base_url=live.url, api_key=live.key, max_retries=0) as client:
        fields = {"model": live.model, "messages": ASKED, "extra_body": {"temperature": 0}}
        whole = client.messages.create(**fields, max_tokens=6)
        with client.messages.stream(**fields, max_tokens=6) as stream:
            streamed = stream.get_final_message()
        assert streamed.content[0].text == whole.content[0].text
        cost = whole.usage
        counted = client.messages.count_tokens(model=live.model, messages=ASKED).input_tokens
        assert cost.input_tokens + cost.cache_read_input_tokens == counted


@pytest.mark.shows(client="openai", endpoint="POST /v1/responses", what="sync, real engine")
def test_openais_client_on_responses(live):
    with openai.OpenAI(base_url=live.url + "/v1", api_key=live.key, max_retries=0) as client:
        fields = {"model": live.model, "temperature": 0}
        whole = client.responses.create(**fields, input=ASKED, max_output_tokens=6)
        *_, last = client.responses.create(**fields, input=ASKED, max_output_tokens=6, stream=True)
        assert last.response.output_text == whole.output_text
        for response in (whole, last.response):
            assert sum(response.usage.helium.values()) == response.usage.input_tokens
        after = client.responses.create(
            **fields, input="Oslo?", previous_response_id=whole.id, max_output_tokens=6
        )
        assert after.usage.input_tokens > whole.usage.total_tokens
        client.responses.delete(whole.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(whole.id)
