"""Signals to a real process that serves a fake generator, and the end of its engine."""

import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request

import pytest

# Answers requests at once unless they ask for more than one token: those wait `hold_s`. The prompts
# "die" and "hang" do that to the engine.
SCRIPT = textwrap.dedent(
    """
    import asyncio, sys
    from dataclasses import replace
    from tests.server.conftest import StubRuntime, load_test_text
    from helium_jax.cli.signals import serve_until_signal
    from helium_jax.server import ServerConfig, make_app, start_server
    from helium_jax.server.watchdog import watch_engine
    from helium_jax.testing import FakeGenerator

    hold_s, timeout_s = float(sys.argv[1]), float(sys.argv[2])

    class Mortal(FakeGenerator):
        age_s = 0.0

        def statistics(self):
            return tuple(
                replace(one, last_step_age_seconds=self.age_s) for one in super().statistics()
            )

    async def hold(request, num_sent):
        text = bytes(i for i in request.token_ids if i < 256)
        if b"die" in text:
            generator.kill(0)
        if b"hang" in text:
            generator.age_s = 1e6
            await asyncio.sleep(60)
        if num_sent == 1:
            await asyncio.sleep(hold_s)

    generator = Mortal(before_event=hold)

    async def main():
        config = ServerConfig(port=0)
        runtime = StubRuntime(generator=generator, text=load_test_text())
        server = await start_server(make_app(runtime, config), config)
        print(server.port, flush=True)
        return await serve_until_signal(
            server,
            timeout_s,
            lambda text: print(text, flush=True),
            watch=watch_engine(generator, max_stall_s=60.0),
            farewell_s=0.5,
        )

    sys.exit(asyncio.run(main()))
    """
)
RUNNING = 'helium:num_requests_running{worker="0"} 1.0'
BODY = {"model": "fake", "prompt": "Hi", "min_tokens": 2, "max_tokens": 2}


class Process:
    """The serving process and a request to it."""

    def __init__(self, hold_s, timeout_s):
        self.popen = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(hold_s), str(timeout_s)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.popen.stdout.readline())
        self.answers = []

    def ask(self, **change):
        """(status, code of the error or None)"""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions",
            data=json.dumps({**BODY, **change}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, None
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)["error"]["code"]
        except OSError:
            return "cut off", None

    def ask_in_background(self):
        thread = threading.Thread(target=lambda: self.answers.append(self.ask()))
        thread.start()
        self.wait_for(RUNNING)
        return thread

    def wait_for(self, line):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as response:
                if line in response.read().decode():
                    return
            time.sleep(0.02)
        raise AssertionError(f"never saw {line}")

    def end(self):
        """The exit code and what was printed."""
        out, _ = self.popen.communicate(timeout=20)
        return self.popen.returncode, out


@pytest.fixture
def start():
    started = []

    def make(hold_s=0.0, timeout_s=20.0):
        started.append(Process(hold_s, timeout_s))
        return started[-1]

    yield make
    for process in started:
        process.popen.kill()
        process.popen.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_with_zero(start, number):
    process = start()
    assert process.ask() == (200, None)
    process.popen.send_signal(number)
    code, out = process.end()
    assert code == 0
    assert "shutting down" in out


def test_running_work_ends_new_work_is_refused_and_the_exit_is_clean(start):
    process = start(hold_s=1.5)
    thread = process.ask_in_background()
    process.popen.send_signal(signal.SIGTERM)
    assert "shutting down" in process.popen.stdout.readline()
    assert process.ask() == (503, "shutting_down")
    thread.join()
    assert process.answers == [(200, None)]
    assert process.end()[0] == 0


def test_work_over_its_time_is_told_and_the_exit_says_so(start):
    process = start(hold_s=60, timeout_s=0.2)
    thread = process.ask_in_background()
    process.popen.send_signal(signal.SIGTERM)
    thread.join()
    assert process.answers == [(503, "shutting_down")]
    code, out = process.end()
    assert code == 1
    assert "cut off" in out


def test_a_second_signal_ends_at_once(start):
    process = start(hold_s=60, timeout_s=60)
    thread = process.ask_in_background()
    process.popen.send_signal(signal.SIGTERM)
    assert "shutting down" in process.popen.stdout.readline()
    process.popen.send_signal(signal.SIGINT)
    assert process.end()[0] == 128 + signal.SIGINT
    thread.join()
    assert process.answers == [("cut off", None)]


def test_a_dead_engine_ends_the_process_after_everybody_was_told(start):
    process = start(hold_s=60)
    thread = process.ask_in_background()
    status, code = process.ask(prompt="die", max_tokens=1, min_tokens=1)
    assert (status, code) == (500, "worker_failed")
    thread.join()
    assert process.answers == [(503, "shutting_down")]
    code, out = process.end()
    assert code == 1
    assert "the engine has ended" in out


def test_an_engine_that_hangs_while_the_server_drains_ends_the_wait(start):
    process = start(hold_s=60, timeout_s=60)
    thread = process.ask_in_background()
    asked = threading.Thread(target=lambda: process.ask(prompt="hang"))
    asked.start()
    process.wait_for('helium:num_requests_running{worker="0"} 2.0')
    process.popen.send_signal(signal.SIGTERM)
    assert process.end()[0] == 1
    thread.join()
    asked.join()
    assert process.answers == [(503, "shutting_down")]
