"""The benchmarks' own logic, without an engine: workloads, the driver, agreement of tokens."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _root_on_path(monkeypatch):
    """bench/ is run from the root, never installed."""
    monkeypatch.syspath_prepend(str(ROOT))


def load(name):
    return importlib.import_module(f"bench.{name}")


class Echo:
    """An engine that answers prompt[0], prompt[0] + 1, ..., the newest call first."""

    def __init__(self, *, tells_ids=True, stops_after=None):
        self.prompts = {}
        self.num_polls = 0
        self._running = []
        self._tells_ids = tells_ids
        self._stops_after = stops_after

    def submit(self, key, prompt, max_tokens):
        self.prompts[key] = list(prompt)
        count = max_tokens if self._stops_after is None else self._stops_after
        self._running.append((key, [prompt[0] + i for i in range(count)]))

    def poll(self):
        self.num_polls += 1
        key, ids = self._running.pop()
        given = ids if self._tells_ids else None
        return [load("driver").Ended(key=key, num_tokens=len(ids), ids=given)]

    def counters(self):
        return {"polls": self.num_polls}

    def close(self): ...


def make_calls(*fields):
    return [
        load("workloads").Call(key=key, prompt=prompt, max_tokens=max_tokens, after=after)
        for key, prompt, max_tokens, after in fields
    ]


def test_a_call_waits_for_its_inputs_and_gets_their_outputs_in_order():
    calls = make_calls((2, (50,), 1, (0, 1)), (0, (10,), 2, ()), (1, (20, 21), 1, ()))
    engine = Echo()
    run = load("driver").run_calls(engine, calls)
    assert run.outputs == {0: [10, 11], 1: [20], 2: [50]}
    assert engine.prompts[2] == [50, 10, 11, 20]
    assert list(engine.prompts) == [0, 1, 2]
    assert run.counters == {"polls": 3}


def test_an_engine_that_stops_early_is_not_compared():
    with pytest.raises(RuntimeError, match="call 0 ended after 1 of 2 tokens"):
        load("driver").run_calls(Echo(stops_after=1), make_calls((0, (1,), 2, ())))


def test_a_workflow_needs_the_ids_of_outputs():
    calls = make_calls((0, (1,), 1, ()), (1, (2,), 1, (0,)))
    with pytest.raises(RuntimeError, match="tells no token ids"):
        load("driver").run_calls(Echo(tells_ids=False), calls)
    run = load("driver").run_calls(Echo(tells_ids=False), calls[:1])
    assert run.outputs == {0: None}


@pytest.mark.parametrize("scale", ["full", "small"])
def test_workloads_are_the_same_for_a_seed_and_share_nothing_between_seeds(scale):
    workloads = load("workloads")
    for make in workloads.SCALES[scale]:
        case = make(32_000, 1)
        assert case == make(32_000, 1)
        other = make(32_000, 2)
        assert other.name == case.name
        assert not {c.prompt[:8] for c in case.calls} & {c.prompt[:8] for c in other.calls}
        keys = [call.key for call in case.calls]
        assert keys == list(range(len(keys)))
        assert all(i in keys for call in case.calls for i in call.after)
        ids = [i for call in case.calls for i in call.prompt]
        assert min(ids) >= workloads.FIRST_ID
        assert max(ids) < 32_000


def test_the_named_workloads_have_the_stated_shapes():
    workloads = load("workloads")
    shared = workloads.shared_prefix()(32_000, 0)
    assert {len(call.prompt) for call in shared.calls} == {256}
    assert len({call.prompt[:192] for call in shared.calls}) == 1
    assert len({call.prompt[:193] for call in shared.calls}) == 32
    assert shared.counted_tokens == 32 * 64
    reduce = workloads.map_reduce()(32_000, 0)
    assert len(reduce.calls) == 8 * 9
    assert len({call.prompt[:400] for call in reduce.calls}) == 8
    summaries = [call for call in reduce.calls if call.after]
    assert [len(call.after) for call in summaries] == [8] * 8


def test_agreement_counts_tokens_up_to_the_first_difference():
    harness, peers = load("harness"), load("bench_peers")

    def answer(**outputs):
        return harness.Answer(wall_s=1.0, outputs=outputs, counters={})

    ours = answer(a=[1, 2, 3, 4], b=[5, 6])
    assert peers.compare(ours, ours) == peers.Agreement(equal_calls=1.0, equal_tokens=1.0)
    found = peers.compare(ours, answer(a=[1, 2, 9, 4], b=[5, 6]))
    assert found == peers.Agreement(equal_calls=0.5, equal_tokens=4 / 6)
    assert peers.compare(ours, answer(a=[1, 2, 3, 4], b=None)) is None


def test_a_worker_that_cannot_start_is_named():
    harness = load("harness")
    with (
        pytest.raises(RuntimeError, match="broken ended with exit code"),
        harness.open_worker("openai", "m", {}, python=sys.executable, name="broken"),
    ):
        pass


def test_results_are_lines_with_where_and_when(tmp_path, capsys):
    import json

    recorder = load("harness").Recorder("subject", tmp_path)
    recorder.record("case", "us", median_s=0.123456789, rounds=3)
    line = json.loads(recorder.path.read_text())
    assert line["median_s"] == 0.1235
    assert {"subject", "case", "implementation", "device", "jax", "commit", "date"} <= line.keys()
    assert "median_s=0.1235" in capsys.readouterr().out


def test_the_commands_explain_themselves():
    for module in ("bench.bench_engine", "bench.bench_peers", "bench.worker"):
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "--model" in done.stdout
