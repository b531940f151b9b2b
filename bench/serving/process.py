"""`helium-jax serve` as a process of its own, for as long as a context lasts."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench.harness import ROOT

START_S = 600.0


@dataclass(slots=True, kw_only=True)
class ServerProcess:
    """A running server.

    Attributes:
        popen: the process.
        url: without a path.
        said: what it has printed so far, by line.
    """

    popen: "subprocess.Popen[str]"
    url: str = ""
    said: list[str] = field(default_factory=list)

    @property
    def model(self) -> str:
        """The name of its model."""
        with urllib.request.urlopen(f"{self.url}/v1/models", timeout=30) as response:
            return json.load(response)["data"][0]["id"]

    def metrics(self) -> dict[str, float]:
        """Its metrics by name with labels."""
        return read_metrics(self.url)

    def end(self, timeout_s: float = 60.0) -> int:
        """Asks it to end as an operator does; the exit code."""
        self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()


def read_metrics(url: str) -> dict[str, float]:
    """The metrics of a server by name with labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


@contextlib.contextmanager
def serve(args: Sequence[str]) -> Iterator[ServerProcess]:
    """Starts a server on a free port and waits until it listens.

    Raises:
        RuntimeError: it ended instead; says what it printed.
    """
    command = [sys.executable, "-m", "helium_jax.cli.main", "serve", "--port=0", *args]
    popen = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    server = ServerProcess(popen=popen)
    listening = threading.Event()

    def read() -> None:
        assert popen.stderr is not None
        for line in popen.stderr:
            server.said.append(line)
            if found := re.search(r"(http://[^ /]+)/v1/", line):
                server.url = found[1]
                listening.set()
        listening.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        listening.wait(START_S)
        if not server.url:
            raise RuntimeError(f"the server did not start: {''.join(server.said)}")
        yield server
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait()
        reader.join()
        assert popen.stderr is not None
        popen.stderr.close()
