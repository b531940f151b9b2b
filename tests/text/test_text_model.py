"""Reading a folder's text files: where each thing comes from, and what is refused."""

import json
import shutil

import pytest

from helium_jax.builtin import tiny_folder
from helium_jax.errors import RequestError
from helium_jax.text import load_text
from helium_jax.types import SamplingParams

MESSAGES = [{"role": "user", "content": "a"}]


@pytest.fixture
def folder(tmp_path):
    """helium-tiny's text files, to be changed."""
    with tiny_folder() as source:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / name, tmp_path / name)
    return tmp_path


def write(path, value) -> None:
    path.write_text(json.dumps(value))


def change_settings(folder, **changes) -> None:
    path = folder / "tokenizer_config.json"
    write(path, json.loads(path.read_text()) | changes)


def test_a_conversation_ends_where_the_answer_begins(tiny):
    text = tiny.decode(tiny.encode_chat(MESSAGES), skip_special_tokens=False)
    assert text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


def test_tiny_stops_at_the_end_of_its_message(tiny):
    assert tiny.eos_token_ids == {tiny.tokenizer.id_of("<|im_end|>")}


def test_the_template_file_comes_before_the_settings(folder):
    (folder / "chat_template.jinja").write_text("file: {{ messages[0].content }}")
    assert load_text(folder).decode(load_text(folder).encode_chat(MESSAGES)) == "file: a"


def test_the_default_of_several_templates_is_used(folder):
    named = [
        {"name": "tool_use", "template": "no"},
        {"name": "default", "template": "yes {{ eos_token }}"},
    ]
    change_settings(folder, chat_template=named, eos_token={"content": "<|endoftext|>"})
    text = load_text(folder)
    assert text.decode(text.encode_chat(MESSAGES), skip_special_tokens=False) == (
        "yes <|endoftext|>"
    )


def test_a_model_without_a_template_refuses_conversations(folder):
    change_settings(folder, chat_template=None)
    text = load_text(folder)
    assert text.encode("a")
    with pytest.raises(RequestError, match="no chat template"):
        text.encode_chat(MESSAGES)


def test_ends_of_sequence_come_from_the_first_file_that_has_them(folder):
    assert load_text(folder).eos_token_ids == {2}, "the tokenizer's own"
    write(folder / "config.json", {"eos_token_id": 7})
    assert load_text(folder).eos_token_ids == {7}
    write(folder / "generation_config.json", {"eos_token_id": [8, 9]})
    assert load_text(folder).eos_token_ids == {8, 9}


def test_sampling_follows_the_generation_config(folder):
    path = folder / "generation_config.json"
    assert load_text(folder).sampling == SamplingParams()
    write(path, {"do_sample": True, "top_k": 20, "top_p": 0.8})
    assert load_text(folder).sampling == SamplingParams(temperature=1.0, top_k=20, top_p=0.8)
    write(path, {"do_sample": False, "temperature": 0.6})
    assert load_text(folder).sampling == SamplingParams()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", "{", "tokenizer_config.json is not valid JSON"),
        ("generation_config.json", "[]", "generation_config.json holds no JSON object"),
        ("generation_config.json", '{"top_p": "x"}', "top_p='x' is no number"),
        ("tokenizer_config.json", '{"chat_template": 3}', "chat_template is no text"),
        ("chat_template.jinja", "{% if %}", "not valid Jinja"),
    ],
)
def test_names_the_file_that_is_wrong(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(RequestError, match=message):
        load_text(folder)


def test_names_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(RequestError, match="nowhere does not exist"):
        load_text(tmp_path / "nowhere")
