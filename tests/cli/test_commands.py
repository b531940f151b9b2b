"""chat, doctor, convert and serve on a tiny random model, and on input that is wrong."""

import contextlib
import io
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import openai
import pytest

from helium_jax.cli.main import main
from helium_jax.executor.journal import Journal

# The engine options of the server's tests, whose programs are in the compile cache already.
ENGINE = (
    "--page-size=16",
    "--num-pages=64",
    "--max-seqs=4",
    "--max-batched-tokens=16",
    "--deterministic",
)


def test_chat_answers_one_message_on_stdout_alone(model_folder, capsys):
    args = ["chat", "--model", str(model_folder), "--max-tokens=5", *ENGINE]
    assert main([*args, "-m", "Hello", "--system", "Be brief."]) == 0
    first = capsys.readouterr()
    assert main([*args, "-m", "Hello", "--system", "Be brief."]) == 0
    second = capsys.readouterr()
    assert first.out == second.out
    assert first.out.endswith("\n")
    assert "you:" not in first.out


def test_chat_goes_on_until_an_empty_line(model_folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nAnd now?\n\nnever asked\n"))
    args = ["chat", "--model", str(model_folder), "--max-tokens=5", *ENGINE]
    assert main(args) == 0
    notes = capsys.readouterr().err
    asked = [line for line in notes.splitlines() if "tokens read" in line]
    assert len(asked) == 2
    assert int(re.search(r"(\d+) of them from the cache", asked[1])[1]) > 0


def test_chat_ends_with_its_input(model_folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello"))
    assert main(["chat", "--model", str(model_folder), "--max-tokens=2", *ENGINE]) == 0


def test_doctor_finds_a_good_model_good(model_folder, capsys):
    assert main(["doctor", "--model", str(model_folder)]) == 0
    out = capsys.readouterr().out
    assert "qwen3" in out
    assert "attention      xla: there is no kernel for 'cpu'" in out
    assert "fault" not in out
    for package in ("jax", "aiohttp", "tokenizers"):
        assert f" {package} " in out


def test_doctor_says_what_a_kernel_did_wrong_in_its_self_check(model_folder, monkeypatch, capsys):
    chosen = ("mosaic_tpu", "the Pallas kernel reads it")
    monkeypatch.setattr(
        "helium_jax.kernels.attention.choose.choose_implementation", lambda *_, **__: chosen
    )
    assert main(["doctor", "--model", str(model_folder)]) == 1  # a CPU cannot compile the kernel
    out = capsys.readouterr().out
    assert "fault attention      xla: not mosaic_tpu: its self-check failed: it failed with" in out


def test_doctor_can_generate(model_folder, capsys):
    assert main(["doctor", "--model", str(model_folder), "--generate"]) == 0
    assert "8 tokens in" in capsys.readouterr().out


def test_doctor_names_what_is_missing(model_folder, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["doctor", "--model", str(broken)]) == 1
    out = capsys.readouterr().out
    assert "fault" in out
    assert "model.safetensors" in out


def test_convert_goes_there_and_back(model_folder, tmp_path):
    orbax, back = tmp_path / "orbax", tmp_path / "back"
    assert main(["convert", str(model_folder), str(orbax)]) == 0
    assert (orbax / "params").is_dir()
    assert main(["convert", str(orbax), str(back)]) == 0
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (back / name).read_bytes() == (model_folder / name).read_bytes()


def test_convert_overwrites_nothing(model_folder, tmp_path, capsys):
    (tmp_path / "precious").write_text("x")
    assert main(["convert", str(model_folder), str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["chat", "--model", "/no/such/folder", "-m", "x"], "/no/such/folder"),
        (["serve", "--model", "no-such-model"], "no-such-model"),
        (["chat", "-m", " "], "--message is empty"),
        (["serve", "--api-key", ""], "--api-key is empty"),
        (["convert", "/no/such/folder", "/tmp/x"], "/no/such/folder"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(args, told, capsys):
    assert main(args) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err


def test_a_damaged_model_is_one_line_although_the_engine_thread_found_it(model_folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    (broken / "model.safetensors").unlink()
    command = [sys.executable, "-m", "helium_jax.cli.main", "chat", "-m", "x"]
    done = subprocess.run(
        [*command, "--model", str(broken), "--compile-cache="],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("helium-jax: error: ")
    assert "model.safetensors" in line


def test_engine_options_that_cannot_be_are_refused(model_folder, capsys):
    args = ["chat", "--model", str(model_folder), "-m", "x", "--page-size=17"]
    assert main(args) == 2
    assert "power of two" in capsys.readouterr().err


@pytest.fixture
def serving(model_folder, pytestconfig):
    """Starts `helium-jax serve` as a process of its own: (process, url, what it printed)."""
    started = []

    def start(*args):
        command = [sys.executable, "-m", "helium_jax.cli.main", "serve", "--model"]
        cache = pytestconfig.cache.mkdir("xla")
        options = [str(model_folder), "--port=0", f"--compile-cache={cache}", *ENGINE, *args]
        process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        started.append(process)
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"try: curl (\S+)/v1/", line):
                return process, found[1], said
        raise AssertionError(said)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_serve_answers_with_a_key_warns_in_public_and_ends_cleanly(serving):
    process, url, said = serving("--api-key=secret", "--name=mine", "--alias=other")
    assert "PUBLIC AND OPEN" not in said
    assert "secret" not in said
    assert f"viewer: {url}/viewer/" in said
    assert re.search(r"^memory: weights .* \+ KV .* \+ scratch .* = .*, .* free$", said, re.M)
    with openai.OpenAI(base_url=url + "/v1", api_key="secret") as client:
        assert [model.id for model in client.models.list()] == ["mine", "other"]
        answer = client.chat.completions.create(
            model="other", messages=[{"role": "user", "content": "Hi"}], max_tokens=3
        )
        assert answer.usage.completion_tokens <= 3
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_signal_while_programs_are_compiled_ends_serve_as_usual(model_folder, tmp_path):
    # Programs are only written once they are compiled: then more of them are on their way.
    cache = tmp_path / "programs"
    command = [sys.executable, "-m", "helium_jax.cli.main", "serve", "--model", str(model_folder)]
    options = ["--port=0", f"--compile-cache={cache}", *ENGINE, "--state-dir", str(tmp_path / "s")]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (cache.exists() and any(cache.iterdir())):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert said == ""


def test_serve_warns_loudly_when_it_is_public_and_open_and_its_curl_line_works(serving):
    process, _, said = serving("--host=0.0.0.0")
    assert "PUBLIC AND OPEN" in said
    (line,) = [line for line in said.splitlines() if line.startswith("try: ")]
    if shutil.which("curl") is not None:
        curl = shlex.split(line.removeprefix("try: "))
        done = subprocess.run(curl, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["choices"][0]["message"]["role"] == "assistant"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_port_in_use_is_told_before_anything_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--model", "random:llama-8b", f"--port={port}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose" in line


@pytest.mark.parametrize("what", ["a file is in its way", "another server has it"])
def test_a_state_folder_that_cannot_be_had_is_told_before_anything_is_loaded(
    tmp_path, capsys, what
):
    folder = tmp_path / "state"
    with contextlib.ExitStack() as stack:
        if what == "a file is in its way":
            folder.write_text("")
            folder /= "inside"
        else:
            stack.callback(Journal(folder).close)
        args = ["serve", "--model", "random:llama-8b", "--port=0", "--state-dir", str(folder)]
        assert main(args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line
    assert "choose another" in line


def test_an_unknown_host_is_told(capsys):
    assert main(["serve", "--host", "no.such.host.invalid"]) == 2
    assert "cannot listen on" in capsys.readouterr().err
